"""The EU's public summary of training content, and what California's AB 2013 asks, as one tree.

The tree has the keys of corpuscard 0.1.0, which are the sections of the template of 2025-07-24 (C(2025) 5235), so that
`corpuscard check` reads `disclosures/training-content.json`. Where nothing was declared, a field that takes text says
so and a question has no answer: `corpuscard check` then names it. `pipeline.release.disclosures.pages` shows the tree
to people.
"""

from typing import Any

from pipeline.formats.canonical import pretty
from pipeline.release.disclosures.evidence import ArtefactFacts, Evidence
from pipeline.release.disclosures.sentences import cleaning, dependencies, languages, personal_data, selection
from pipeline.release.disclosures.word import NOT_DECLARED, Word, plain, pointers
from pipeline.release.facts import SourceFacts
from pipeline.release.markdown import percent
from pipeline.release.words import Disclosures

Tree = dict[str, Any]
SIZES = (
    (10**9, "Less than 1 billion tokens"),
    (10**13, "1 billion to 10 trillion tokens"),
    (None, "More than 10 trillion tokens"),
)
LARGE = 0.03
"""Share of all public data above which the template wants a data set listed by itself."""
PUBLIC_DOMAIN = ("CC-PDM-1.0", "CC0-1.0", "PDDL-1.0", "Unlicense")
"""SPDX identifiers of what says that no right is reserved."""
TEXT = ["text"]


def write_summary(evidence: Evidence) -> bytes:
    """The tree as `corpuscard` reads it; `declared` has a JSON pointer to each value that is somebody's word."""
    tree = summary(evidence)
    said = {"declared": list(pointers(tree)), "declared_by": evidence.release.publisher}
    return pretty({**_known(plain(tree)), **said})


def summary(evidence: Evidence) -> Tree:
    """Everything that both summaries say."""
    words = evidence.release.disclosures or Disclosures()
    return {
        "version": evidence.release.version,
        "last_update": Word(_short_day(words.updated)),
        "document": _document(words),
        "general_information": _general(evidence, words),
        "data_sources": _sources(evidence, words),
        "data_processing_aspects": _processing(evidence, words),
        "ab2013": _california(evidence, words),
    }


def _document(words: Disclosures) -> Tree:
    """What is asked of the document itself."""
    return {
        "address": Word(words.address),
        "versions": Word(words.versions),
        "changes": Word(words.changes),
    }


def _general(evidence: Evidence, words: Disclosures) -> Tree:
    release = evidence.release
    contact = f"{release.publisher}; {words.contact or 'contact not declared'}"
    return {
        "provider_identification": {
            "provider_name_and_contact": Word(contact),
            "authorised_representative_name_and_contact": Word(words.representative),
        },
        "model_identification": {
            "versioned_model_names": [f"{release.name} {release.version} {model.name}" for model in evidence.models],
            "model_dependencies": dependencies(evidence),
            "date_of_placement_on_union_market": Word(words.union_market),
        },
        "modalities": [
            {"modality": "text", "size_range": _size(evidence.tokens), "types_of_content": Word(words.content)}
        ],
        "latest_data_collection_date": Word(_day(words.latest_data)),
        "continuously_trained_on_new_data": Word(words.continuous),
        "linguistic_characteristics": languages(evidence),
        "other_characteristics": Word(words.characteristics),
        "additional_comments": (
            f"Sizes are of text without compression: {evidence.bytes:,} bytes of UTF-8 in {evidence.documents:,} "
            f"documents. They are {evidence.tokens:,} tokens of the release's own byte-level BPE of "
            f"{evidence.vocabulary:,} tokens, with one token for the end of each document. The models read "
            f"{evidence.tokens_read:,} of them. Which documents a step read follows from the document index."
        ),
    }


def _size(tokens: int) -> str:
    return next(name for limit, name in SIZES if limit is None or tokens < limit)


def _sources(evidence: Evidence, words: Disclosures) -> Tree:
    pairs = list(zip(evidence.sources, evidence.artefacts, strict=True))
    large = [pair for pair in pairs if pair[0].tokens > LARGE * evidence.tokens]
    small = [pair for pair in pairs if pair not in large]
    users = "; ".join(text for text in (words.prompts, words.services) if isinstance(text, str)) or None
    return {
        "publicly_available_datasets": {
            "used": bool(pairs),
            "modalities_covered": TEXT,
            "large_datasets": [_dataset(evidence, *pair) for pair in large],
            "other_datasets_general_description": Word("; ".join(_short(*pair) for pair in small))
            if small
            else "None: every data set is listed above.",
            "additional_comments": "Sizes: "
            + "; ".join(
                f"{source.name} {source.tokens:,} tokens in {source.documents:,} documents" for source, _ in pairs
            )
            + ". Every artefact is pinned by the SHA-256 of its bytes.",
        },
        "private_third_party_datasets": {
            "licensed": {
                "has_licensing_agreements": _yes(words.licensed),
                "modalities_covered": _covered(words.licensed),
                "details": _details(words.licensed),
            },
            "other_third_party": {
                "obtained": _yes(words.private),
                "modalities_covered": _covered(words.private),
                "general_description": _details(words.private),
            },
        },
        "crawled_data": {
            "crawlers_used": _yes(words.crawled),
            "content_and_sources_description": _details(words.crawled),
            "top_domains_summary": _details(words.crawled),
            "modalities_covered": _covered(words.crawled),
        },
        "user_data": {
            "model_interaction_data_used": _yes(words.prompts),
            "other_product_interaction_data_used": _yes(words.services),
            "services_or_products_description": _details(users),
            "modalities_covered": _covered(users),
        },
        "synthetic_data": {
            "used": _yes(words.synthetic),
            "modalities_covered": _covered(words.synthetic),
            "other_generating_models_description": _details(words.synthetic),
        },
        "other_sources": {"used": _yes(words.other), "description": _details(words.other)},
    }


