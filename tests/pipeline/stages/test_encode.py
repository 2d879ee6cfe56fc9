"""Lines of documents, column by column: what the parser of one line takes, and nothing else."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.base.errors import EverystepError
from pipeline.formats.documents import Document, decode_columns, decode_document, encode_document, text_sha256
from pipeline.stages.tokenize import encode
from tests.pipeline.formats.values import TEXTS

HERE = Path("here.jsonl.zst")
PLAIN = encode_document(Document("s/1", "a \u00e9\0\n\U0001f600", {"license": "l", "source": "s", "text_sha256": "0"}))


def document(id: str, text: str, more: str) -> Document:
    return Document(id, text, {"license": "l", "source": "s", "text_sha256": text_sha256(text), "z": more})


@given(st.lists(st.builds(document, TEXTS, TEXTS, TEXTS), min_size=1, max_size=20))
def test_columns_are_those_of_the_documents_one_by_one(documents: list[Document]) -> None:
    lines = [encode_document(document) for document in documents]
    columns = {name: column.to_pylist() for name, column in decode_columns(b"".join(lines), HERE).items()}
    assert [decode_document(line, HERE) for line in lines] == documents
    assert columns["id"] == [document.id for document in documents]
    assert columns["text"] == [document.text for document in documents]
    for key in ("license", "source", "text_sha256"):
        assert columns[key] == [document.metadata[key] for document in documents]


@pytest.mark.parametrize(
    "damaged",
    [
        b"\n",
        b"[1]\n",
        b"x\n",
        b'{"id":"a"}\n',
        PLAIN.replace(b'"s/1"', b"1"),
        PLAIN.replace(b'"s/1"', b"null"),
        PLAIN.replace(b'"text":"a', b'"text":"\xff'),
        PLAIN.replace(b'"text":"a', b'"text":"\\ud800'),
        PLAIN.replace(b'"text"', b'"texts"'),
        PLAIN.replace(b'"source":"s",', b""),
        PLAIN.replace(b'"license":"l"', b'"license":["l"]'),
        PLAIN.replace(b"\n", b" ") + PLAIN,
        PLAIN[:-9] + b"\n",
    ],
)
def test_a_line_that_is_no_document_is_refused_by_its_file(damaged: bytes) -> None:
    with pytest.raises(EverystepError, match=r"^here\.jsonl\.zst: a line is not a document"):
        decode_columns(PLAIN + damaged + PLAIN, HERE)


@pytest.mark.parametrize("at_once", [1, 5000, 10**9])
def test_frames_are_joined_whole_and_none_is_lost(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(encode, "BYTES_AT_ONCE", at_once)
    frames = [bytes([number]) * 1000 for number in range(23)]
    blocks = list(encode._blocks(frames))
    assert b"".join(blocks) == b"".join(frames)
    assert all(at_once <= len(block) < at_once + 1000 for block in blocks[:-1])
