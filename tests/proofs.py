"""Runs the tests that take long and keeps what came out in docs/proofs.md: `make test-long`.

python -m tests.proofs [pytest's arguments]: with arguments only the lines of the tests that ran are replaced.
"""

import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

from pipeline.base.files import write_bytes

PAGE = Path(__file__).parent.parent / "docs" / "proofs.md"
OUTPUT = re.compile(r"(?<=<!-- output -->\n).*(?=<!-- /output -->)", re.S)
HEAD = "| test | | seconds | date | |\n| --- | --- | ---: | --- | --- |\n"
RECIPES = re.compile(r"(?<=<!-- recipes -->\n).*(?=<!-- /recipes -->)", re.S)
"""A table of its own: a row of it is the property `row` of a test."""


def main() -> None:
    arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", "long", f"--junitxml={report}", *arguments]
        command += ["-o", "junit_family=xunit1"]  # the newer one has no properties of a test
        code = subprocess.call(command)
        cases = list(ElementTree.parse(report).iter("testcase"))
    text = PAGE.read_text("utf-8")
    kept = {} if not arguments else {line.split("|")[1].strip(): line for line in shown(text)}
    lines = "".join(f"{line}\n" for _, line in sorted((kept | lines_of(cases)).items()))
    text = OUTPUT.sub(lambda _: f"{machine()}\n\n{HEAD}{lines}", text)
    write_bytes(PAGE, RECIPES.sub(lambda table: with_rows(table[0], rows_of(cases)), text).encode())
    sys.exit(code)


def lines_of(cases: Iterable[ElementTree.Element]) -> dict[str, str]:
    """A line of the table for each test of a report, by the test's name."""
    today = datetime.now(UTC).date().isoformat()
    found = {}
    for case in cases:
        file = case.attrib["classname"].removeprefix("tests.").replace(".", "/")
        words, _, parameters = case.attrib["name"].removeprefix("test_").partition("[")
        name = f"{file}: {words.replace('_', ' ')}" + (f" ({parameters.rstrip(']')})" if parameters else "")
        outcome = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        said = "; ".join(one.attrib["value"] for one in case.iter("property") if one.attrib["name"] != "row")
        found[name] = f"| {name} | {outcome} | {float(case.attrib['time']):.0f} | {today} | {said} |"
    return found


def rows_of(cases: Iterable[ElementTree.Element]) -> list[str]:
    """The rows that tests hand over."""
    properties = (one for case in cases for one in case.iter("property"))
    return [one.attrib["value"] for one in properties if one.attrib["name"] == "row"]


def with_rows(table: str, rows: list[str]) -> str:
    """A table by the numbers in its second column, with these rows in place of those that begin with the same name."""
    head, rule, *before = table.strip().splitlines()
    merged = {row.split("|")[1]: row for row in [*before, *rows]}
    ordered = sorted(merged.values(), key=lambda row: int(row.split("|")[2].replace(",", "")))
    return "".join(f"{row}\n" for row in ["", head, rule, *ordered, ""])


def shown(text: str) -> list[str]:
    """The lines of the table as it stands, without its head."""
    output = OUTPUT.search(text)
    assert output, f"{PAGE}: the marks of the output are gone"
    return [line for line in output[0].splitlines() if line.startswith("| ")][2:]


def machine() -> str:
    names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), flags=re.M)
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy"))
    return f"Last machine: {len(names)} x {names[0]}; Python {platform.python_version()}, {libraries}."


if __name__ == "__main__":
    main()
