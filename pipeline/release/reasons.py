"""Reasons, steps and findings of cleaning in words: what a reader sees where the data say `gopher_enough_stop_words`.

Names are stable and specified (`docs/formats.md`, section 5.1); these words are for people, and may be improved. The
words of a reason go on from "documents that", those of a step are what it does with a document.
"""

REASONS = {
    "too_large": "were larger than a reader accepts",
    "invalid_utf8": "were not valid UTF-8",
    "nul_bytes": "held a NUL character, so were not text",
    "broken_record": "could not be read from their record",
    "unknown_license": "stated no licence that is known",
    "failed": "could not be processed",
    "license": "had a licence that is not on the list of accepted ones",
    "cap": "were beyond the amount of text that is taken from their source",
    "empty": "had no text left",
    "gopher_short_doc": "had too few words",
    "gopher_long_doc": "had too many words",
    "gopher_below_avg_threshold": "had words that are too short on average",
    "gopher_above_avg_threshold": "had words that are too long on average",
    "gopher_too_many_hashes": "had too many # signs for their words",
    "gopher_too_many_ellipsis": "had too many ellipses for their words",
    "gopher_too_many_bullets": "were nearly all bullet points",
    "gopher_too_many_end_ellipsis": "had too many lines that end in an ellipsis",
    "gopher_below_alpha_threshold": "had too few words with a letter in them",
    "gopher_enough_stop_words": "had too few of the most common English words",
    "dup_line_frac": "repeated too many of their lines",
    "dup_para_frac": "repeated too many of their paragraphs",
    "dup_line_char_frac": "had too much of their text in repeated lines",
    "dup_para_char_frac": "had too much of their text in repeated paragraphs",
    **{f"top_{n}_gram": f"had too much of their text in one run of {n} words" for n in range(2, 5)},
    **{f"duplicated_{n}_n_grams": f"had too much of their text in repeated runs of {n} words" for n in range(5, 11)},
    "too_few_sentences": "had too few sentences",
    "lorem_ipsum": "held filler text (lorem ipsum)",
    "curly_bracket": "held a curly bracket, so were taken for code",
    "line_punct_ratio": "had too few lines that end in punctuation",
    "short_line_ratio": "had too many short lines",
    "char_dup_ratio": "had too much of their text in repeated lines",
    "list_ratio": "had too many line breaks for their words",
    "language": "were not clearly in a language of their source",
    "personal_data": "showed more personal data each time it was replaced",
    "contamination": "shared a run of words with an item of an evaluation set",
    "exact_duplicate": "had the same words as a document that was kept",
    "near_duplicate": "were nearly the same as a document that was kept",
    "mixture": "were not drawn for the mixture of sources",
}
"""Reason of a removal → what is true of a document that it removed."""

STEPS = {
    "extract": "read each document from its source",
    "cap": "take no more text of a source than its limit",
    "encoding": "repair text that was decoded with the wrong encoding",
    "normalize": "write Unicode, line ends and blanks in one way",
    "c4": "drop lines that are no sentences, then judge what is left",
    "gopher_quality": "drop what is not prose",
    "gopher_repetition": "drop what repeats itself",
    "fineweb": "drop lists, menus and pages of short lines",
    "language": "drop other languages than those of the source",
    "personal_data": "replace addresses, phone numbers and card numbers",
    "contamination": "drop what the evaluation sets contain",
    "dedup": "drop duplicates",
    "tokenize": "draw the mixture of sources",
}
"""Stage or step of cleaning → what it is for."""

FINDINGS = {
    "lines_mended": "lines mended",
    "lines_dropped": "lines dropped",
    "email": "e-mail addresses",
    "payment_card": "card numbers",
    "phone": "phone numbers",
    "ip": "IP addresses",
}
"""What a step counts → its name in the plural."""


def reason_in_words(reason: str) -> str:
    """What is true of a document that was removed for this reason."""
    return REASONS.get(reason, f"were removed for {reason.replace('_', ' ')}")


def step_in_words(step: str) -> str:
    """What a stage or step of cleaning does."""
    return STEPS.get(step, step.replace("_", " "))


def finding_in_words(kind: str) -> str:
    """What a step counted; the name of an evaluation set is its own."""
    return FINDINGS.get(kind, kind)
