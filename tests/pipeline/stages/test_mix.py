"""A source that has a part in the mixture is in the training split."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.base.errors import EverystepError
from pipeline.blocks.mixture import ONE
from pipeline.formats.canonical import pretty
from pipeline.formats.lines import Shard
from pipeline.stages.tokenize.encode import ENCODED, EncodedShard
from pipeline.stages.tokenize.mix import mix
from tests.project import params


@pytest.mark.parametrize(("letters", "is_drawn"), [(ONE // 2, True), (1, False), (0, True)])
def test_a_part_too_small_for_one_document_is_told(
    tmp_path: Path, corpora: Path, monkeypatch: pytest.MonkeyPatch, letters: int, is_drawn: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_bytes(pretty(params(corpora)))
    shard = Shard(path="unread", lines=20, bytes=0, sha256="0" * 64)
    part = EncodedShard(tmp_path, shard, tmp_path / "000000", "uint16")
    rows = [
        {"id": f"{source}/{n}", "source": source, "license": "MIT", "text_sha256": "", "num_tokens": 2, "bytes": 5}
        for n in range(10)
        for source in ("letters", "notes")
    ]
    part.write_table(pa.Table.from_pylist(rows, ENCODED))
    part.scratch.with_suffix(".ids").write_bytes(np.zeros(40, dtype=np.uint16).data)
    drawn = {"letters": letters, "notes": ONE}
    if is_drawn:
        mix([part], drawn, 1, tmp_path / "scratch", tmp_path)
    else:
        with pytest.raises(
            EverystepError, match=r"mixture\.sources\.letters: none of its documents is drawn at 1e-09 pass"
        ):
            mix([part], drawn, 1, tmp_path / "scratch", tmp_path)
