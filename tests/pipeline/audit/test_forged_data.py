"""Forged data: an attacker changes rows, texts, removals or the form of files, and makes every digest fit again.

Each forgery has the lowest rung of the ladder that catches it, and the same table is in docs/reference/forgeries.md.
What only the sources can show passes `verify`, and the table says so.
"""

import hashlib
import json
import struct
import unicodedata
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from pipeline.audit.agreement import disagreements
from pipeline.audit.chain import chain_faults
from pipeline.audit.recompute.table import recomputed_faults
from pipeline.base.files import sha256_file, write_bytes
from pipeline.base.paths import TASKS
from pipeline.formats import checkpoints as ck
from pipeline.formats.canonical import parse, pretty
from pipeline.formats.documents import id_hash
from pipeline.formats.lines import LineFile, write_lines
from pipeline.formats.release import ROOT, SUMS
from pipeline.formats.rows import write_order
from pipeline.formats.tables import ITEMS, ITEMS_FILE, REPLACED, read_table, removal, replacement, write_table
from pipeline.formats.tasks import Item, task_file, write_task
from pipeline.release.release import Release
from pipeline.release.report.data import DOCUMENTS, PLACES, losses_file
from pipeline.release.rungs import Rung
from pipeline.stages.tasks.stage import item_rows
from tests.pipeline.audit.forging import (
    TOKENIZER,
    TOKENS,
    Forgery,
    Ids,
    Lines,
    Tree,
    asked_again,
    edit,
    edit_index,
    edit_params,
    edit_removals,
    edit_rows,
    placed,
    recount,
    rows_of,
    sealed,
    start_of,
    texts,
    unread,
    write_index,
)
from tests.releases import checkpoint, copied, everystep, read_json, reseal_sums, write_json

RECOMPUTED, REBUILT = Rung.RECOMPUTED, Rung.REBUILT
TRAIN, VALIDATION = f"{TOKENS}/train.parquet", f"{TOKENS}/validation.parquet"
TALES, NOTES, LETTERS, DEDUP = "filtered/tales", "filtered/notes", "filtered/letters", "deduplicated"


# Documents and rows


def ids_exchanged(release: Path) -> None:
    def swap(lines: Lines) -> None:
        one, other = [line for line in lines if line["source"] == "notes"][:2]
        one["id"], other["id"] = other["id"], one["id"]

    edit_index(release, swap)


def digests_exchanged(release: Path) -> None:
    def swap(lines: Lines) -> None:
        lines[3]["text_sha256"], lines[4]["text_sha256"] = lines[4]["text_sha256"], lines[3]["text_sha256"]

    edit_index(release, swap)


def document_added(release: Path) -> None:
    def split(lines: Lines) -> None:
        line = lines[5]
        half = line["num_tokens"] // 2
        lines.insert(5, line | {"id": f"{line['source']}/new", "num_tokens": half, "bytes": line["bytes"] // 2})
        lines[6] = line | {"num_tokens": line["num_tokens"] - half, "bytes": line["bytes"] - line["bytes"] // 2}
        placed(lines, 33)

    edit_index(release, split)
    recount(release)
    edit(release, "deduplicated", lambda tree: tree["documents_by_split"].update(train=289))
    edit(release, "deduplicated", lambda tree: tree.update(documents=tree["documents"] + 1))
    edit(release, "filtered/notes", lambda tree: tree.update(documents=tree["documents"] + 1))
    edit(release, "documents/notes", lambda tree: tree.update(documents=tree["documents"] + 1))


def document_taken_out(release: Path) -> None:
    def join(lines: Lines) -> None:
        one, other = lines[5], lines.pop(6)
        one["num_tokens"] += other["num_tokens"]
        one["bytes"] += other["bytes"]
        placed(lines, 33)

    edit_index(release, join)
    recount(release)
    edit(release, "deduplicated", lambda tree: tree["documents_by_split"].update(train=287))
    edit(release, "deduplicated", lambda tree: tree.update(documents=tree["documents"] - 1))
    edit(release, "filtered/notes", lambda tree: tree.update(documents=tree["documents"] - 1))
    edit(release, "documents/notes", lambda tree: tree.update(documents=tree["documents"] - 1))


def hidden_from_the_explorer(release: Path) -> None:
    path = release / DOCUMENTS
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:]))


def placed_otherwise_for_the_explorer(release: Path) -> None:
    path = release / PLACES
    path.write_bytes(path.read_bytes()[:-16])


def loss_lowered_for_the_explorer(release: Path) -> None:
    path = release / losses_file("mobilellm")
    content = bytearray(path.read_bytes())
    content[9] -= 1
    path.write_bytes(content)


OF_THE_EXPLORER = (hidden_from_the_explorer, placed_otherwise_for_the_explorer, loss_lowered_for_the_explorer)


def row_edited(release: Path) -> None:
    at = start_of(release, unread(release))

    def change(ids: Ids) -> None:
        ids[at + 5] = 300

    edit_rows(release, change)


def rows_exchanged(release: Path) -> None:
    first = start_of(release, unread(release, 4)) // 33 + 1

    def swap(ids: Ids) -> None:
        rows = ids.reshape(-1, 33)
        rows[[first, first + 1]] = rows[[first + 1, first]]

    edit_rows(release, swap)


