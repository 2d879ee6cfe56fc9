"""Minimal pairs: what a document says, word for word, beside the same with one thing changed."""

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.base.errors import EverystepError
from pipeline.blocks.pairs import RULES, Limits, Text, pairs, pairs_asked
from pipeline.formats.tasks import Item

NAMES = ("ANNA", "BERT", "OLD CARL", "First Lord", "KING HENRY VI", "Pedant", "Enter, all")
PIECES = st.sampled_from(
    [
        *(f"\n\n{name}\nWhat is it that you bring, {name}?" for name in NAMES),
        *(f"\n- a_{kind.split()[-1]} ({kind}): The thing, in full." for kind in ("string", "list of Part", "number")),
        "\nSize (Integer): its size",
        " It is a truth that the old river was quiet.",
        "\nwe stayed there until the morning came again!",
        " No  double blank is ever taken by this rule here.",
        "\tÉtat, e.g. “so” said she to me and to him.",
        "\n\n\n",
        "  ",
    ]
)
DOCUMENTS = st.lists(
    st.lists(PIECES | st.text("aéA1 \n\t.?!():-'", max_size=12), max_size=30).map("".join), min_size=1, max_size=4
)
LIMITS = st.builds(Limits, st.integers(1, 200), st.integers(3, 12))


def texts_of(documents: Sequence[str]) -> list[Text]:
    return [Text(f"s/{number}", f"s{number % 2}", text) for number, text in enumerate(documents)]


@given(DOCUMENTS, LIMITS, st.sampled_from(sorted(RULES)))
def test_the_gold_choice_is_in_its_document_and_the_other_differs_in_nothing_but_the_change(
    documents: list[str], limits: Limits, rule: str
) -> None:
    texts = texts_of(documents)
    by_id = {text.id: text.text for text in texts}
    for item in pairs(rule, texts, limits):
        if isinstance(item, str):
            continue
        document, start = item.id.rsplit("#", 1)
        true, false = item.choices[item.gold], item.choices[1 - item.gold]
        begin, end = int(start) - len(true.context), int(start) + len(true.continuation)
        assert by_id[document][begin:end] == true.context + true.continuation
        assert false.context == true.context and len(true.context) <= limits.characters
        assert false.continuation != true.continuation
        assert len(false.continuation.split()) == len(true.continuation.split())
        if rule == "permuted_words":
            assert Counter(false.continuation.split()) == Counter(true.continuation.split())
            assert len(true.continuation.split()) <= limits.words


@given(DOCUMENTS, LIMITS, st.sampled_from(sorted(RULES)))
def test_pairs_depend_on_nothing_but_the_documents(documents: list[str], limits: Limits, rule: str) -> None:
    """Twice the same; and but for the types of a source, a document gives the same pairs alone."""
    texts = texts_of(documents)
    found = [*pairs(rule, texts, limits)]
    assert found == [*pairs(rule, texts, limits)]
    if rule != "swapped_type":
        assert found == [pair for text in texts for pair in pairs(rule, [text], limits)]


PLAY = "A play.\n\n" + "\n\n".join(f"{name}\nSpeech {i} of {name} is here." for i in range(40) for name in NAMES[:2])


def test_half_of_the_gold_choices_come_first_so_that_a_constant_answer_is_chance() -> None:
    items, task = pairs_asked("swapped_speaker", ["s0"], texts_of([PLAY]), Limits(100, 9), 1000)
    assert 0.35 < sum(item.gold for item in items) / len(items) < 0.65
    assert (task.items, task.found, task.chance, task.left_out) == (80, 80, 0.5, {})


def test_only_the_sources_that_are_named_give_pairs_and_no_pair_is_an_error() -> None:
    texts = texts_of(["nothing", PLAY])
    items, task = pairs_asked("swapped_speaker", ["s1"], texts, Limits(100, 9), 7)
    assert len(items) == 7 and all(item.id.startswith("s/1#") for item in items)
    assert task.left_out == {"not_chosen": 73}
    with pytest.raises(EverystepError, match=r"task swapped_speaker: no item to ask \(none found\)"):
        pairs_asked("swapped_speaker", ["s0"], texts, Limits(100, 9), 7)


def test_a_frequent_type_is_exchanged_for_more_often() -> None:
    fields = "".join(f"\n- f{i} ({'string' if i % 10 else 'number'}): what it is" for i in range(400))
    own = [*pairs("swapped_type", texts_of([f"Types{fields}\n- x (Thing): y\n- z (Thing): y"]), Limits(500, 5))]
    others = Counter(
        item.choices[1 - item.gold].continuation.split("(")[1].split(")")[0]
        for item in own
        if isinstance(item, Item) and "(string)" not in item.choices[item.gold].continuation
    )
    assert others["string"] > 3 * others["Thing"]
