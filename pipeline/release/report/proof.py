"""What is proved, by which command, and what is somebody's word."""

from collections.abc import Iterator

from pipeline.release.disclosures.evidence import Evidence
from pipeline.release.report.markup import Html, code, element, joined, link, listed, paragraph, section, table
from pipeline.release.rungs import Rung

DOCUMENTATION = "../disclosures/model-documentation.md"


def proof_section(evidence: Evidence) -> Html:
    """The section."""
    return section("proof", "What is proved", *_ladder(evidence), *_words(evidence))


def _ladder(evidence: Evidence) -> Iterator[Html]:
    last, model = evidence.trainings[0].checkpoints[-1], evidence.models[0].name
    before = evidence.trainings[0].checkpoints[-2:][0].step
    stretch = f"--model {model} --from {before} --to {last.step}"
    yield paragraph(
        "Verification is a ladder: each rung includes those below it, and each can be climbed by anybody who has the "
        "release and the program. ",
        code("RELEASE"),
        " is the folder or the address of this release.",
    )
    found: dict[Rung, tuple[str, str]] = {
        Rung.FILES: (
            "Every file has the digest that release.json promises.",
            "everystep verify RELEASE --rung files",
        ),
        Rung.CONSISTENT: (
            "The release does not contradict itself: what it says in two places is the same. This page is one of them.",
            "everystep verify RELEASE --rung consistent",
        ),
        Rung.RECOMPUTED: (
            "What follows from the rest was computed again, without training: first weights from their seed, the order "
            "of the rows, every document from its tokens, every removal against its rule, every count.",
            "everystep verify RELEASE",
        ),
        Rung.REPLAYED: (
            "Training again gives the released digests, and evaluation the released numbers, to the last bit.",
            f"everystep replay RELEASE {stretch}",
        ),
        Rung.REBUILT: (
            "The pinned sources give the same rows, and these the same models, from nothing but the project.",
            "make reproduce",
        ),
    }
    yield table(
        "The ladder",
        ["rung", "what was found", "command"],
        (
            [f"{rung.value} {rung.word}", element("div", told, class_="words"), code(command)]
            for rung, (told, command) in found.items()
        ),
    )
    yield paragraph(
        "All of this is about one release, and ",
        code("release.json"),
        " says which. Its SHA-256 is not on this page, because it covers this page: compare it with one from a place "
        "that you trust, or name the key of a signer. The contents digest is that of all files but those that are "
        "written from them, as this page is: ",
        code(evidence.contents),
        ".",
    )
    questions = {
        "Which documents did a step read?": f"everystep trace RELEASE --model {model} --step {last.step}",
        "Which steps read a document?": f"everystep trace RELEASE --model {model} --document ID",
        "Where is a text in the training rows, and who had read it when?": 'everystep search RELEASE "TEXT"',
        "Are the validation losses right?": f"everystep replay RELEASE {stretch} --evaluation",
        "How do two releases or checkpoints differ?": "everystep diff RELEASE OTHER",
    }
    yield table(
        "What else can be asked",
        ["question", "command"],
        ([question, code(command)] for question, command in questions.items()),
        class_="plain",
    )


def _words(evidence: Evidence) -> Iterator[Html]:
    release = evidence.release
    yield element("h3", "What is somebody's word")
    yield paragraph(
        "No computation shows that the following is true. It is said in ",
        code("params.yaml"),
        f", by {release.publisher}:",
    )
    yield listed(
        [
            "what each source is, who issued it, under which licence, and when it was collected",
            "the licence of the release, its title and its limits",
            "why steps of cleaning and their thresholds were chosen",
            joined(["the answers in the ", link(DOCUMENTATION, "disclosures"), " that are marked so"]),
        ],
        class_="prose",
    )
    yield paragraph(
        "Nothing here says when, where or on whose machines the models were trained, because no manifest holds a "
        "clock, a host or a user. That they were trained as the recipes say is what replay proves.",
    )
    yield element("h3", "Limits")
    yield paragraph(f"In the words of {release.publisher}:")
    paragraphs = (paragraph(" ".join(text.split())) for text in release.limits.split("\n\n") if text.strip())
    yield element("blockquote", *paragraphs)
