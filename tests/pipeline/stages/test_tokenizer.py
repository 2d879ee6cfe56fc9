"""What the tokenizer is trained on."""

import random
from pathlib import Path

import pytest

from pipeline.base.paths import DEDUPLICATED, TOKENIZER
from pipeline.formats.canonical import pretty
from pipeline.formats.current import take_basis
from pipeline.formats.documents import Document
from pipeline.formats.manifests import Deduplicated
from pipeline.formats.stages import manifest_path
from pipeline.stages.tokenizer import tokenizer
from tests.project import WORDS, params
from tests.releases import read_json
from tests.shards import write_documents
from tests.stubs import write_stub

SHARD = "train/000000.jsonl.zst"


def trained(folder: Path, corpora: Path, texts: list[str], sample_bytes: int) -> bytes:
    """Train on these texts in `folder`, the working directory; the tokenizer."""
    metadata = {"license": "CC0-1.0", "source": "letters", "text_sha256": ""}
    documents = [Document(f"letters/{number}", text, metadata) for number, text in enumerate(texts)]
    shard = write_documents(DEDUPLICATED / SHARD, documents, SHARD)
    sizes = sum(len(text.encode()) for text in texts)
    write_stub(Deduplicated, None, take_basis(), parameters={}, outputs={"train": [shard]}, bytes=sizes)
    tree = params(corpora)
    tree["tokenizer"] = {"vocabulary": 320, "sample_bytes": sample_bytes}
    (folder / "params.yaml").write_bytes(pretty(tree))
    tokenizer()
    return TOKENIZER.read_bytes()


def some(number: int) -> str:
    return " ".join(random.Random(number).choices(WORDS, k=300))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("sample_bytes", [1, 1000])
def test_a_first_document_larger_than_the_sample_is_the_sample(here: Path, corpora: Path, sample_bytes: int) -> None:
    first = trained(here, corpora, [some(1)], sample_bytes=10**6)
    assert read_json(manifest_path("tokenizer"))["vocabulary"] == 320
    assert trained(here, corpora, [some(1), some(2)], sample_bytes) == first


def test_a_sample_is_the_first_whole_documents_that_fit(here: Path, corpora: Path) -> None:
    sizes = [len(some(number).encode()) for number in range(3)]
    two = trained(here, corpora, [some(0), some(1)], sample_bytes=10**6)
    assert trained(here, corpora, [some(0), some(1), some(2), "short"], sum(sizes) - 1) == two
    assert trained(here, corpora, [some(0), some(1), some(2)], sum(sizes)) != two