def _dataset(evidence: Evidence, source: SourceFacts, artefact: ArtefactFacts) -> Tree:
    """A data set of the list; its size and what was taken of it are computed."""
    return {
        "identifier_or_name": Word(f"{source.title}: {artefact.identifier}"),
        "link": artefact.link,
        "description": f"{selection(source, artefact)}; {percent(source.tokens / evidence.tokens)} of all tokens",
        "content": Word(artefact.content),
        "license": Word(source.license),
        "languages": artefact.languages,
        "collection_start_date": Word(artefact.collected_from),
        "collection_end_date": Word(artefact.collected_to),
        "sha256": [file.sha256 for file in artefact.files],
    }


def _short(source: SourceFacts, artefact: ArtefactFacts) -> str:
    """The same in a sentence, for a data set too small for the list."""
    period = f"collected {artefact.collected_from or 'not known'} to {artefact.collected_to or 'not known'}"
    return (
        f"{source.title} ({artefact.identifier}, {artefact.link}): {artefact.content or 'text'}; modality text; "
        f"languages {', '.join(artefact.languages)}; {period}; {selection(source, artefact)}"
    )


def _processing(evidence: Evidence, words: Disclosures) -> Tree:
    return {
        "tdm_reservation_respect": {
            "is_code_of_practice_signatory": Word(words.code_of_practice),
            "measures_description": Word(words.rights_reservations),
            "additional_comments": Word(words.copyright_policy),
        },
        "illegal_content_removal": {"measures_description": Word(words.illegal_content)},
        "other_information": personal_data(evidence),
        "declared_information": Word(words.other_processing),
    }


def _california(evidence: Evidence, words: Disclosures) -> Tree:
    """The six items of AB 2013 that the summary of the EU does not ask."""
    domain = [row.license for row in evidence.licenses if row.license in PUBLIC_DOMAIN]
    licensed = [row.license for row in evidence.licenses if row.license not in PUBLIC_DOMAIN]
    return {
        "intended_purpose_description": Word(words.purpose),
        "ip_status": {
            "includes_copyrighted_content": bool(licensed),
            "includes_trademarked_content": Word(words.trademarks),
            "includes_patented_content": Word(words.patents),
            "includes_public_domain_content": bool(domain),
            "additional_comments": "Licences of the documents: "
            + ", ".join(f"{row.license} {percent(row.share)}" for row in evidence.licenses)
            + f" of the tokens. Content under {', '.join(PUBLIC_DOMAIN[:-1])} or {PUBLIC_DOMAIN[-1]} counts as in "
            + "the public domain, all other content as copyrighted.",
        },
        "includes_personal_information": Word(words.personal_information),
        "includes_aggregate_consumer_information": Word(words.consumer_information),
        "data_cleaning_description": cleaning(evidence),
        "first_used_in_development_date": Word(_day(words.first_used)),
    }


def _yes(answer: str | bool | None) -> Word:
    """The answer to a question of yes or no; text is a yes with details."""
    return Word(None if answer is None else answer is not False)


def _details(answer: str | bool | None) -> Word | None:
    return Word(answer) if isinstance(answer, str) else None


def _covered(answer: str | bool | None) -> list[str]:
    return TEXT if isinstance(answer, str) else []


def _day(value: str | None) -> str | None:
    """A day as DD/MM/YYYY, a month as MM/YYYY: as the template writes months."""
    return None if value is None else "/".join(reversed(value.split("-")))


def _short_day(value: str | None) -> str | None:
    """A day as DD/MM/YY: as the template writes that of the last update."""
    return None if value is None else "/".join(reversed(value[2:].split("-")))


def _known(tree: Any) -> Any:
    """The form has fields that must hold text: those of them that nobody declared say so."""
    general, model = tree["general_information"], tree["general_information"]["model_identification"]
    for place, key in (
        (tree, "last_update"),
        (general, "latest_data_collection_date"),
        (model, "date_of_placement_on_union_market"),
        (general["modalities"][0], "types_of_content"),
        (tree["ab2013"], "intended_purpose_description"),
    ):
        place[key] = place[key] or NOT_DECLARED
    return tree