def held_out_row_edited(release: Path) -> None:
    at = start_of(release, 12, "validation")

    def change(ids: Ids) -> None:
        ids[at + 5] = 300

    edit_rows(release, change, "validation")


def other_ids_of_the_text(release: Path) -> None:
    """The same bytes of text by as many other tokens."""
    pieces = texts(release)
    known = {text: id for id, text in enumerate(pieces) if text}
    at, number = start_of(release, unread(release)), rows_of(release).size

    def change(ids: Ids) -> None:
        for place in range(at, min(at + 300, number - 1)):
            one, other = pieces[ids[place]], pieces[ids[place + 1]]
            for cut in range(1, len(one + other)) if one and other else ():
                left, right = known.get((one + other)[:cut]), known.get((one + other)[cut:])
                if left is not None and right is not None and cut != len(one):
                    ids[place : place + 2] = [left, right]
                    return
        raise AssertionError

    edit_rows(release, change)


def border_moved(release: Path) -> None:
    def move(lines: Lines) -> None:
        lines[8]["num_tokens"] += 1
        lines[9]["num_tokens"] -= 1
        placed(lines, 33)

    edit_index(release, move)
    recount(release)


def bytes_moved(release: Path) -> None:
    def move(lines: Lines) -> None:
        one, other = [line for line in lines if line["source"] == "notes"][:2]
        one["bytes"] += 7
        other["bytes"] -= 7

    edit_index(release, move)


def lines_exchanged(release: Path) -> None:
    def swap(lines: Lines) -> None:
        lines[8], lines[9] = lines[9], lines[8]
        placed(lines, 33)

    edit_index(release, swap)


def hidden_from_search(release: Path) -> None:
    """Index the rows without the beginning of one: no question finds it."""
    rows = rows_of(release)
    rows[3, :9] = read_json(release / "manifests/tokens.json")["end_token"]
    write_index(release, rows)


def tail_grown(release: Path) -> None:
    def grow(tree: Tree) -> None:
        tree["splits"]["validation"]["dropped_tail_tokens"] -= 3

    edit(release, "tokens", grow)


def index_cut(release: Path) -> None:
    edit_index(release, lambda lines: lines.pop(), "validation")
    recount(release)
    edit(release, "deduplicated", lambda tree: tree["documents_by_split"].update(validation=29))
    edit(release, "deduplicated", lambda tree: tree.update(documents=tree["documents"] - 1))
    edit(release, "filtered/notes", lambda tree: tree.update(documents=tree["documents"] - 1))
    edit(release, "documents/notes", lambda tree: tree.update(documents=tree["documents"] - 1))


def other_held_out_document(release: Path) -> None:
    seed = read_json(release / "manifests/deduplicated.json")["parameters"]["seed"]
    id = next(f"tales/x{n}" for n in range(99) if id_hash(f"tales/x{n}", "validation", seed) > 1 << 62)
    edit_index(release, lambda lines: lines[2].update(id=id, source="tales"), "validation")
    recount(release)


def trained_and_held_out(release: Path) -> None:
    taken: Lines = []
    edit_index(release, lambda lines: taken.append(dict(lines[7])))
    edit_index(release, lambda lines: lines[2].update(text_sha256=taken[0]["text_sha256"]), "validation")


def license_of_one(release: Path) -> None:
    edit_index(release, lambda lines: lines[4].update(license="MIT"))
    recount(release)


def source_of_one(release: Path) -> None:
    edit_index(release, lambda lines: lines[4].update(source="letters" if lines[4]["source"] != "letters" else "notes"))
    recount(release)


# The tokenizer


def edit_tokenizer(release: Path, change: Callable[[Tree], object]) -> None:
    """Change the tokenizer, and what manifests say of it."""
    path = release / TOKENIZER
    tree = json.loads(path.read_bytes())
    change(tree)
    write_bytes(path, (json.dumps(tree, indent=2, ensure_ascii=False) + "\n").encode())
    sha256 = sha256_file(path)
    edit(release, "tokenizer", lambda tree: tree["files"][0].update(sha256=sha256))
    for model in ("mobilellm", "openelm"):
        edit(release, f"evaluations/{model}", lambda tree: tree.update(tokenizer_sha256=sha256))


def tokens_exchanged(release: Path) -> None:
    def swap(tree: Tree) -> None:
        vocabulary = tree["model"]["vocab"]
        vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]

    edit_tokenizer(release, swap)


def merges_exchanged(release: Path) -> None:
    def swap(tree: Tree) -> None:
        model = tree["model"]
        model["merges"][-2:] = model["merges"][:-3:-1]
        one, other = ("".join(pair) for pair in model["merges"][-2:])
        model["vocab"][one], model["vocab"][other] = model["vocab"][other], model["vocab"][one]
        model["vocab"] = dict(sorted(model["vocab"].items(), key=lambda item: item[1]))

    edit_tokenizer(release, swap)


def normalizer_added(release: Path) -> None:
    edit_tokenizer(release, lambda tree: tree.update(normalizer={"type": "Lowercase"}))


# Removals


