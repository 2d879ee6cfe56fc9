"""Every vector of `docs/formats.md` against the code and against a second reader that knows only the document."""

import hashlib
import json
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.base.errors import EverystepError
from pipeline.base.files import safe_join
from pipeline.blocks import counting, mixture, pairs
from pipeline.blocks.fill_in_the_middle import Filling
from pipeline.formats import (
    checkpoints,
    digests,
    documents,
    explorer,
    forgotten,
    lines,
    manifests,
    order,
    rows,
    sampling,
    search_index,
    stages,
    tables,
    tasks,
    transcript,
    trees,
    vocabulary,
)
from pipeline.formats.canonical import canonical, parse, pretty
from pipeline.signing import envelopes, keys
from pipeline.stages.search import sorted_suffixes
from tests.pipeline.formats import second_reader as second
from tests.pipeline.formats.vectors import DOCUMENT, Case, vectors
from tests.shards import read_lines

VECTORS = vectors()
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1"}
CURVES = {curve.name: curve for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())}
SCHEMAS = {"removals": tables.REMOVALS, "replaced": tables.REPLACED, "index": tables.DOCUMENT_INDEX}

CHECKS: dict[str, Callable[[Case, Path], None]] = {}


def checks(name: str) -> Callable[[Callable[[Case, Path], None]], Callable[[Case, Path], None]]:
    """Registers what is asserted of each case of a block."""

    def register(check: Callable[[Case, Path], None]) -> Callable[[Case, Path], None]:
        assert name not in CHECKS
        CHECKS[name] = check
        return check

    return register


def test_every_block_of_the_document_is_checked() -> None:
    assert VECTORS.keys() == CHECKS.keys()
    assert DOCUMENT.read_text().count("\n```json") == len(CHECKS)
    assert all(VECTORS.values())


@pytest.mark.parametrize(("name", "number"), [(name, i) for name, cases in VECTORS.items() for i in range(len(cases))])
def test_vector_holds_for_the_code_and_for_a_second_reader(name: str, number: int, tmp_path: Path) -> None:
    CHECKS[name](VECTORS[name][number], tmp_path)


@checks("canonical")
def _(case: Case, _: Path) -> None:
    expected = bytes.fromhex(case["hex"])
    assert canonical(case["value"]) == expected
    assert lines.encode_line(case["value"]) == expected + b"\n"
    assert second.canonical(case["value"]).encode() == expected
    assert parse(expected) == case["value"]
    assert canonical(parse(expected)) == expected


@checks("indented")
def _(case: Case, _: Path) -> None:
    assert pretty(case["value"]).decode() == case["text"] == second.indented(case["value"]) + "\n"
    assert parse(case["text"]) == case["value"]


@checks("refused-json")
def _(case: Case, _: Path) -> None:
    with pytest.raises(EverystepError, match=r"^some\.json: not valid JSON: "):
        parse(bytes.fromhex(case["hex"]), "some.json")


@checks("paths")
def _(case: Case, folder: Path) -> None:
    assert second.is_allowed(case["path"]) == case["allowed"]
    if case["allowed"]:
        assert safe_join(folder, case["path"]) == folder / case["path"]
    else:
        with pytest.raises(EverystepError):
            safe_join(folder, case["path"])


@checks("seek-table")
def _(case: Case, _: Path) -> None:
    frames = [tuple(frame) for frame in case["frames"]]
    assert lines._seek_table([(stored, size) for stored, size in frames]).hex() == case["hex"]
    assert second.read_seek_table(bytes.fromhex(case["hex"])) == frames


@checks("line-files")
def _(case: Case, folder: Path) -> None:
    expected = [case["line"].replace("#", str(i)).encode() for i in range(case["repeat"])]
    published = folder / "published"
    published.write_bytes(bytes.fromhex(case["file"]))
    for path in (published, folder / "ours"):
        if path.name == "ours":
            shard = lines.write_lines(path, [line + b"\n" for line in expected], "ours")
            assert (shard.lines, shard.bytes, shard.sha256) == (case["lines"], case["bytes"], case["sha256"])
        assert list(read_lines(path)) == expected == second.read_lines(path)
        with lines.LineFile(path) as file:
            assert file.digest() == (case["lines"], case["bytes"], case["sha256"])
    assert second.digest_of_lines(expected) == (case["lines"], case["bytes"], case["sha256"])
    assert (folder / "ours").read_bytes() == published.read_bytes(), "another version of the zstd library?"


