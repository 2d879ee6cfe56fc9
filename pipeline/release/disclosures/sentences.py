"""Sentences of the disclosures that are computed: what was selected, removed, replaced and read, in numbers."""

from pipeline.release.disclosures.evidence import ArtefactFacts, Evidence
from pipeline.release.facts import SourceFacts
from pipeline.release.markdown import percent

UNION = {
    "bg": "Bulgarian", "hr": "Croatian", "cs": "Czech", "da": "Danish", "nl": "Dutch", "en": "English",
    "et": "Estonian", "fi": "Finnish", "fr": "French", "de": "German", "el": "Greek", "hu": "Hungarian",
    "ga": "Irish", "it": "Italian", "lv": "Latvian", "lt": "Lithuanian", "mt": "Maltese", "pl": "Polish",
    "pt": "Portuguese", "ro": "Romanian", "sk": "Slovak", "sl": "Slovenian", "es": "Spanish", "sv": "Swedish",
}  # fmt: skip
"""Official languages of the European Union, by their codes of ISO 639-1."""
CAUSES = {
    "cap": "beyond that limit, chosen by a hash of the name",
    "gopher_quality": "too short, or with too few common words or too many symbols",
    "gopher_repetition": "with too many repeated lines or phrases",
    "c4": "by the rules of C4",
    "fineweb": "by the rules of FineWeb",
    "language": "in another language",
    "contamination": "sharing a passage with an evaluation set",
    "duplicates": "exact or near duplicates",
    "held_out": "held out for evaluation",
}
"""Cap, step of cleaning and the rest → documents that it left out, for a person."""


def cleaning(evidence: Evidence) -> str:
    """What each step of cleaning did, and what deduplication removed."""
    steps = [
        f"the step {step.step} was given {step.documents:,} documents, rewrote {step.rewritten:,} and removed "
        f"{sum(step.removed.values()):,}"
        for step in evidence.cleaning
    ]
    kinds = [f"{reason.replace('_', ' ')} {number:,}" for reason, number in evidence.removed["dedup"].items()]
    return f"In this order: {'; '.join(steps)}; deduplication removed, by kind: {', '.join(kinds) or 'none'}."


def personal_data(evidence: Evidence) -> str:
    """What the step that looks for personal data replaced, in numbers."""
    found = [step for step in evidence.cleaning if step.step == "personal_data"]
    if not found:
        return "No step looked for personal data."
    kinds = ", ".join(f"{kind} {number:,}" for kind, number in found[0].counts.items()) or "none"
    return (
        f"Personal data was found by pattern and replaced in {found[0].rewritten:,} of {found[0].documents:,} "
        f"documents, by kind: {kinds}. Names of people were not looked for."
    )


def languages(evidence: Evidence) -> str:
    """Each language with its share, and whether it is one of the Union's."""
    shares = [
        f"{', '.join(UNION.get(code, code) for code in codes.split(', '))} {percent(tokens / evidence.tokens)}"
        for codes, tokens in evidence.tokens_by_languages.items()
    ]
    union = [UNION[code] for code in evidence.languages if code in UNION]
    official = ", ".join(union) if union else "none"
    return f"{'; '.join(shares)} of the tokens. Official languages of the European Union among these: {official}."


def selection(source: SourceFacts, artefact: ArtefactFacts) -> str:
    """How much of a source was taken, and why the rest was not, in numbers."""
    parts = [f"{number:,} {CAUSES.get(cause, cause)}" for cause, number in artefact.removed.items()]
    left_out = f"; left out: {'; '.join(parts)}" if parts else ""
    limit = f"; the limit was {artefact.cap_bytes:,} bytes of text" if artefact.cap_bytes else ""
    return f"{source.documents:,} of {source.documents_found:,} documents used{limit}{left_out}"


def dependencies(evidence: Evidence) -> str:
    if not evidence.ancestors:
        return "None: every training began with randomly initialized weights."
    first = evidence.ancestors[0]
    return f"{first.release} {first.version} {first.model} at step {first.step:,}, and what that went on from."