def counted(release: Path, source: str, reason: str, change: int, step: str | None = None) -> None:
    """Let the manifests of a source count more or fewer removals, in sum."""

    def recount_filtered(tree: Tree) -> None:
        tree["removed"][reason] = tree["removed"].get(reason, 0) + change
        tree["removed"] = {key: number for key, number in tree["removed"].items() if number}
        for tally in tree["steps"]:
            if tally["step"] == step:
                tally["removed"][reason] = tally["removed"].get(reason, 0) + change
                tally["removed"] = {key: number for key, number in tally["removed"].items() if number}

    edit(release, f"filtered/{source}", recount_filtered)
    edit(release, f"documents/{source}", lambda tree: tree.update(documents=tree["documents"] + change))


def removal_hidden(release: Path) -> None:
    edit_removals(release, LETTERS, lambda lines: lines.clear())
    counted(release, "letters", "contamination", -1, "contamination")
    edit(release, LETTERS, lambda tree: tree["steps"][-1]["counts"].clear())
    edit(release, LETTERS, lambda tree: tree["examples"].clear())


def removal_invented(release: Path) -> None:
    made = removal("filter", "tales", "tales/none", "cap", bytes=900)
    edit_removals(release, TALES, lambda lines: lines.append(made))
    counted(release, "tales", "cap", 1)


def removal_without_its_number(release: Path) -> None:
    """A document under the cap that is said to have been too short."""
    edit_removals(release, TALES, lambda lines: lines[0].update(reason="gopher_short_doc", detail="300"))
    edit(release, TALES, lambda tree: tree["removed"].update(cap=tree["removed"]["cap"] - 1, gopher_short_doc=1))


def removal_of_no_step(release: Path) -> None:
    edit_removals(release, NOTES, lambda lines: lines[0].update(reason="fineweb_dislikes"))
    edit(release, NOTES, lambda tree: tree.update(removed={"fineweb_dislikes": 1}))


def removal_of_another_source(release: Path) -> None:
    edit_removals(release, TALES, lambda lines: lines[0].update(id="notes/404"))


def removal_repeated(release: Path) -> None:
    edit_removals(release, TALES, lambda lines: lines[1].update(id=lines[0]["id"]))


def removal_of_a_kept_document(release: Path) -> None:
    kept: list[str] = []
    edit_index(release, lambda lines: kept.extend(line["id"] for line in lines if line["source"] == "tales"))
    edit_removals(release, TALES, lambda lines: lines[3].update(id=kept[0]))


def kept_unknown(release: Path) -> None:
    edit_removals(release, DEDUP, lambda lines: lines[0].update(kept="letters/999"))


def kept_of_lower_rank(release: Path) -> None:
    edit_removals(release, DEDUP, lambda lines: lines[1].update(kept="tales/119"))


def similarity_said(reason: str, similarity: float) -> Callable[[Path], None]:
    def forge(release: Path) -> None:
        def change(lines: Lines) -> None:
            next(line for line in lines if line["reason"] == reason)["similarity"] = similarity

        edit_removals(release, DEDUP, change)

    return forge


def duplicate_of_another_kind(release: Path) -> None:
    edit_removals(release, DEDUP, lambda lines: lines[0].update(reason="near_duplicate"))
    edit(release, DEDUP, lambda tree: tree.update(removed={"near_duplicate": 2}))


def duplicates_reordered(release: Path) -> None:
    edit_removals(release, DEDUP, lambda lines: lines.reverse())


def smaller_duplicate(release: Path) -> None:
    edit_removals(release, DEDUP, lambda lines: lines[0].update(bytes=lines[0]["bytes"] - 9))


def larger_cap(release: Path) -> None:
    edit_params(release, lambda tree: tree["sources"]["tales"].update(cap_bytes=70000))
    edit(release, "sources/tales", lambda tree: tree["parameters"].update(cap_bytes=70000))
    edit(release, TALES, lambda tree: tree["parameters"].update(cap_bytes=70000))


