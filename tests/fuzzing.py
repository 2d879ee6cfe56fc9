"""Fuzzing: thousands of nearly right files, read by one reader in a process of its own, which must end well.

`run` starts `python -m tests.fuzzing MODULE TARGET ...`; the module there has `TARGETS`, by name. A target is a few
small valid artefacts and a function that reads one. Case n of a target is the same file on every machine: an
artefact of which bytes were flipped, cut, doubled or replaced, inside its packing or outside, or a value of its JSON
by another. All that may come of it is what the reader gives, or an `EverystepError`. Any other exception, a signal,
a case of more than `MAX_SECONDS`, and more than `MAX_GROWTH` KiB of memory are faults, told with the case's number.
"""

import faulthandler
import importlib
import json
import random
import re
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.base.errors import EverystepError

MAX_SECONDS = 10
MAX_GROWTH = 300 << 10  # KiB
MAX_EDITS = 4
NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
WORDS = (
    *(b"\0", b"\n", b"\r", b"\x1b[2J", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc3", b"\xf4\x90\x80\x80"),
    *(
        b'"',
        b"\\",
        b"\\ud800",
        b"\\u0000",
        b"\\u001b",
        b"\xe2\x80\xa8",
        b"\xc2\x9b",
        b",",
        b":",
        b"[",
        b"]",
        b"{",
        b"}",
    ),
    *(
        b"[" * 3000,
        b'{"a":' * 3000,
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"9" * 5000,
        b"18014398509481985",
        b"-0.0",
        b"null",
    ),
    *(b"<|endoftext|>", b"../", b"/etc/passwd", b"a" * 5000, b"&a [*a]", b"!!binary x", b"!!timestamp y", b"? ", b"- "),
)
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 0.5, 1e300, 2**53, -(2**70), "", "\0", "\x1b[2J", "\x9b", "\u2028", "..", "/x", "a" * 5000),
    *([], {}, [[]], {"": None}, {"shape": []}, [None], ["x"], {"x": {"x": "x"}}, [{"shape": None}]),
)


@dataclass(frozen=True)
class Artefact:
    """A valid file: its name, what is inside, and how that is packed into the file. Or one that once did harm."""

    name: str
    inner: bytes
    pack: Callable[[bytes], bytes] = bytes
    valid: bool = True


@dataclass(frozen=True)
class Target:
    """`read` gets the folder with the one file of a case, and the file."""

    artefacts: Callable[[], Sequence[Artefact]]
    read: Callable[[Path, Path], object]


def run(module: str, target: str, folder: Path, *, cases: int = 0, seconds: float = 0) -> dict[str, Any]:
    """Fuzz one target with its first `cases`, or for so long. A fault is an AssertionError that says the case."""
    command = [sys.executable, "-m", "tests.fuzzing", module, target, str(folder), str(cases), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds + 300)
    last = sorted(folder.glob("case-*"))
    assert done.returncode == 0, f"{target}: {[path.name for path in last]}: {done.returncode}\n{done.stderr[-6000:]}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def case(target: str, artefacts: Sequence[Artefact], number: int) -> tuple[str, bytes]:
    """Name and bytes of case `number`; the first cases are the valid files themselves."""
    if number < len(artefacts):
        return artefacts[number].name, artefacts[number].pack(artefacts[number].inner)
    draw = random.Random(f"{target}-{number}")
    chosen, other = draw.choice(artefacts), draw.choice(artefacts)
    tree = _tree(chosen.inner)
    kind = draw.random()
    if tree is not None and kind < 0.5:
        return chosen.name, chosen.pack(json.dumps(_changed(tree, draw)).encode())
    if kind < 0.75:
        return chosen.name, chosen.pack(_edited(chosen.inner, other.inner, draw))
    packed = chosen.pack(chosen.inner)
    return chosen.name, _edited(packed, other.pack(other.inner), draw)