@checks("documents")
def _(case: Case, folder: Path) -> None:
    tree = {key: case[key] for key in ("id", "metadata", "text")}
    document = documents.Document(**tree)
    line = bytes.fromhex(case["hex"])
    assert documents.encode_document(document) == line == second.canonical(tree).encode() + b"\n"
    assert documents.decode_document(line[:-1], folder) == document
    digest = hashlib.sha256(case["text"].encode()).hexdigest()
    assert documents.text_sha256(document.text) == digest == document.metadata["text_sha256"]


@checks("id-hash")
def _(case: Case, _: Path) -> None:
    arguments = case["id"], case["purpose"], case["seed"]
    assert str(documents.id_hash(*arguments)) == case["hash"] == str(second.id_hash(*arguments))


@checks("validation")
def _(case: Case, _: Path) -> None:
    limit = second.share_limit(case["share"])
    assert str(limit) == case["limit"]
    ids = [case["id"]] if "id" in case else [f"s/{i}" for i in range(50)]
    seed = case.get("seed", 0)
    for id in ids:
        held_out = second.id_hash(id, "validation", seed) < limit
        ours = documents.id_hash(id, "validation", seed) < documents.share_limit(case["share"])
        assert ours == held_out == case.get("held_out", held_out)


@checks("table-digest")
def _(case: Case, folder: Path) -> None:
    promised = case["lines"], case["bytes"], case["sha256"]
    shard = tables.write_table(folder / "t.parquet", case["rows"], SCHEMAS[case["table"]], "t.parquet")
    assert (shard.lines, shard.bytes, shard.sha256) == promised
    assert tables.digest_table(folder / "t.parquet") == promised
    assert second.digest_of_lines([second.canonical(row).encode() for row in case["rows"]]) == promised
    assert all(row.keys() == set(SCHEMAS[case["table"]].names) for row in case["rows"])


@checks("rows")
def _(case: Case, _: Path) -> None:
    line = bytes.fromhex(case["hex"])
    assert (
        rows.encode_row(np.array(case["ids"])) == line == second.canonical({"token_ids": case["ids"]}).encode() + b"\n"
    )
    assert rows.decode_row(line, len(case["ids"]), max(case["ids"]) + 1, "here").tolist() == case["ids"]


@checks("mixture")
def _(case: Case, _: Path) -> None:
    wishes = {source: mixture.Wish(**wish) for source, wish in case["sources"].items()}
    if case.get("refused"):
        with pytest.raises(EverystepError):
            mixture.passes(case["tokens"], wishes)
        with pytest.raises(ValueError):
            second.mixture_passes(case["tokens"], case["sources"])
    else:
        assert mixture.passes(case["tokens"], wishes) == case["passes"]
        assert second.mixture_passes(case["tokens"], case["sources"]) == case["passes"]


@checks("copies")
def _(case: Case, _: Path) -> None:
    copies = mixture.num_copies(case["id"], case["passes"], case["seed"])
    expected = [int(number) for number in case["places"]]
    assert [mixture.place(case["id"], copy, case["seed"]) for copy in range(copies)] == expected
    assert second.places(case["id"], case["passes"], case["seed"]) == expected


@checks("fill-in-the-middle")
def _(case: Case, _: Path) -> None:
    filling = Filling(case["share"], case["suffix_first_share"], case["seed"])
    expected = [tuple(piece) for piece in case["pieces"]]
    assert filling.pieces(case["id"], case["text"]) == expected
    shares = case["share"], case["suffix_first_share"]
    assert second.fill_in_the_middle(case["id"], case["text"], case["seed"], *shares) == expected


@checks("forgotten")
def _(case: Case, _: Path) -> None:
    found = forgotten.Forgotten(forgotten.as_spans(case["spans"]), 0)
    assert b"".join(found.lines()).decode() == case["lines"]
    spans = [dict(zip(("row", "start", "stop"), span, strict=True)) for span in case["spans"]]
    assert "".join(second.canonical(span) + "\n" for span in spans) == case["lines"]


