"""Code in the documentation: found, and its terminal sessions and queries run and written again.

`python -m tests.sessions` runs every session on the built `release/` and writes its output under each command, the
answer of every query (a block `sql`, run by DuckDB) as comments below it, and the table of models, from
`manifests/release.json`, into the README. Messages on stderr are not shown.
"""

import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir
from functools import partial
from pathlib import Path
from textwrap import dedent, indent
from typing import NamedTuple

import duckdb

from pipeline.base.columns import table
from pipeline.base.files import write_bytes
from pipeline.formats.manifests import Released, path_of, read_manifest
from pipeline.release.card_models import models_table
from tests.project import environment

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^ *```$", re.M | re.S)
MODELS = re.compile(r"(?<=<!-- models -->\n).*?(?=<!-- /models -->)", re.S)


class Block(NamedTuple):
    """A fenced block: the words after the fence, and the text without its indentation."""

    kind: str
    text: str


def documents() -> list[Path]:
    """Every Markdown file of the project that people read."""
    return sorted(
        [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/**/*.md"), *ROOT.glob("examples/**/*.md")]
    )


def blocks(text: str, *kinds: str) -> list[Block]:
    """The fenced blocks of these kinds, in their order."""
    found = [Block(match[2], dedent(match[3])) for match in FENCE.finditer(text)]
    return [block for block in found if block.kind in kinds]


def commands(text: str) -> list[list[str]]:
    """The words of every command: of sessions, of shell blocks, and of code in a sentence."""
    lines = [line.removeprefix("$ ") for block in blocks(text, "console") for line in _typed(block)]
    lines += [line for block in blocks(text, "bash") for line in block.text.splitlines()]
    lines += [span for span in spans(text) if re.match(r"(everystep|make|dvc) ", span)]
    found: list[list[str]] = []
    for line in lines:
        words = shlex.split(line, comments=True)
        ends = [i for i, word in enumerate(words) if word in ("&&", "|")]
        found += [words[i:j] for i, j in zip([0, *(i + 1 for i in ends)], [*ends, len(words)], strict=True) if i < j]
    return found


def spans(text: str) -> list[str]:
    """Code inside sentences and tables."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


def run_session(block: Block, folder: Path) -> Iterator[tuple[str, str]]:
    """(command, what it prints on stdout) of each command of a session, run in `folder` by bash.

    Exit code 1 is an answer too, of a command that compares, if something is printed.
    """
    for line in _typed(block):
        command = line.removeprefix("$ ")
        done = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environment(), capture_output=True, text=True, check=False
        )
        if done.returncode > 1 or (done.returncode and not done.stdout):
            raise AssertionError(f"{command} -> {done.returncode}\n{done.stdout}{done.stderr}")
        yield command, done.stdout.rstrip("\n")


def shown(block: Block) -> list[tuple[str, str]]:
    """(command, what the document shows under it) of each command of a session."""
    parts = re.split(r"^\$ (.*)\n", block.text, flags=re.M)[1:]
    return [(parts[i], parts[i + 1].rstrip("\n")) for i in range(0, len(parts), 2)]


def with_sessions(text: str, printed: Callable[[Block], Iterator[tuple[str, str]]]) -> str:
    """The text with the output of every session replaced."""

    def written(match: re.Match[str]) -> str:
        if match[2] != "console":
            return match[0]
        session = printed(Block(match[2], dedent(match[3])))
        lines = "".join(f"$ {command}\n{output}\n" if output else f"$ {command}\n" for command, output in session)
        return indent(f"```console\n{lines}```", match[1])

    return FENCE.sub(written, text)


def answers(text: str, folder: Path) -> Iterator[str]:
    """What each query of a document answers in `folder`, as comments, in their order; a later one knows the views of
    those before it."""
    with duckdb.connect() as database, chdir(folder):
        for block in blocks(text, "sql"):
            found = database.sql(query_of(block))
            if found is None or found.columns == ["Count"]:  # it asked for nothing
                yield ""
                continue
            rows = [["" if value is None else str(value) for value in row] for row in found.fetchall()]
            yield "".join(f"-- {line}\n" for line in table(found.columns, rows))


def query_of(block: Block) -> str:
    """The query of a block, without the answer below it."""
    return block.text.partition(";\n")[0] + ";\n"


def with_answers(text: str, folder: Path) -> str:
    """The text with the answer of every query replaced."""
    found = answers(text, folder)

    def written(match: re.Match[str]) -> str:
        if match[2] != "sql":
            return match[0]
        block = Block(match[2], dedent(match[3]))
        return indent(f"```sql\n{query_of(block)}{next(found)}```", match[1])

    return FENCE.sub(written, text)


def with_models(text: str) -> str:
    """The text with the table of models between its marks."""
    table = models_table(read_manifest(Released, ROOT / path_of(Released)).models)
    return MODELS.sub(lambda _: table + "\n", text)


def main() -> None:
    for path in documents():
        text = path.read_text("utf-8")
        with tempfile.TemporaryDirectory() as folder:
            # As in the project, whose manifests vouch for the release.
            for name in ("release", "manifests", "counterfactuals", "params.yaml", "recipes"):
                (Path(folder) / name).symlink_to(ROOT / name)
            new = with_answers(text, Path(folder))
            new = with_models(with_sessions(new, partial(run_session, folder=Path(folder))))
        if new != text:
            write_bytes(path, new.encode())
            print(f"{path.relative_to(ROOT)}: updated")


def _typed(block: Block) -> list[str]:
    return [line for line in block.text.splitlines() if line.startswith("$ ")]


if __name__ == "__main__":
    main()