def others_under_the_cap(release: Path) -> None:
    limit = id_hash("tales/002", "cap")
    id = next(f"tales/x{n}" for n in range(999) if id_hash(f"tales/x{n}", "cap") < limit // 8)
    edit_removals(release, TALES, lambda lines: lines[0].update(id=id))
    edit(release, TALES, lambda tree: tree["examples"]["cap"].__setitem__(0, id))


def contamination_of_nothing(release: Path) -> None:
    edit_removals(release, LETTERS, lambda lines: lines[0].update(detail="exam q1"))
    edit(release, LETTERS, lambda tree: tree["steps"][-1].update(counts={"exam": 1}))


def contamination_uncounted(release: Path) -> None:
    edit(release, LETTERS, lambda tree: tree["steps"][-1].update(counts={}))


def replacement_said(id: str) -> Callable[[Path], None]:
    def forge(release: Path) -> None:
        path = release / "data" / NOTES / "replaced.parquet"
        write_table(path, [replacement("notes", id, {"email": 2})], REPLACED, path.name)
        edit(release, NOTES, lambda tree: tree["steps"][5].update(counts={"email": 2}, rewritten=int(id == "notes/x")))

    return forge


def documents_of_a_step(release: Path) -> None:
    edit(release, NOTES, lambda tree: tree["steps"][3].update(documents=tree["steps"][3]["documents"] + 1))


def removal_of_another_step(release: Path) -> None:
    def move(tree: Tree) -> None:
        tree["steps"][3]["removed"], tree["steps"][2]["removed"] = tree["steps"][2]["removed"], {}
        tree["steps"][3]["documents"] += 1

    edit(release, NOTES, move)


def bytes_of_a_stage(release: Path) -> None:
    edit(release, NOTES, lambda tree: tree.update(bytes=tree["bytes"] - 100))


def documents_moved_between_sources(release: Path) -> None:
    def move(tree: Tree) -> None:
        tree["documents_by_source"]["letters"] += 1
        tree["documents_by_source"]["notes"] -= 1

    edit(release, DEDUP, move)


def removed_by_another_source(release: Path) -> None:
    edit(release, DEDUP, lambda tree: tree.update(removed_by_source={"letters": 1, "tales": 1}))


def duplicates_of_another_source(release: Path) -> None:
    def move(tree: Tree) -> None:
        tree["duplicates"] = {name: {"notes": sum(kept.values())} for name, kept in tree["duplicates"].items()}

    edit(release, DEDUP, move)


def other_examples(release: Path) -> None:
    edit(release, TALES, lambda tree: tree["examples"]["cap"].reverse())


def more_compared(release: Path) -> None:
    edit(release, "tokens", lambda tree: tree["splits"]["train"]["compared_documents"].update(notes=90))


def other_shards(release: Path) -> None:
    def move(tree: Tree) -> None:
        tree["outputs"]["train"][0]["lines"] += 1
        tree["outputs"]["train"][1]["lines"] -= 1

    edit(release, DEDUP, move)


def other_passes(release: Path) -> None:
    edit(release, "tokens", lambda tree: tree["passes"].update(notes=1.25))


# Form


def hidden_by_statistics(release: Path) -> None:
    """The largest id of a row group is said to be smaller, so who asks for it is told that it is not there."""
    path = release / TRAIN
    largest = max(pq.read_table(path)["id"].to_pylist()).encode()
    content = path.read_bytes()
    begin = content.rindex(b"PAR1") - 4
    footer = begin - struct.unpack("<I", content[begin : begin + 4])[0]
    at = content.rindex(b"\x09" + largest, footer)
    write_bytes(path, content[: at + 1] + b"notes/000" + content[at + 1 + len(largest) :])


def page_index(release: Path) -> None:
    path = release / TRAIN
    table = pq.read_table(path)
    pq.write_table(table, path, compression="zstd", write_page_index=True)


def other_row_groups(release: Path) -> None:
    path = release / "data" / TALES / "removals.parquet"
    pq.write_table(pq.read_table(path), path, compression="zstd", row_group_size=5)


def frames_without_checksum(release: Path) -> None:
    import zstandard

    path = release / TOKENS / "order.jsonl.zst"
    with LineFile(path) as file:
        frames = [zstandard.ZstdCompressor(write_checksum=False).compress(frame) for frame in file.frames()]
        sizes = [len(frame) for frame in file.frames()]
    table = b"".join(struct.pack("<II", len(frame), size) for frame, size in zip(frames, sizes, strict=True))
    table += struct.pack("<IBI", len(frames), 0, 0x8F92EAB1)
    write_bytes(path, b"".join(frames) + struct.pack("<II", 0x184D2A5E, len(table)) + table)


def other_way_to_write(path: str, write: Callable[[Any], bytes]) -> Callable[[Path], None]:
    def forge(release: Path) -> None:
        write_bytes(release / path, write(parse((release / path).read_bytes(), path)))

    return forge


def blanks_in_rows(release: Path) -> None:
    path = release / TOKENS / "train/000000.jsonl.zst"
    with LineFile(path) as file:
        lines = [line.replace(b",", b", ", 1) + b"\n" for line in file]
    write_lines(path, lines, "train/000000.jsonl.zst")


def fraction_in_the_order(release: Path) -> None:
    path = release / TOKENS / "order.jsonl.zst"
    with LineFile(path) as file:
        lines = [line + b"\n" for line in file]
    lines[0] = lines[0].replace(b"}", b".0}")
    write_lines(path, lines, "order.jsonl.zst")


def note_in_tensors(release: Path) -> None:
    path = checkpoint(release, "mobilellm", 4) / ck.WEIGHTS
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"]["note"] = "hello"
    encoded = json.dumps(header).encode()
    write_bytes(path, struct.pack("<Q", len(encoded)) + encoded + content[8 + length :])


def blanks_in_an_evaluation(release: Path) -> None:
    path = release / "results/mobilellm/evaluation.jsonl"
    write_bytes(path, path.read_bytes().replace(b",", b", "))


def file_added(name: str) -> Callable[[Path], None]:
    return lambda release: write_bytes(release / name, b"{}\n")


def recipe_of_another_suite(release: Path) -> None:
    path = release / "recipes/openelm.yaml"
    recipe = parse(path.read_bytes(), path)
    recipe["data"]["micro_batch"] = 4
    write_bytes(path, pretty(recipe))
    edit(release, "models/openelm", lambda tree: tree.update(parameters=recipe))


def order_of_another_seed(release: Path) -> None:
    """The published order, its manifest and `params.yaml` agree; the models read another one."""
    edit_params(release, lambda tree: tree["tokenize"].update(seed=7))
    edit(release, "tokens", lambda tree: tree["parameters"].update(seed=7))
    rows = read_json(release / "manifests" / "tokens.json")["splits"]["train"]["rows"]
    write_order(release / "data/tokens/order.jsonl.zst", "order.jsonl.zst", rows, 7)


def parameters_said(manifest: str, change: Callable[[Tree], object]) -> Callable[[Path], None]:
    return lambda release: edit(release, manifest, lambda tree: change(tree["parameters"]))


def params_changed(change: Callable[[Tree], object]) -> Callable[[Path], None]:
    return lambda release: edit_params(release, change)


def pinned_otherwise(release: Path) -> None:
    edit(release, "sources/notes", lambda tree: tree["files"][0].update(sha256="5" * 64))


def other_pins(release: Path) -> None:
    path = release / "constraints.txt"
    write_bytes(path, path.read_bytes().replace(b"zstandard==", b"zstandard==9"))


def lock_says(change: Callable[[Tree], object]) -> Callable[[Path], None]:
    def forge(release: Path) -> None:
        tree = parse((release / "dvc.lock").read_bytes(), "dvc.lock")
        change(tree["stages"])
        write_json(release / "dvc.lock", tree)

    return forge


# What nothing but the sources can show


def text_edited_everywhere(release: Path) -> None:
    """Two words of a text that no step read change places, in the rows and in the index."""
    number = unread(release)
    at = start_of(release, number)
    lines: Lines = []
    edit_index(release, lambda every: lines.extend(dict(line) for line in every))
    stop = at + lines[number]["num_tokens"] - 1
    ids, pieces = rows_of(release).reshape(-1), texts(release)
    text = b"".join(pieces[id] for id in ids[at:stop]).decode()
    words = text.split(" ")
    words[1], words[2] = words[2], words[1]
    edited = " ".join(words)
    assert edited != text
    from tokenizers import Tokenizer

    encoded = Tokenizer.from_file(str(release / TOKENIZER)).encode(edited, add_special_tokens=False).ids
    assert len(encoded) == stop - at

    def change(stream: Ids) -> None:
        stream[at:stop] = encoded

    edit_rows(release, change)
    sha256 = hashlib.sha256(edited.encode()).hexdigest()
    edit_index(release, lambda every: every[number].update(text_sha256=sha256))


def cut_document_edited(release: Path) -> None:
    def change(ids: Ids) -> None:
        ids[-5] = ids[-6]

    edit_rows(release, change, "validation")


def removal_with_another_number(release: Path) -> None:
    """A contaminated document is said to have been too short, with a number that would have been."""

    def reason(lines: Lines) -> None:
        lines[0].update(reason="gopher_short_doc", detail="12")

    def tell(tree: Tree) -> None:
        tree.update(removed={"gopher_short_doc": 1}, examples={"gopher_short_doc": ["letters/011"]})
        tree["steps"][2]["removed"] = {"gopher_short_doc": 1}
        tree["steps"][6].update(removed={}, counts={})
        for tally in tree["steps"][3:]:
            tally["documents"] = tree["documents"]

    edit_removals(release, LETTERS, reason)
    edit(release, LETTERS, tell)


def removal_invented_everywhere(release: Path) -> None:
    made = removal("filter", "notes", "notes/none", "gopher_short_doc", detail="3", bytes=12)

    def tell(tree: Tree) -> None:
        tree["removed"]["gopher_short_doc"] += 1
        tree["examples"]["gopher_short_doc"].append("notes/none")
        tree["steps"][2]["removed"]["gopher_short_doc"] += 1
        for tally in tree["steps"][:3]:
            tally["documents"] += 1

    def find(tree: Tree) -> None:
        tree.update(documents=tree["documents"] + 1, bytes=tree["bytes"] + 12)
        tree["outputs"]["documents"][0]["lines"] += 1

    edit_removals(release, NOTES, lambda lines: lines.append(made))
    edit(release, NOTES, tell)
    edit(release, "documents/notes", find)


def other_source_file(release: Path) -> None:
    edit_params(release, lambda tree: tree["sources"]["notes"].update(sha256="5" * 64))
    edit(release, "sources/notes", lambda tree: tree["parameters"].update(sha256="5" * 64))
    edit(release, "sources/notes", lambda tree: tree["files"][0].update(sha256="5" * 64))


def license_of_a_source(release: Path) -> None:
    """The word of a publisher, changed wherever it is said."""

    def declare(tree: Tree) -> None:
        tree["sources"]["notes"]["license"] = "MIT"
        tree["filter"]["licenses"] = ["CC0-1.0", "MIT"]

    edit_params(release, declare)
    edit(release, "sources/notes", lambda tree: tree["parameters"].update(license="MIT"))
    for source in ("letters", "notes", "tales"):
        edit(release, f"filtered/{source}", lambda tree: tree["parameters"].update(licenses=["CC0-1.0", "MIT"]))
    for split in ("train", "validation"):
        edit_index(
            release,
            lambda lines: [line.update(license="MIT") for line in lines if line["source"] == "notes"],
            split,
        )
    recount(release)


def indented(tree: Any) -> bytes:
    return (json.dumps(tree, indent=4, sort_keys=True) + "\n").encode()


# Tasks


def gold_exchanged(release: Path) -> None:
    """The changed sentence of a pair is said to be the one of the document."""
    name = "permuted_words"
    with LineFile(release / TASKS / task_file(name)) as file:
        first, *others = [Item.parse(line, name) for line in file]
    items = [first.model_copy(update={"gold": 1 - first.gold}), *others]
    write_task(release / TASKS, name, items)
    write_table(release / TASKS / ITEMS_FILE, item_rows({name: items}), ITEMS, ITEMS_FILE)


def item_of_no_task(release: Path) -> None:
    def change(lines: Lines) -> None:
        lines[0]["item"] = "letters/none#1"

    path = release / TASKS / ITEMS_FILE
    lines = read_table(path, ITEMS).to_pylist()
    change(lines)
    write_table(path, lines, ITEMS, path.name)


def weaker_counting(release: Path) -> None:
    def score(tree: Tree) -> None:
        tree["counting"]["tasks"]["permuted_words"][1]["accuracy"] = 0.25

    edit(release, "tasks", score)


def counting_needs_more_bits(release: Path) -> None:
    edit(release, "tasks", lambda tree: tree["counting"]["held_out"][2].update(bits_per_byte=2.9))


def fewer_pairs_found(release: Path) -> None:
    def change(tree: Tree) -> None:
        task = tree["tasks"]["permuted_words"]
        task.update(found=task["items"], left_out={})

    edit(release, "tasks", change)


FORGERIES = [
    Forgery("two ids exchanged in the index", RECOMPUTED, ids_exchanged, "in the order of the hashes"),
    Forgery("two text digests exchanged in the index", RECOMPUTED, digests_exchanged, "its rows hold another text"),
    Forgery("a document added to the index", RECOMPUTED, document_added, "/new"),
    Forgery("a document taken out of the index", RECOMPUTED, document_taken_out, "its rows hold another text"),
    Forgery("an edited row that no step read", RECOMPUTED, row_edited, "its rows hold another text"),
    Forgery("two rows exchanged", RECOMPUTED, rows_exchanged, "its rows hold another text"),
    Forgery("an edited row of the held-out documents", RECOMPUTED, held_out_row_edited, VALIDATION),
    Forgery("other ids for the same text", RECOMPUTED, other_ids_of_the_text, "encodes its text otherwise"),
    Forgery("the border between two documents moved", RECOMPUTED, border_moved, TRAIN),
    Forgery("bytes moved between two documents", RECOMPUTED, bytes_moved, "its rows hold"),
    Forgery("two documents exchanged in the index", RECOMPUTED, lines_exchanged, "in the order of the hashes"),
    Forgery("a row hidden from search", RECOMPUTED, hidden_from_search, "000000.ids: is not the ids of the rows"),
    Forgery("a document hidden from the explorer", RECOMPUTED, hidden_from_the_explorer, DOCUMENTS.as_posix()),
    Forgery("other places for the explorer", RECOMPUTED, placed_otherwise_for_the_explorer, PLACES.as_posix()),
    Forgery(
        "a lower loss for the explorer", RECOMPUTED, loss_lowered_for_the_explorer, "mobilellm.losses: is not what"
    ),
    Forgery("the wrong choice of a minimal pair called right", RECOMPUTED, gold_exchanged, "its pairs are not those"),
    Forgery("an item that no task has", RECOMPUTED, item_of_no_task, "its items are not those"),
    Forgery("places of pairs left out", RECOMPUTED, fewer_pairs_found, "is not what the held-out rows give"),
    Forgery("a lower score of counting", RECOMPUTED, weaker_counting, "counting the rows gives other scores"),
    Forgery("more bits per byte of counting", RECOMPUTED, counting_needs_more_bits, "counting.held_out"),
    Forgery("another dropped tail", RECOMPUTED, tail_grown, "dropped ids"),
    Forgery("an index that ends before the rows", RECOMPUTED, index_cut, VALIDATION),
    Forgery("another held-out document", RECOMPUTED, other_held_out_document, "puts it into the other split"),
    Forgery("a held-out text that is a training text", RECOMPUTED, trained_and_held_out, "has the same text_sha256"),
    Forgery("another licence of one document", RECOMPUTED, license_of_one, "license is MIT, "),
    Forgery("another source of one document", RECOMPUTED, source_of_one, "not as its id or the manifests say"),
    Forgery("two tokens exchanged in the tokenizer", RECOMPUTED, tokens_exchanged, "does not follow from the merges"),
    Forgery("two merges exchanged in the tokenizer", RECOMPUTED, merges_exchanged, TRAIN),
    Forgery("a normalizer in the tokenizer", RECOMPUTED, normalizer_added, "normalizer"),
    Forgery("a hidden removal", RECOMPUTED, removal_hidden, "documents/letters.json"),
    Forgery("an invented removal", RECOMPUTED, removal_invented, "cap_bytes"),
    Forgery("a removal whose number breaks no rule", RECOMPUTED, removal_without_its_number, "does not break"),
    Forgery("a removal for a reason of no step", RECOMPUTED, removal_of_no_step, "no step of the filter"),
    Forgery("a removal of another source", RECOMPUTED, removal_of_another_source, "of this stage and source"),
    Forgery("a removal that is listed twice", RECOMPUTED, removal_repeated, "is removed twice"),
    Forgery("a removal of a document in the rows", RECOMPUTED, removal_of_a_kept_document, "and in the rows"),
    Forgery("a duplicate of an unknown document", RECOMPUTED, kept_unknown, "was not kept by dedup"),
    Forgery("a duplicate of one that yields to it", RECOMPUTED, kept_of_lower_rank, "does not take precedence"),
    Forgery("an exact duplicate that is only similar", RECOMPUTED, similarity_said("exact_duplicate", 0.9), "0.9"),
    Forgery("a near duplicate that is not similar", RECOMPUTED, similarity_said("near_duplicate", 0.5), "0.5"),
    Forgery("an exact duplicate called a near one", REBUILT, duplicate_of_another_kind, "", "make reproduce"),
    Forgery("duplicates in another order", RECOMPUTED, duplicates_reordered, "order of priority and id"),
    Forgery("a smaller duplicate", RECOMPUTED, smaller_duplicate, "bytes is"),
    Forgery("a larger cap, everywhere", RECOMPUTED, larger_cap, "cap_bytes: 70,000 bytes"),
    Forgery("another document under the cap", RECOMPUTED, others_under_the_cap, "cap_bytes"),
    Forgery("contamination by an unknown set", RECOMPUTED, contamination_of_nothing, "is not in an evaluation set"),
    Forgery("contamination that is not counted", RECOMPUTED, contamination_uncounted, "contamination counts"),
    Forgery("personal data in an unknown document", RECOMPUTED, replacement_said("notes/x"), "no such document"),
    Forgery("personal data in a text that was not rewritten", RECOMPUTED, replacement_said("notes/001"), "rewritten"),
    Forgery("another number of documents at a step", RECOMPUTED, documents_of_a_step, "gopher_repetition: documents"),
    Forgery("a removal counted at another step", RECOMPUTED, removal_of_another_step, "of other steps"),
    Forgery("fewer bytes passed on by the filter", RECOMPUTED, bytes_of_a_stage, "bytes is"),
    Forgery("a document moved between sources", RECOMPUTED, documents_moved_between_sources, "documents_by_source"),
    Forgery("a removal moved between sources", RECOMPUTED, removed_by_another_source, "removed_by_source"),
    Forgery("duplicates of another source", RECOMPUTED, duplicates_of_another_source, "duplicates is"),
    Forgery("other examples of removals", RECOMPUTED, other_examples, "examples"),
    Forgery("more documents compared with the reference", RECOMPUTED, more_compared, "compared_documents"),
    Forgery("documents moved between shards", RECOMPUTED, other_shards, "outputs.train"),
    Forgery("more passes over a source", RECOMPUTED, other_passes, "the mixture asks for others"),
    Forgery("statistics that hide a row", RECOMPUTED, hidden_by_statistics, "as its largest value"),
    Forgery("an index of pages in a table", RECOMPUTED, page_index, "that Everystep does not write"),
    Forgery("other row groups in a table", RECOMPUTED, other_row_groups, "row groups do not hold"),
    Forgery("frames without a checksum", RECOMPUTED, frames_without_checksum, "is not written as Everystep"),
    Forgery(
        "a description that is indented otherwise",
        RECOMPUTED,
        other_way_to_write("runs/mobilellm/step000004-tokens1024/config.json", indented),
        "is not written as Everystep",
    ),
    Forgery("blanks in the lines of rows", RECOMPUTED, blanks_in_rows, "is not rows of 33 ids"),
    Forgery("a fraction in the order", RECOMPUTED, fraction_in_the_order, "order.jsonl.zst"),
    Forgery("a note in the header of tensors", RECOMPUTED, note_in_tensors, "model.safetensors"),
    Forgery("blanks in an evaluation", RECOMPUTED, blanks_in_an_evaluation, "evaluation.jsonl"),
    Forgery("a file that a release does not have", RECOMPUTED, file_added("notes.txt"), "no such file"),
    Forgery("a name that differs in case alone", RECOMPUTED, file_added("Data/tokens.txt"), "in case or Unicode form"),
    Forgery(
        "a name in another Unicode form",
        RECOMPUTED,
        file_added(unicodedata.normalize("NFD", "é.txt")),
        "is not in Unicode's form C",
    ),
    Forgery(
        "an order that no model read", RECOMPUTED, order_of_another_seed, "is not the seed of the published order, 7"
    ),
    Forgery("a recipe of another suite", RECOMPUTED, recipe_of_another_suite, "recipes/openelm.yaml: data"),
    Forgery(
        "other parameters in a manifest",
        RECOMPUTED,
        parameters_said("deduplicated", lambda tree: tree["near"].update(min_similarity=0.7)),
        "near.min_similarity",
    ),
    Forgery(
        "another default in a manifest",
        RECOMPUTED,
        parameters_said("sources/notes", lambda tree: tree.update(unknown_license="declared")),
        "unknown_license",
    ),
    Forgery(
        "another threshold in params.yaml",
        RECOMPUTED,
        params_changed(lambda tree: tree["filter"]["gopher_quality"].update(min_doc_words=30)),
        "gopher_quality.min_doc_words",
    ),
    Forgery("another file of a source", RECOMPUTED, pinned_otherwise, "whose sha256"),
    Forgery("other pins of libraries", RECOMPUTED, other_pins, "constraints.txt"),
    Forgery(
        "another command in dvc.lock",
        RECOMPUTED,
        lock_says(lambda stages: stages["dedup"].update(cmd="true")),
        "another command",
    ),
    Forgery(
        "other code in dvc.lock",
        RECOMPUTED,
        lock_says(lambda stages: stages["dedup"]["params"]["manifests/code.json"].update({"stages.dedup.digest": "5"})),
        "stages.dedup.digest",
    ),
    Forgery("a stage left out of dvc.lock", RECOMPUTED, lock_says(lambda stages: stages.pop("tokenizer")), "missing"),
    Forgery("an edited document that the dropped tail cuts off", REBUILT, cut_document_edited, "", "make reproduce"),
    Forgery("a text edited everywhere", REBUILT, text_edited_everywhere, "", "make reproduce"),
    Forgery("a removal given another plausible reason", REBUILT, removal_with_another_number, "", "make reproduce"),
    Forgery("a removal invented everywhere", REBUILT, removal_invented_everywhere, "", "make reproduce"),
    Forgery("another pinned source, everywhere", REBUILT, other_source_file, "", "make reproduce"),
    Forgery("another licence of a source, everywhere", REBUILT, license_of_a_source, "", "make reproduce"),
]


@pytest.fixture
def release(built_project: Path, tmp_path: Path) -> Path:
    return copied(built_project / "release", tmp_path / "release")


def climb(folder: Path) -> tuple[Iterator[str], Iterator[str]]:
    """The faults on the rungs 2 and 3, as they are found; digests are right, as they were just computed."""
    found = Release.open(folder)
    found.trust({*found.files})
    stored = {path: sha256_file(folder / path) for path in found.files}
    return chain(chain_faults(found, stored, tensors=False), disagreements(found, stored)), recomputed_faults(found)


def _cases(*rungs: Rung) -> pytest.MarkDecorator:
    chosen = [forgery for forgery in FORGERIES if forgery.rung in rungs]
    return pytest.mark.parametrize("forgery", chosen, ids=[forgery.name for forgery in chosen])


@_cases(RECOMPUTED)
def test_forged_data_are_caught_on_their_rung_and_not_below(release: Path, forgery: Forgery) -> None:
    forgery.forge(release)
    sealed(release, forgery.forge not in (hidden_from_search, blanks_in_rows), forgery.forge not in OF_THE_EXPLORER)
    below, found = climb(release)
    assert [*below] == []
    assert any(forgery.named in fault for fault in found), [*climb(release)[1]]


@_cases(REBUILT)
def test_what_only_the_sources_show_passes_verify_which_says_where_it_stands(release: Path, forgery: Forgery) -> None:
    forgery.forge(release)
    asked_again(release)
    sealed(release, forgery.forge not in (hidden_from_search, blanks_in_rows), forgery.forge not in OF_THE_EXPLORER)
    done = everystep("verify", release)
    assert done.code == 0, done.said
    assert "rung 3 of 5 (recomputed)" in done.out


def test_the_honest_release_gives_every_fact_again(built_project: Path) -> None:
    below, found = climb(built_project / "release")
    assert [*below, *found] == []


def test_statistics_can_hide_a_document_from_others_and_not_from_trace(release: Path) -> None:
    hidden = max(pq.read_table(release / TRAIN)["id"].to_pylist())
    hidden_by_statistics(release)
    sealed(release)
    query = f"SELECT count(*) FROM '{release / TRAIN}' WHERE id = '{hidden}'"
    assert duckdb.execute(query).fetchall() == [(0,)]
    done = everystep("trace", release, "--model", "mobilellm", "--document", hidden, "--json")
    assert done.code == 0 and json.loads(done.out)["split"] == "train"


@pytest.mark.parametrize("name", [ROOT, SUMS])
def test_a_list_that_is_written_otherwise_is_found(release: Path, name: str) -> None:
    """No other file promises the two lists, so their form is all that there is."""
    if name == ROOT:
        write_bytes(release / ROOT, indented(read_json(release / ROOT)))
        reseal_sums(release)
    else:
        lines = (release / SUMS).read_bytes().splitlines(keepends=True)
        write_bytes(release / SUMS, b"".join(reversed(lines)))
    _, found = climb(release)
    assert [*found] == [f"{name}: is not written as Everystep writes it, though it reads the same"]


def test_a_swapped_tokenizer_makes_a_bounded_number_of_faults(release: Path) -> None:
    merges_exchanged(release)
    sealed(release)
    _, found = climb(release)
    assert "texts of documents: more than 100 faults; the others are not listed" in found