@checks("packing")
def _(case: Case, folder: Path) -> None:
    packed, index, dropped = second.pack(case["documents"], case["end_token"], case["width"])
    assert (packed, index, dropped) == (case["rows"], case["index"], case["dropped_tail_tokens"])
    about = {"source": "s", "license": "l", "text_sha256": "0", "bytes": 0}
    entries: list[Case] = [{"id": f"s/{i}"} | about | place for i, place in enumerate(index)]
    tables.write_table(folder / "i.parquet", entries, tables.DOCUMENT_INDEX, "i.parquet")
    found = rows.DocumentIndex(folder / "i.parquet", case["width"], len(packed))
    pieces: dict[str, list[int]] = {entry["id"]: [] for entry in entries}
    for number, row in enumerate(packed):
        for span in found.documents_of_row(number):
            pieces[span.id] += row[span.start : span.stop]
            assert number in found.rows_of_document(span.id)[0]
    whole = [id for ids in case["documents"] for id in [*ids, case["end_token"]]]
    assert [id for ids in pieces.values() for id in ids] == whole[: len(whole) - dropped]
    assert found.documents_of_row(len(packed)) == []


@checks("search-index")
def _(case: Case, folder: Path) -> None:
    ids = np.array(case["rows"], dtype=np.uint32)
    suffixes = sorted_suffixes(ids, case["vocabulary"])
    assert suffixes.tolist() == case["suffixes"]
    search_index.write_index_shard(folder, "x", ids.ravel(), suffixes, ids.shape[1], case["vocabulary"])
    table = [parse(line) for line in read_lines(folder / "x.jsonl.zst")]
    found = (suffixes.tolist(), (folder / "x.ids").read_bytes(), (folder / "x.nodes").read_bytes(), table)
    assert found == second.search_index(case["rows"], case["vocabulary"])
    assert (found[1].hex(), found[2].hex(), table) == (case["ids"], case["nodes"], case["table"])


@checks("explorer-documents")
def _(case: Case, _: Path) -> None:
    shown = explorer.DocumentLines(pa.Table.from_pylist(case["index"]), case["width"])
    found = (b"".join(shown.pieces()).decode(), shown.places())
    assert found == second.explorer_documents(case["index"], case["width"])
    assert (found[0], found[1].hex()) == (case["text"], case["places"])


@checks("explorer-losses")
def _(case: Case, _: Path) -> None:
    found = explorer.loss_record(case["row"], (np.array(values, np.float32) for values in case["losses"]))
    assert found == second.explorer_losses(case["row"], case["losses"])
    assert found.hex() == case["hex"]


@checks("asked")
def _(case: Case, _: Path) -> None:
    choice = tasks.Choice(context="a", continuation=" b")
    items = [tasks.Item(id=id, choices=[choice], gold=0) for id in case["ids"]]
    found, told = tasks.ask(case["task"], items, case["most"], {}, definition={})
    assert [item.id for item in found] == case["asked"] == second.asked(case["task"], case["ids"], case["most"])
    assert (told.items, told.found) == (len(case["asked"]), len(case["ids"]))


@checks("pairs")
def _(case: Case, _: Path) -> None:
    limits = pairs.Limits(case["characters"], case["words"])
    text = pairs.Text(case["id"], "a source", case["text"])
    found = pairs.pairs(case["rule"], [text], limits)
    assert [each if isinstance(each, str) else each.to_json() for each in found] == case["found"]
    assert second.pairs(case["rule"], case["id"], case["text"], *limits) == case["found"]


@checks("counting")
def _(case: Case, _: Path) -> None:
    rows, vocabulary, order, ids = (case[key] for key in ("rows", "vocabulary", "order", "ids"))
    counts = counting.CountedRuns(np.array(rows, dtype=np.uint32), vocabulary, order)
    before = np.array([[-1] * max(0, order - 1 - i) + ids[max(0, i - order + 1) : i] for i in range(len(ids))])
    found = counts.probabilities(before, np.array(ids))
    by_hand = [
        [[second.counted(rows, vocabulary, ids[:i], token, n) for token in range(vocabulary)] for i in range(len(ids))]
        for n in range(1, order + 1)
    ]
    exact = [[float(each[i][ids[i]]) for i in range(len(ids))] for each in by_hand]
    assert found.tolist() == pytest.approx(np.array(exact), rel=1e-15)
    assert case["probabilities"] == [[round(value, 12) for value in each] for each in exact]
    likeliest = np.array([counts.most_likely(each) for each in before]).T.tolist()
    assert likeliest == case["likeliest"] == [[probs.index(max(probs)) for probs in each] for each in by_hand]


