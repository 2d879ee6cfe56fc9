"""The stage as a whole: what it reads may come in any order, by any number of workers."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.base.errors import EverystepError
from pipeline.base.paths import FILTERED
from pipeline.blocks import duplicates
from pipeline.formats.canonical import pretty
from pipeline.formats.current import take_basis
from pipeline.formats.documents import Document, text_sha256
from pipeline.formats.lines import Shard
from pipeline.formats.manifests import Filtered
from pipeline.formats.stages import manifest_path
from pipeline.stages.dedup.stage import dedup
from tests.project import ROOT, SOURCES, params
from tests.releases import read_json
from tests.shards import write_documents
from tests.stubs import write_stub

PER_SHARD = 40
SHARD = "000000.jsonl.zst"


def corpus() -> list[Document]:
    """Sources with exact and near duplicates of each other and of themselves, and texts that stand alone."""
    draw = random.Random(3)
    texts = [" ".join(f"w{draw.getrandbits(12)}" for _ in range(draw.randrange(20, 200))) for _ in range(150)]
    copies = [text.upper() if number % 3 else text.replace("w1", "x1", 2) for number, text in enumerate(texts[:60])]
    return [
        Document(
            f"{source}/{number:03d}",
            text,
            {"license": "CC0-1.0", "source": source, "text_sha256": text_sha256(text)},
        )
        for number, text in enumerate(texts + copies)
        for source in (SOURCES[number % 3], *([SOURCES[(number + 1) % 3]] if number % 7 == 0 else []))
    ]


def deduplicated(folder: Path, corpora: Path, order: int, workers: int, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The manifest less the digests of what it read, and every output."""
    folder.mkdir()
    tree = params(corpora)
    tree["dedup"] |= {"max_removed_share": 1.0, "bytes_per_shard": 20000, "validation_share": 0.1}
    (folder / "params.yaml").write_bytes(pretty(tree))
    monkeypatch.chdir(folder)
    shuffled = corpus()
    random.Random(order).shuffle(shuffled)
    for source in SOURCES:
        own = [document for document in shuffled if document.source == source]
        names = [f"{number:06d}.jsonl.zst" for number in range(0, len(own), PER_SHARD)]
        shards: list[Shard] = [
            write_documents(FILTERED / source / name, own[start : start + PER_SHARD], name)
            for start, name in zip(range(0, len(own), PER_SHARD), names, strict=True)
        ]
        write_stub(Filtered, source, take_basis(), parameters={}, outputs={"documents": shards})
    command = [sys.executable, "-m", "pipeline.stages", "dedup"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "EVERYSTEP_WORKERS": str(workers)}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    outputs = sorted(path for path in Path("data/deduplicated").rglob("*") if path.is_file())
    manifest = Path(manifest_path("dedup")).read_bytes()
    assert b'"near_duplicate"' in manifest
    assert b'"exact_duplicate"' in manifest
    assert not Path(".work/dedup").exists(), "scratch was left behind"
    return [manifest.partition(b'"outputs"')[2], *(path.read_bytes() for path in outputs)]


def test_order_of_files_and_number_of_workers_change_no_byte(
    tmp_path: Path, corpora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = deduplicated(tmp_path / "one", corpora, order=1, workers=1, monkeypatch=monkeypatch)
    assert len(first) > 5, "several shards"
    assert deduplicated(tmp_path / "four", corpora, order=2, workers=4, monkeypatch=monkeypatch) == first


def filter_to(corpora: Path, documents: list[Document], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the filter leaves here: a shard of each source. This process works on it, and no other test's."""
    monkeypatch.setenv("EVERYSTEP_WORKERS", "1")
    Path("params.yaml").write_bytes(pretty(params(corpora)))
    for source in SOURCES:
        own = [document for document in documents if document.source == source]
        shard = write_documents(FILTERED / source / SHARD, own, SHARD)
        write_stub(Filtered, source, take_basis(), parameters={}, outputs={"documents": [shard]})


@pytest.mark.parametrize("documents", [0, 2])
def test_an_empty_split_stops_the_build_before_anything_is_trained_on_it(
    tmp_path: Path, corpora: Path, monkeypatch: pytest.MonkeyPatch, documents: int
) -> None:
    monkeypatch.chdir(tmp_path)
    filter_to(corpora, corpus()[1 : 1 + documents], monkeypatch)
    split = "validation" if documents else "train"
    message = rf"dedup\.validation_share: at 0\.1 the {split} split holds no document of {documents};"
    with pytest.raises(EverystepError, match=message):
        dedup()
    assert not Path(manifest_path("dedup")).exists()


def test_a_source_that_repeats_another_may_go_as_a_whole_and_that_is_said(
    tmp_path: Path, corpora: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = SOURCES[:2]
    texts = [document for document in corpus() if document.source == first]
    copies = [
        Document(document.id.replace(first, second, 1), document.text, document.metadata | {"source": second})
        for document in texts
    ]
    filter_to(corpora, [*texts, *copies], monkeypatch)
    with pytest.raises(EverystepError, match=rf"dedup\.max_removed_share: {second} loses 100\.0%"):
        dedup()
    tree = params(corpora)
    tree["dedup"]["max_removed_share"] = 1.0
    Path("params.yaml").write_bytes(pretty(tree))
    dedup()
    assert f"{second}: all are duplicates" in capsys.readouterr().err
    assert set(read_json(manifest_path("dedup"))["documents_by_source"]) == {first}


def test_documents_that_were_compared_with_a_part_of_their_candidates_are_counted(
    tmp_path: Path, corpora: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """4,000 documents under one header took the square of them; with a small bound, few are enough to see it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(duplicates, "MAX_COMPARED", 3)
    header = " ".join(f"h{word}" for word in range(60))
    texts = [f"{header} " + " ".join(f"t{text}w{word}" for word in range(15)) for text in range(60)]
    documents = [
        Document(f"letters/{number:02d}", text, {"license": "CC0-1.0", "source": "letters", "text_sha256": ""})
        for number, text in enumerate(texts)
    ]
    filter_to(corpora, documents, monkeypatch)
    dedup()
    manifest = read_json(manifest_path("dedup"))
    assert manifest["documents"] == 60
    assert 40 < manifest["compared_in_part"] < 60
    assert f"dedup: {manifest['compared_in_part']} documents stay" in capsys.readouterr().err


def test_a_shard_with_other_than_its_promised_documents_is_named(
    tmp_path: Path, corpora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    filter_to(corpora, corpus(), monkeypatch)
    write_documents(FILTERED / SOURCES[0] / SHARD, corpus()[:1], SHARD)
    with pytest.raises(EverystepError, match=f"{SOURCES[0]}/{SHARD}: the manifest promises .* found 1 lines"):
        dedup()
