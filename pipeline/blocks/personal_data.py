"""Personal data that patterns can find: e-mail and public IP addresses, phone numbers, payment cards.

Each is replaced by a fixed word for its kind, and only the number of each kind is recorded. Reserved examples stay:
addresses of RFC 2606 and RFC 5737, telephone numbers 555-0100 to 555-0199. Names and postal addresses are not
searched for, nor are phone numbers without a country code (except North America's): no pattern distinguishes them
from other numbers.

Law: a rewritten text is not rewritten again.
"""

import ipaddress
import re
from collections import Counter

from pipeline.blocks.block import Fault, Outcome, Rewritten

# A word, so that its neighbours are judged as before: every pattern checks its borders.
REPLACEMENTS = {
    "email": "EMAIL_ADDRESS",
    "payment_card": "CARD_NUMBER",
    "phone": "PHONE_NUMBER",
    "ip": "IP_ADDRESS",
}
MAX_LOOKS = 8
LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
DOMAIN = rf"(?:{LABEL}\.){{1,8}}[A-Za-z]{{2,24}}"
PATTERNS = {
    "email": re.compile(rf"(?<![\w.%+@-])[A-Za-z0-9][\w.%+'-]{{0,63}}(?:@{DOMAIN})+(?![\w%+'@-]|\.\w)"),
    "payment_card": re.compile(
        r"(?<![\w.+-])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -])\d{6}\2\d{4,5})(?![\w-]|\.\d)"
    ),
    "phone": re.compile(
        r"(?<![\w.+/:=-])(?:\+[1-9](?:[ .-]?(?:\(\d{1,4}\)|\d)){5,14}"
        r"|(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d([.-]))[2-9]\d\d(?:\1|[.-])\d{4})(?![\w/=-]|\.\d)"
    ),
    "ip": re.compile(r"(?<![\w.:-])(?:(?:\d{1,3}\.){3}\d{1,3}|[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34})(?![\w:-]|\.\w)"),
}
NEEDED = {
    "email": "@",
    "payment_card": r"[0-9][0-9]{3}[ -]?[0-9]{4}",
    "phone": r"[+0-9](?:(?<=\+)[1-9]|[0-9]{2}[.-][0-9]{4})",
    "ip": r"[0-9](?:\.[0-9]|[0-9A-Fa-f]{3}:)",
}
"""Pattern that every match contains, and that is faster to rule out: `re` is fast at finding one of some characters."""
NEEDED_IN_ASCII = {kind: re.compile(pattern) for kind, pattern in NEEDED.items()}
NEEDED_ELSEWHERE = {kind: re.compile(pattern.replace("0-9", r"\d")) for kind, pattern in NEEDED.items()}
VERSION = re.compile(r"\b(?:v|ver|versions?|release|build|firmware|section|chapter|rfc|oid)[.:]? $", re.IGNORECASE)
RESERVED_DOMAIN = re.compile(r"[@.](?:example\.(?:com|net|org)|test|example|invalid|localhost)$", re.IGNORECASE)
CARD = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[68]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12}|6(?:011|4[4-9]\d|5\d\d)\d{12}|62\d{14,17}"
)
# IANA's special-purpose registries (RFC 6890), listed here because Python's own list changes between patch releases.
NOT_PUBLIC = [
    ipaddress.ip_network(network)
    for network in """
        0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24
        192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/3
        2001::/23 2001:db8::/32 2002::/16 3fff::/20
    """.split()  # noqa: SIM905
]


def without_personal_data(text: str) -> Outcome:
    """Replace personal data (the block); counts replacements by kind.

    It looks again after a replacement, because that can expose something adjacent. Real text takes two looks, at
    most three; a text in which the last look still finds something is adversarial, and is removed.
    """
    counts: Counter[str] = Counter()
    for _ in range(MAX_LOOKS):
        before = counts.total()
        text = _replace_once(text, counts)
        if counts.total() == before:
            return Rewritten(text, dict(counts)) if counts else None
    return Fault("personal_data", f"more of it after {MAX_LOOKS} looks", dict(counts))


def _replace_once(text: str, counts: Counter[str]) -> str:
    needed = NEEDED_IN_ASCII if text.isascii() else NEEDED_ELSEWHERE
    for kind, pattern in PATTERNS.items():
        if not needed[kind].search(text):
            continue

        def replace(match: re.Match[str], kind: str = kind) -> str:
            if not IS_PERSONAL[kind](match):
                return match[0]
            counts[kind] += 1
            return REPLACEMENTS[kind]

        text = pattern.sub(replace, text)
    return text


def luhn(digits: str) -> bool:
    """Verify the checksum of a payment card (ISO/IEC 7812-1, annex B)."""
    doubled = (2 * int(digit) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(n - 9 * (n > 9) for n in doubled)) % 10 == 0


def _is_mail(match: re.Match[str]) -> bool:
    return not RESERVED_DOMAIN.search(match[0])


def _is_card(match: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", match[0])
    return CARD.fullmatch(digits) is not None and len(set(digits)) > 1 and luhn(digits)


def _is_phone(match: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", match[0])
    american = len(digits) == 10 or digits.startswith("1")
    return 8 <= len(digits) <= 15 and not (american and digits[-7:-2] == "55501")


def _is_public(match: re.Match[str]) -> bool:
    try:
        address = ipaddress.ip_address(match[0])
    except ValueError:
        return False
    numbered = VERSION.search(match.string, max(0, match.start() - 12), match.start())
    return not numbered and not any(address in network for network in NOT_PUBLIC)


IS_PERSONAL = {"email": _is_mail, "payment_card": _is_card, "phone": _is_phone, "ip": _is_public}
