"""infini-gram 2.6.0 counts what we count, in its own index of the same rows."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.search.index import open_index
from tests.pipeline.search.indexed import indexed, packed, queries

CLIENT = Path(sys.prefix) / "clients" / "infini-gram"
"""Where `make .venv/tested` puts it, with libraries of its own."""


def infini_gram(*arguments: str | Path, stdin: str = "") -> str:
    assert CLIENT.is_dir(), "run `make .venv/tested`, which installs it"
    program = Path(__file__).with_name("their_counts.py")
    done = subprocess.run(
        [sys.executable, program, *arguments],
        env=os.environ | {"PYTHONPATH": str(CLIENT)},
        capture_output=True,
        text=True,
        input=stdin,
    )
    assert not done.returncode, done.stderr
    return done.stdout


@pytest.mark.long
@pytest.mark.parametrize(("vocabulary", "width", "num_rows"), [(9, 33, 4000), (2000, 65, 3000), (65_535, 17, 4000)])
def test_infini_gram_counts_the_same(tmp_path: Path, vocabulary: int, width: int, num_rows: int) -> None:
    """Up to its limit of 65,535 tokens: runs of the rows, whole rows, runs over the border of rows, and random ones."""
    rows = packed(random.Random(1), vocabulary, width, num_rows)
    asked = queries(random.Random(2), rows, vocabulary, 2000)
    folder = tmp_path / "theirs"
    folder.mkdir()
    np.save(folder / "rows.npy", rows)
    infini_gram("build", folder)
    found = json.loads(infini_gram("count", folder, stdin=json.dumps(asked)))["counts"]
    with open_index(indexed(tmp_path / "ours", rows, vocabulary, num_rows // 2)) as index:
        assert [index.find(ids).count for ids in asked] == found
    assert 0 < sum(count > 0 for count in found) < len(found)