@checks("token-bytes")
def _(case: Case, folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(case["tokenizer"]))
    assert vocabulary.token_bytes(path).tolist() == case["bytes"] == second.token_bytes(case["tokenizer"])
    assert vocabulary.end_token(path) == case["end_token"]


@checks("mix")
def _(case: Case, _: Path) -> None:
    z = int(case["z"], 16)
    assert int(order._mix(np.array([z], dtype=np.uint64))[0]) == int(case["mix"], 16) == second.mix(z)


@checks("round-keys")
def _(case: Case, _: Path) -> None:
    keys = [int(key, 16) for key in case["keys"]]
    assert [int(key) for key in order._round_keys(case["seed"], case["epoch"])] == keys
    assert second.round_keys(case["seed"], case["epoch"]) == keys


@checks("permutation")
def _(case: Case, _: Path) -> None:
    arguments = case["num_rows"], case["seed"], case["epoch"]
    positions = case["positions"] if "positions" in case else list(range(case["num_rows"]))
    assert order.permute(np.array(positions, dtype=np.uint64), *arguments).tolist() == case["rows"]
    assert order.unpermute(np.array(case["rows"], dtype=np.uint64), *arguments).tolist() == positions
    assert [second.permute(position, *arguments) for position in positions] == case["rows"]
    assert [second.unpermute(row, *arguments) for row in case["rows"]] == positions


@checks("steps")
def _(case: Case, _: Path) -> None:
    arguments = case["step"], case["global_batch"], case["num_rows"], case["seed"]
    assert order.rows_of_step(*arguments).tolist() == case["rows"] == second.rows_of_step(*arguments)


@checks("steps-of-row")
def _(case: Case, _: Path) -> None:
    arguments = case["row"], case["global_batch"], case["num_rows"], case["seed"], case["num_steps"]
    found = order.steps_of_rows(np.array([case["row"]], dtype=np.uint64), *arguments[1:])
    assert found == case["steps"] == second.steps_of_row(*arguments)


@checks("tensors")
def _(case: Case, _: Path) -> None:
    ours = as_arrays(case["tensors"])
    leaves = {name: bytes.fromhex(leaf) for name, leaf in case["leaves"].items()}
    assert {name: digests.tensor_leaf(name, tensor) for name, tensor in ours.items()} == leaves
    assert {tensor["name"]: second.tensor_leaf(tensor) for tensor in case["tensors"]} == leaves
    assert digests.tensors_digest(ours) == case["digest"] == second.tensors_digest(case["tensors"])
    assert digests.combine_leaves([leaves[name] for name in sorted(leaves)]) == case["digest"]


@checks("safetensors")
def _(case: Case, folder: Path) -> None:
    ours, file = as_arrays(case["tensors"]), bytes.fromhex(case["file"])
    checkpoints.write_tensors(folder / "ours.safetensors", ours)
    assert (folder / "ours.safetensors").read_bytes() == file == second.write_tensors(case["tensors"])
    assert sorted(map(str, second.read_tensors(file))) == sorted(map(str, case["tensors"]))
    assert digests.differing_tensors(checkpoints.read_tensors(folder / "ours.safetensors"), ours) == []


@checks("revisions")
def _(case: Case, _: Path) -> None:
    arguments = case["step"], case["tokens"]
    assert checkpoints.revision(*arguments) == case["revision"] == second.revision(*arguments)


@checks("schedules")
def _(case: Case, _: Path) -> None:
    if "refused" in case:
        with pytest.raises(EverystepError, match="is not a schedule"):
            checkpoints.schedule(case["rule"], case["num_steps"])
    else:
        arguments = case["rule"], case["num_steps"]
        assert checkpoints.schedule(*arguments) == case["steps"] == second.schedule(*arguments)


@checks("state-digest")
def _(case: Case, _: Path) -> None:
    arguments = case["weights"], case["optimizer"], case["step"]
    assert checkpoints.state_digest(*arguments) == case["state_digest"] == second.state_digest(*arguments)