def _tree(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _edited(content: bytes, other: bytes, draw: random.Random) -> bytes:
    for _ in range(draw.randint(1, MAX_EDITS)):
        start = draw.randint(0, len(content))
        stop = min(len(content), start + int(2 ** draw.uniform(0, 9)))
        match draw.randrange(8):
            case 0 if start < len(content):
                content = content[:start] + bytes([content[start] ^ 1 << draw.randrange(8)]) + content[start + 1 :]
            case 1:
                content = content[:start]
            case 2:
                content = content[:start] + content[start:stop] * draw.choice((0, 2, 3, 50)) + content[stop:]
            case 3:
                size = draw.choice((1, 2, 4, 8))
                number = draw.choice(NUMBERS) % (1 << 8 * size)
                content = (
                    content[:start] + number.to_bytes(size, draw.choice(("little", "big"))) + content[start + size :]
                )
            case 4:
                place = draw.randint(0, len(other))
                content = content[:start] + other[place : place + stop - start] + content[stop:]
            case 5:
                content = content[:start] + draw.randbytes(stop - start) + content[stop:]
            case _:
                content = content[:start] + draw.choice(WORDS) + content[start + draw.choice((0, 0, 1, 4)) :]
    return content


def _changed(tree: Any, draw: random.Random) -> Any:
    """The tree with one value replaced, taken away, renamed or doubled; the deeper, the likelier."""
    if not isinstance(tree, dict | list) or not tree or draw.random() < 0.15:
        return draw.choice(VALUES)
    if isinstance(tree, list):
        place = draw.randrange(len(tree))
        return [*tree[:place], _changed(tree[place], draw), *tree[place + 1 :]]
    key = draw.choice(list(tree))
    rest = {name: value for name, value in tree.items() if name != key}
    match draw.randrange(6):
        case 0:
            return rest
        case 1:
            return rest | {draw.choice([value for value in VALUES if isinstance(value, str)]): tree[key]}
        case _:
            return tree | {key: _changed(tree[key], draw)}


class _TooLong(BaseException):
    """A case took more than its time; no reader catches this."""


def _too_long(_number: int, _frame: FrameType | None) -> None:
    raise _TooLong(f"more than {MAX_SECONDS} s")


def peak() -> int:
    """The most memory this process has held since `forget_peak`, in KiB."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    module, name, folder, cases, seconds = sys.argv[1:]
    target: Target = importlib.import_module(module).TARGETS[name]
    artefacts = target.artefacts()
    outcomes: Counter[str] = Counter()
    valid = 0
    began, number, slowest, largest = time.monotonic(), 0, 0.0, 0
    signal.signal(signal.SIGALRM, _too_long)
    while number < max(int(cases), len(artefacts)) or time.monotonic() - began < float(seconds):
        file, content = case(name, artefacts, number)
        inside = Path(folder) / f"case-{number:07}"
        inside.mkdir(parents=True)
        (inside / file).write_bytes(content)
        forget_peak()
        before, start = peak(), time.monotonic()
        faulthandler.dump_traceback_later(2 * MAX_SECONDS, exit=True)
        signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
        try:
            target.read(inside, inside / file)
            outcomes["read"] += 1
        except EverystepError as error:
            outcomes["refused"] += 1
            str(error).encode()
        except BaseException:
            traceback.print_exc()
            print(f"case {number}: {file}, {len(content)} bytes: {content[:2000]!r}", file=sys.stderr)
            sys.exit(1)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        slowest = max(slowest, time.monotonic() - start)
        largest = max(largest, peak() - before)
        if largest > MAX_GROWTH:
            sys.exit(f"case {number}: {largest} KiB of memory for {len(content)} bytes")
        valid += number < len(artefacts) and artefacts[number].valid
        assert number >= len(artefacts) or outcomes["read"] >= valid, f"case {number}: a valid file is refused"
        (inside / file).unlink()
        inside.rmdir()
        number += 1
    print(json.dumps({"cases": number, "slowest": slowest, "growth": largest, **outcomes}))


if __name__ == "__main__":
    main()
