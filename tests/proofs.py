"""Runs the tests that take long and keeps what came out in docs/proofs.md: `make test-long`.

python -m tests.proofs [pytest's arguments]: with arguments only the lines of the tests that ran are replaced.
"""

import platform
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

from pipeline.base.files import write_bytes

PAGE = Path(__file__).parent.parent / "docs" / "proofs.md"
OUTPUT = re.compile(r"(?<=<!-- output -->\n).*(?=<!-- /output -->)", re.S)
HEAD = "| test | | seconds | date | |\n| --- | --- | ---: | --- | --- |\n"


def main() -> None:
    arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", "long", f"--junitxml={report}", *arguments]
        command += ["-o", "junit_family=xunit1"]  # the newer one has no properties of a test
        code = subprocess.call(command)
        found = lines_of(report)
    text = PAGE.read_text("utf-8")
    kept = {} if not arguments else {line.split("|")[1].strip(): line for line in shown(text)}
    lines = "".join(f"{line}\n" for _, line in sorted((kept | found).items()))
    write_bytes(PAGE, OUTPUT.sub(lambda _: f"{machine()}\n\n{HEAD}{lines}", text).encode())
    sys.exit(code)


def lines_of(report: Path) -> dict[str, str]:
    """A line of the table for each test of a report, by the test's name."""
    today = datetime.now(UTC).date().isoformat()
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        file = case.attrib["classname"].removeprefix("tests.").replace(".", "/")
        words, _, parameters = case.attrib["name"].removeprefix("test_").partition("[")
        name = f"{file}: {words.replace('_', ' ')}" + (f" ({parameters.rstrip(']')})" if parameters else "")
        outcome = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        said = "; ".join(one.attrib["value"] for one in case.iter("property"))
        found[name] = f"| {name} | {outcome} | {float(case.attrib['time']):.0f} | {today} | {said} |"
    return found


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