@checks("record")
def _(case: Case, folder: Path) -> None:
    record = checkpoints.Record.from_json(case["record"], "record")
    checkpoints.write_record(folder, record)
    assert (folder / checkpoints.RECORD).read_text() == case["text"] == second.indented(case["record"]) + "\n"
    assert checkpoints.read_record(folder) == record
    promised = second.state_digest(record.weights_digest, record.optimizer_digest, record.step)
    assert record.state_digest == promised
    assert record.revision == second.revision(record.step, record.tokens)


@checks("manifest")
def _(case: Case, folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(case["text"])
    manifest = manifests.read_any_manifest(path)
    assert pretty(manifest.to_json()).decode() == case["text"] == second.indented(json.loads(case["text"])) + "\n"
    assert case["path"] == manifest.path.as_posix()
    published = {other["path"]: other["text"] for other in VECTORS["manifest"]}
    for upstream, digest in manifest.inputs.items():
        assert hashlib.sha256(published[upstream].encode()).hexdigest() == digest


@checks("elements")
def _(case: Case, _: Path) -> None:
    about = (bytes.fromhex(case["memory"]), case["dtype"], case["shape"], case["strides"])
    content = second.elements(*about)
    assert content.hex() == case.get("elements", content.hex())
    claim = {key: case[key] for key in ("dtype", "shape", "strides", "digest")} | {
        "tensor": "",
        "content": content.hex(),
    }
    assert transcript.Claim.from_json(claim, "a vector").num_bytes == len(content)  # which compares the digest
    assert second.elements_digest(content) == case["digest"]


@checks("proofs")
def _(case: Case, _: Path) -> None:
    contents = [bytes.fromhex(content) for content in case["contents"]]
    leaves = [trees.leaf(content) for content in contents]
    assert trees.root(leaves).hex() == case["root"]
    assert [digest.hex() for digest in trees.prove(leaves, case["shown"])] == case["proof"]
    shown = {number: contents[number] for number in case["shown"]}
    assert second.root_by_proof(len(contents), shown, case["proof"]) == case["root"]


@checks("transcript")
def _(case: Case, folder: Path) -> None:
    path = folder / "transcript.jsonl"
    path.write_text(case["text"])
    found = transcript.read(path)
    assert found.root == second.transcript_root(case["text"]) == case["root"]
    transcript.write(path, found)
    assert path.read_text() == case["text"]


@checks("manifest-paths")
def _(case: Case, _: Path) -> None:
    assert stages.manifest_path(case["stage"], case["of"]).as_posix() == case["path"]


def as_arrays(tensors: list[Case]) -> dict[str, digests.Tensor]:
    """The arrays that a vector describes."""
    return {
        tensor["name"]: np.frombuffer(bytes.fromhex(tensor["data"]), DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
        for tensor in tensors
    }


@checks("signatures")
def _(case: Case, _: Path) -> None:
    key = ec.derive_private_key(case["private"], CURVES[case["curve"]])
    message, found = case["signed"].encode(), b64decode(case["sig"])
    assert keys.pem(key.public_key()).decode() == case["public"] and keys.key_id(key.public_key()) == case["key_id"]
    assert envelopes.pae(case["payload"].encode()) == message and keys.signature(key, message) == found
    assert keys.is_signed(keys.parse_public(case["public"].encode(), Path("p")), message, found)
    assert second.key_id(case["public"]) == case["key_id"]
    assert second.is_signed(case["public"], case["payload"].encode(), case["sig"])
    assert not second.is_signed(case["public"], case["payload"].encode() + b" ", case["sig"])


@checks("stretches")
def _(case: Case, _: Path) -> None:
    root, beacon, sample, every = (case[key] for key in ("root_sha256", "beacon", "sample", "stretches"))
    found = sampling.choose(root, beacon, [sampling.Stretch(*stretch) for stretch in every], sample)
    assert [[*stretch] for stretch in found] == case["chosen"] == second.chosen(root, beacon, every, sample)
    for bad, caught in case["chances"]:
        assert sampling.chance_to_catch(bad, sample, len(every)) == caught == second.caught(bad, sample, len(every))
