import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.blocks import personal_data
from pipeline.blocks.block import Fault, Rewritten
from pipeline.blocks.personal_data import (
    NEEDED_ELSEWHERE,
    NEEDED_IN_ASCII,
    PATTERNS,
    REPLACEMENTS,
    luhn,
    without_personal_data,
)

# Numbers that cards have in test systems; telephone numbers and addresses of public services.
FOUND = {
    "email": [
        "jane.doe@company.co.uk",
        "x@y.org",
        "first+tag@sub.domain.com",
        "o'neil_99@mail-host.net",
        "USER@COMPANY.DE",
    ],
    "payment_card": [
        "4111111111111111",
        "4111 1111 1111 1111",
        "5555-5555-5555-4444",
        "378282246310005",
        "3782 822463 10005",
        "6011111111111117",
        "3530111333300000",
        "2223003122003222",
    ],
    "phone": [
        "+44 20 7219 3000",
        "+49 (30) 227-0",
        "+12025550000",
        "(202) 224-3121",
        "202-224-3121",
        "202.224.3121",
        "1-202-224-3121",
        "1 (202) 224-3121",
    ],
    "ip": ["8.8.8.8", "193.0.6.139", "2001:4860:4860::8888", "2a00:1450:4001:81b::200e", "2606:4700:4700:0:0:0:0:1111"],
}
LEFT = {
    "documentation": ["192.0.2.17", "198.51.100.4", "203.0.113.99", "2001:db8::1", "3fff::1"],
    "private": [
        "10.0.0.1",
        "127.0.0.1",
        "192.168.1.254",
        "172.16.0.9",
        "169.254.169.254",
        "0.0.0.0",
        "255.255.255.255",
    ],
    "versions": [
        "version 1.2.3.4",
        "v4.18.0.1",
        "Release 8.8.8.8",
        "1.2.3",
        "1.2.3.4.5",
        "build 10.0.19041.1",
        "3.11.4",
    ],
    "no addresses": ["256.1.1.1", "8.8.8.888", "1.2.3.4a", "std::vector::size", "12:30:45", "2024:10:31", "fe80::1"],
    "reserved mail": ["user@example.com", "a.b@mail.example.org", "x@host.test", "root@localhost", "me@x.invalid"],
    "no mail": ["@decorator", "a @ b.com", "user@", "@example", "a@b", "x@y@z"],
    "fiction": ["(212) 555-0147", "+1 212 555 0199", "212-555-0100"],
    "accounts": ["123456789012", "arn:aws:iam::123456789012:user/Bob", "arn:aws:sns:us-east-1:444455556666:topic"],
    "dates": ["2024-01-31", "31.12.2023", "2024-01-31T12:30:45+01:00", "20240131123045", "1999-2000", "12/31/2023"],
    "books": ["978-3-16-148410-0", "ISBN 9783161484100", "0-306-40615-2", "10.1000/182"],
    "numbers": [
        "1234567890",
        "1,000,000,000",
        "1700000000000000000",
        "3.14159265358979",
        "4111111111111112",
        "0000000000000000",
        "123-45-6789",
        "100-200-3000",
        "+5",
        "1e+21",
        "4000-4001",
        "550e8400-e29b-41d4-a716-446655440000",
    ],
}


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind in FOUND for value in FOUND[kind]])
@pytest.mark.parametrize("around", ["{}", "Call or write: {}.", "({}), then", '"{}"', "one\n{}\ntwo", "<{}>;"])
def test_each_kind_is_found_replaced_and_counted(kind: str, value: str, around: str) -> None:
    expected = Rewritten(around.format(REPLACEMENTS[kind]), {kind: 1})
    assert without_personal_data(around.format(value)) == expected


@pytest.mark.parametrize("value", [value for values in LEFT.values() for value in values])
@pytest.mark.parametrize("around", ["{}", "It is {} here.", "`{}`", "({})"])
def test_what_only_looks_alike_stays(value: str, around: str) -> None:
    assert without_personal_data(around.format(value)) is None


def test_kinds_are_counted_apart() -> None:
    text = "a@b.org, c@d.org at 8.8.8.8 or +44 20 7219 3000 pay with 4111111111111111; c@d.org"
    outcome = without_personal_data(text)
    assert isinstance(outcome, Rewritten)
    assert outcome.counts == {"email": 3, "ip": 1, "phone": 1, "payment_card": 1}


@given(
    st.lists(
        st.sampled_from([value for values in FOUND.values() for value in values])
        | st.text("1459 .-+()@:ab/|", max_size=6),
        max_size=8,
    ).map("".join)
)
def test_a_text_once_rewritten_is_not_rewritten_again(text: str) -> None:
    outcome = without_personal_data(text)
    if outcome is not None:
        assert isinstance(outcome, Rewritten)
        assert without_personal_data(outcome.text) is None


def by_the_standard(digits: str) -> bool:
    """From the right, every second digit doubled, digits of products added."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        total += sum(map(int, str(int(digit) * (1 + place % 2))))
    return total % 10 == 0


@given(st.text("0123456789", min_size=1, max_size=19))
def test_the_checksum_is_luhns(digits: str) -> None:
    assert luhn(digits) == by_the_standard(digits)


@given(st.sampled_from(["4111111111111111", "378282246310005"]), st.integers(0, 14), st.integers(1, 9))
def test_a_card_with_one_wrong_digit_is_none(card: str, place: int, more: int) -> None:
    wrong = card[:place] + str((int(card[place]) + more) % 10) + card[place + 1 :]
    assert without_personal_data(wrong) is None


def test_no_text_takes_long() -> None:
    for text in ("a." * 20000, "1-" * 20000, "@a.b" * 10000, "+1 " * 20000, "1.1." * 10000, "2001:" * 8000):
        without_personal_data(text)


def test_a_stranger_counts_the_same_addresses(corpora: Path) -> None:
    """Plain words hold none: nothing is found where nothing was put."""
    for path in sorted(corpora.glob("*.jsonl")):
        text = re.sub(r"[{}\"]", " ", path.read_text())
        assert without_personal_data(text) is None


def test_a_text_that_goes_on_uncovering_personal_data_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "(+650-253-0000@b.co,8.8.8.8222(+(0-"
    assert isinstance(without_personal_data(text), Rewritten), "two looks replace something, the third finds no more"
    monkeypatch.setattr(personal_data, "MAX_LOOKS", 2)
    outcome = without_personal_data(text)
    assert isinstance(outcome, Fault)
    assert (outcome.reason, outcome.detail) == ("personal_data", "more of it after 2 looks")


@given(st.data())
def test_every_match_contains_what_is_looked_for_first(data: st.DataObject) -> None:
    for kind, pattern in PATTERNS.items():
        match = data.draw(st.from_regex(pattern.pattern.partition(")")[2].rpartition("(?!")[0]))
        if found := pattern.search(match):
            needed = NEEDED_IN_ASCII if found[0].isascii() else NEEDED_ELSEWHERE
            assert needed[kind].search(found[0])
