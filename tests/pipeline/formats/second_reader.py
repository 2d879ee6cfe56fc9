"""A second reader of our formats, written from `docs/formats.md` alone with the standard library.

It proves that the document suffices: nothing of `pipeline` is imported here. `zstandard` only decompresses, and
`cryptography` only knows elliptic curves. Numbers in comments are sections of the document.
"""

import base64
import hashlib
import json
import re
import struct
from decimal import Decimal
from fractions import Fraction
from math import comb
from pathlib import Path
from typing import Any

import zstandard
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

# 1 JSON


def canonical(value: Any) -> str:
    """1.1."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: str(key).encode("utf-16-be"))
        return "{" + ",".join(f"{canonical(key)}:{canonical(value[key])}" for key in keys) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, float):
        return _number(value)
    return json.dumps(value, ensure_ascii=False)


def indented(value: Any, level: int = 0) -> str:
    """1.2, without the last LF."""
    outside, inside = "\n" + " " * level, "\n" + " " * (level + 1)
    if isinstance(value, dict) and value:
        keys = sorted(value, key=lambda key: str(key).encode("utf-16-be"))
        members = [f"{inside}{canonical(key)}: {indented(value[key], level + 1)}" for key in keys]
        return "{" + ",".join(members) + outside + "}"
    if isinstance(value, list) and value:
        if all(isinstance(item, str | int | float) for item in value):
            return "[" + ", ".join(map(canonical, value)) + "]"
        return "[" + ",".join(inside + indented(item, level + 1) for item in value) + outside + "]"
    return canonical(value)


def _number(value: float) -> str:
    """ECMAScript Number::toString, from the shortest digits that Python's repr gives as well."""
    sign, digit_tuple, exponent = Decimal(repr(value)).normalize().as_tuple()
    assert isinstance(exponent, int)
    digits, minus = "".join(map(str, digit_tuple)), "-" if sign else ""
    if value == 0:
        return "0"
    point = len(digits) + exponent
    if len(digits) <= point <= 21:
        return minus + digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return minus + digits[:point] + "." + digits[point:]
    if -6 < point <= 0:
        return minus + "0." + "0" * -point + digits
    fraction = "." + digits[1:] if len(digits) > 1 else ""
    return f"{minus}{digits[0]}{fraction}e{point - 1:+d}"


def is_allowed(path: str) -> bool:
    """2, without the look at the disk."""
    parts = path.split("/")
    forbidden = any(c in "\\:\x7f" or ord(c) < 32 for c in path)
    too_long = len(path.encode()) > 1024 or any(len(part.encode()) > 255 for part in parts)
    return not forbidden and not too_long and not any(part in ("", ".", "..") for part in parts)


# 3 Line files


def read_seek_table(file: bytes) -> list[tuple[int, int]]:
    """(compressed, decompressed) bytes of each frame."""
    frames, descriptor, magic = struct.unpack("<IBI", file[-9:])
    table = file[-(8 + 8 * frames + 9) :]
    assert (magic, descriptor) == (0x8F92EAB1, 0)
    assert struct.unpack("<II", table[:8]) == (0x184D2A5E, 8 * frames + 9)
    entries = [struct.unpack("<II", table[8 + 8 * i : 16 + 8 * i]) for i in range(frames)]
    return [(stored, size) for stored, size in entries]


def read_lines(path: Path) -> list[bytes]:
    """The lines of a whole file, without LF, after all checks of section 3."""
    file = path.read_bytes()
    entries = read_seek_table(file)
    assert sum(stored for stored, _ in entries) + 8 + 8 * len(entries) + 9 == len(file)
    lines: list[bytes] = []
    offset = 0
    for number, (stored, size) in enumerate(entries):
        content = zstandard.ZstdDecompressor().decompress(file[offset : offset + stored], allow_extra_data=False)
        offset += stored
        frame = content.split(b"\n")
        assert len(content) == size and frame.pop() == b""
        assert len(frame) == 64 or (number == len(entries) - 1 and 0 < len(frame) < 64)
        lines += frame
    return lines


def digest_of_lines(lines: list[bytes]) -> tuple[int, int, str]:
    """(lines, bytes, SHA-256) of record."""
    content = b"".join(line + b"\n" for line in lines)
    return len(lines), len(content), hashlib.sha256(content).hexdigest()


# 4 Documents


def id_hash(id: str, purpose: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"everystep-v1\n{purpose}\n{seed}\n{id}".encode()).digest()[:8], "big")


def share_limit(share: float) -> int:
    return round(share * 1e9) * 18446744073


# 6 Rows, 7 Bytes of a token


def asked(task: str, ids: list[str], most: int) -> list[str]:
    """6.6."""
    chosen = sorted(range(len(ids)), key=lambda i: (id_hash(ids[i], f"task {task}", 0), i))[:most]
    return [ids[i] for i in sorted(chosen)]


def pairs(rule: str, id: str, text: str, characters: int, words: int) -> list[Any]:
    """6.6, of one document: its items, and the reason of each place that has none."""
    places = {"swapped_speaker": _turns, "swapped_type": _fields, "permuted_words": _sentences}[rule](text, id, words)
    found: list[Any] = []
    for start, true, other in places:
        context = text[:start]
        if len(context) > characters:
            before, rest = context[-characters - 1 :], ""
            while before and not rest:
                before, rest = before[1:], before[1:] if before[0].isspace() else ""
            context = rest
        context = context.lstrip()
        key = f"{id}#{start}"
        if other is None or other == true or not context:
            found.append("no_other" if other in (None, true) else "no_context")
            continue
        gold = id_hash(key, f"{rule} gold", 0) % 2
        told = [true, other] if gold == 0 else [other, true]
        found.append({"id": key, "choices": [{"context": context, "continuation": c} for c in told], "gold": gold})
    return found


def _turns(text: str, id: str, words: int) -> list[tuple[int, str, str | None]]:
    turns = [*re.finditer(r"(?<=\S)(\n\n+)([^\n]+)\n([^\n]+)", text)]
    turns = [turn for turn in turns if re.fullmatch(r"[A-Za-z][A-Za-z' -]{0,39}", turn[2])]
    names = [turn[2] for turn in turns]
    speakers = sorted({name for name in names if names.count(name) >= 2 and len(name.split()) <= 4})
    return [
        (
            turn.start(),
            f"{turn[1]}{turn[2]}\n{_first(turn[3], words)}",
            _with(f"{turn[1]}%s\n{_first(turn[3], words)}", turn[2], speakers, id, turn.start(), "swapped_speaker"),
        )
        for turn in turns
        if turn[2] in speakers
    ]


def _fields(text: str, id: str, words: int) -> list[tuple[int, str, str | None]]:
    fields = [*re.finditer(r"^(?:- )?\w+( \()([^()\n]{1,60})(\): \S.*)$", text, re.M)]
    types = sorted(field[2] for field in fields)
    return [
        (
            field.start(1),
            f"{field[1]}{field[2]}{_first(field[3], words)}",
            _with(f"{field[1]}%s{_first(field[3], words)}", field[2], types, id, field.start(1), "swapped_type"),
        )
        for field in fields
    ]


def _sentences(text: str, id: str, words: int) -> list[tuple[int, str, str | None]]:
    found: list[tuple[int, str, str | None]] = []
    for match in re.finditer(r"(?:(?:(?<=\n)|\A)[^\W\d_]|(?<=[.?!] )[A-Z])[^\n.?!]*[.?!](?=\s|\Z)", text):
        pieces = match[0].split(" ")
        if len(pieces) >= 6 and "" not in pieces:
            start = match.start() + len(pieces[0])
            true = pieces[1 : words + 1]
            keys = [id_hash(f"{id}#{start} {i}", "permuted_words", 0) for i in range(len(true) - 1)]
            other = [true[i] for i in sorted(range(len(keys)), key=keys.__getitem__)] + true[-1:]
            found.append((start, "".join(f" {piece}" for piece in true), "".join(f" {piece}" for piece in other)))
    return found


def _with(form: str, own: str, members: list[str], id: str, start: int, rule: str) -> str | None:
    others = [m for m in members if m != own and len(m.split()) == len(own.split())]
    return form % others[id_hash(f"{id}#{start}", rule, 0) % len(others)] if others else None


def _first(line: str, words: int) -> str:
    match = re.match(rf"\s*(?:\S+\s+){{0,{words - 1}}}\S+", line)
    return match[0] if match else ""


def counted(rows: list[list[int]], vocabulary: int, before: list[int], token: int, order: int) -> Fraction:
    """6.6: P of `token` after the ids `before`, by the model of this order."""
    if order == 0:
        return Fraction(1, vocabulary)
    lower = counted(rows, vocabulary, before, token, order - 1)
    if len(before) < order - 1:
        return lower
    run = before[len(before) - order + 1 :]
    after = [row[i + order - 1] for row in rows for i in range(len(row) - order + 1) if row[i : i + order - 1] == run]
    if not after:
        return lower
    return (after.count(token) + len(set(after)) * lower) / (len(after) + len(set(after)))


def search_index(rows: list[list[int]], vocabulary: int) -> tuple[list[int], bytes, bytes, list[dict[str, Any]]]:
    """(places in the order of their suffixes, the ids, the nodes, the lines of the table) of a shard."""
    width, size = len(rows[0]), 2 if vocabulary <= 65536 else 3
    text = [id for row in rows for id in [*(id + 1 for id in row), 0]]
    order = sorted(range(len(rows) * width), key=lambda place: text[place + place // width :])
    suffix = [rows[place // width][place % width :] for place in range(len(order))]
    written = [id.to_bytes(size, "big") for row in rows for id in row]
    nodes, table, before = b"", [], None
    for start in range(0, len(order), 4096):
        places = order[start : start + 4096]
        shared, branches, last = [], [], None
        for sample in (suffix[place] for place in places[::4]):
            same = 0 if last is None else _alike(last, sample)
            known = last is not None and same < min(255, len(sample))
            shared.append(min(same, 255))
            branches.append(sample[same] if known else 0)
            last = sample
        node = bytes(shared) + b"".join(branch.to_bytes(size, "big") for branch in branches)
        node += b"".join(place.to_bytes(3, "little") for place in places)
        head = suffix[places[0]]
        first: list[int] = [] if before is None else [*head, 0][: _alike(before, head) + 1]
        block = b"".join(written[start : start + 4096])
        table.append(
            {
                "first": first,
                "ids_sha256": hashlib.sha256(block).hexdigest(),
                "node_sha256": hashlib.sha256(node).hexdigest(),
            }
        )
        nodes, before = nodes + node, suffix[places[-1]]
    return order, b"".join(written), nodes, table


def _alike(left: list[int], right: list[int]) -> int:
    pairs = enumerate(zip(left, right, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(left), len(right)))


def explorer_documents(index: list[dict[str, Any]], width: int) -> tuple[str, bytes]:
    """The lines of documents for the explorer, and their places."""
    keys = ("first_row", "id", "license", "num_tokens", "offset")
    order = sorted(index, key=lambda one: (one["id"], one["first_row"], one["offset"]))
    text, begins = "", {}
    for one in order:
        begins[id(one)] = len(text.encode())
        text += canonical({key: one[key] for key in keys}) + "\n"
    places = (struct.pack("<QQ", one["first_row"] * width + one["offset"], begins[id(one)]) for one in index)
    return text, b"".join(places)


def explorer_losses(row: int, losses: list[list[float]]) -> bytes:
    """A record of losses for the explorer. Python rounds half to even too."""
    units = [min(round(loss * 1000), 65535) for values in losses for loss in values]
    return struct.pack(f"<Q{len(units)}H", row, *units)


def pack(documents: list[list[int]], end_token: int, width: int) -> tuple[list[list[int]], list[dict[str, int]], int]:
    """(rows, places in the document index, dropped tokens)."""
    stream: list[int] = []
    index = []
    for ids in documents:
        place = {"first_row": len(stream) // width, "offset": len(stream) % width, "num_tokens": len(ids) + 1}
        index.append(place)
        stream += [*ids, end_token]
    num_rows = len(stream) // width
    rows = [stream[row * width : (row + 1) * width] for row in range(num_rows)]
    return rows, index, len(stream) - num_rows * width


def mixture_passes(tokens: dict[str, int], sources: dict[str, dict[str, float]]) -> dict[str, int]:
    """Billionths; ValueError where the document says that a mixture is refused."""
    most = {source: round(sources.get(source, {}).get("epochs", 1) * 1e9) for source in tokens}
    shares = {source: round(wish["share"] * 1e9) for source, wish in sources.items() if "share" in wish}
    declared, others = sum(shares.values()), sum(most[s] * tokens[s] for s in tokens if s not in shares)
    if shares and (declared >= 10**9 if others else declared != 10**9):
        raise ValueError(declared)
    if others:
        total = others // (10**9 - declared)
    else:
        total = min(most[s] * tokens[s] // share for s, share in shares.items() if share)
    passes = {s: shares[s] * total // tokens[s] if s in shares else most[s] for s in tokens}
    if any(passes[s] > most[s] for s in shares):
        raise ValueError(passes)
    return passes


def places(id: str, passes: int, seed: int) -> list[int]:
    more = id_hash(id, "mixture", seed) < passes % 10**9 * 18446744073
    return [id_hash(id, f"shuffle-{c}" if c else "shuffle", seed) for c in range(passes // 10**9 + more)]


def fill_in_the_middle(id: str, text: str, seed: int, share: float, suffix_first_share: float) -> list[tuple[str, str]]:
    """Pieces, each with the special token behind it."""
    end, prefix_mark, suffix_mark, middle_mark = (
        "<|endoftext|>",
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
    )
    if id_hash(id, "fill-in-the-middle", seed) >= share_limit(share):
        return [(text, end)]
    places = [id_hash(id, f"fill-in-the-middle-cut-{n}", seed) * (len(text) + 1) // 2**64 for n in (1, 2)]
    prefix, middle, suffix = text[: min(places)], text[min(places) : max(places)], text[max(places) :]
    if id_hash(id, "fill-in-the-middle-order", seed) >= share_limit(suffix_first_share):
        return [("", prefix_mark), (prefix, suffix_mark), (suffix, middle_mark), (middle, end)]
    return [("", prefix_mark), ("", suffix_mark), (suffix, middle_mark), (prefix, ""), (middle, end)]


def token_bytes(tokenizer: dict[str, Any]) -> list[int]:
    sizes = {number: len(token) for token, number in tokenizer["model"]["vocab"].items()}
    for added in tokenizer["added_tokens"]:
        sizes[added["id"]] = 0 if added["special"] else len(added["content"].encode())
    return [sizes[number] for number in range(len(sizes))]


# 8 Order


def mix(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def round_keys(seed: int, epoch: int) -> list[int]:
    texts = [f"everystep-order-v1\n{seed}\n{epoch}\n{r}" for r in range(8)]
    return [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") for text in texts]


def permute(position: int, num_rows: int, seed: int, epoch: int) -> int:
    """P of the epoch."""
    keys, width = round_keys(seed, epoch), _half_width(num_rows)
    value = _forward(position, width, keys)
    while value >= num_rows:
        value = _forward(value, width, keys)
    return value


def unpermute(row: int, num_rows: int, seed: int, epoch: int) -> int:
    """The inverse of P."""
    keys, width = round_keys(seed, epoch), _half_width(num_rows)
    value = _backward(row, width, keys)
    while value >= num_rows:
        value = _backward(value, width, keys)
    return value


def rows_of_step(step: int, global_batch: int, num_rows: int, seed: int) -> list[int]:
    samples = range(step * global_batch, (step + 1) * global_batch)
    return [permute(i % num_rows, num_rows, seed, i // num_rows) for i in samples]


def steps_of_row(row: int, global_batch: int, num_rows: int, seed: int, num_steps: int) -> list[int]:
    num_samples = num_steps * global_batch
    epochs = range(-(-num_samples // num_rows))
    samples = [e * num_rows + unpermute(row, num_rows, seed, e) for e in epochs]
    return sorted({sample // global_batch for sample in samples if sample < num_samples})


def _half_width(num_rows: int) -> int:
    return max(1, ((num_rows - 1).bit_length() + 1) // 2)


def _forward(value: int, width: int, keys: list[int]) -> int:
    mask = (1 << width) - 1
    left, right = value >> width, value & mask
    for key in keys:
        left, right = right, left ^ (mix(right ^ key) & mask)
    return left << width | right


def _backward(value: int, width: int, keys: list[int]) -> int:
    mask = (1 << width) - 1
    left, right = value >> width, value & mask
    for key in reversed(keys):
        left, right = right ^ (mix(left ^ key) & mask), left
    return left << width | right


# 9 Tensors. Here a tensor is {"name", "dtype", "shape", "data": hex}, as in the vectors.


def tensor_leaf(tensor: dict[str, Any]) -> bytes:
    header = canonical({"dtype": tensor["dtype"], "name": tensor["name"], "shape": tensor["shape"]})
    return hashlib.sha256(b"\0" + header.encode() + b"\n" + bytes.fromhex(tensor["data"])).digest()


def tensors_digest(tensors: list[dict[str, Any]]) -> str:
    leaves = [tensor_leaf(tensor) for tensor in sorted(tensors, key=lambda tensor: str(tensor["name"]))]
    return "tensors-v1:" + (_root(leaves) if leaves else hashlib.sha256(b"").digest()).hex()


def write_tensors(tensors: list[dict[str, Any]]) -> bytes:
    """9.2."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for tensor in sorted(tensors, key=lambda tensor: str(tensor["name"])):
        begin = len(data)
        data += bytes.fromhex(tensor["data"])
        offsets = [begin, len(data)]
        header[tensor["name"]] = {"data_offsets": offsets, "dtype": tensor["dtype"], "shape": tensor["shape"]}
    text = canonical(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def read_tensors(file: bytes) -> list[dict[str, Any]]:
    length = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + length])
    data = file[8 + length :]
    return [
        {
            "name": name,
            "dtype": about["dtype"],
            "shape": about["shape"],
            "data": data[slice(*about["data_offsets"])].hex(),
        }
        for name, about in header.items()
        if name != "__metadata__"
    ]


def _root(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\1" + _root(leaves[:k]) + _root(leaves[k:])).digest()


# 10 Checkpoints


def revision(step: int, tokens: int) -> str:
    return f"step{str(step).zfill(6)}-tokens{tokens}"


def schedule(rule: str, num_steps: int) -> list[int]:
    name, every = rule.split(" ")
    if name == "chunks":
        if num_steps == 0 or num_steps % int(every):
            raise ValueError(rule)
        return [num_steps // int(every) * chunk for chunk in range(int(every) + 1)]
    steps = {0, num_steps, *range(0, num_steps, int(every))}
    if name == "pythia":
        steps |= {1, 2, 4, 8, 16, 32, 64, 128, 256, 512}
    return sorted(step for step in steps if step <= num_steps)


def state_digest(weights: str, optimizer: str, step: int) -> str:
    texts = {"optimizer": optimizer, "weights": weights, "step": str(step)}
    return tensors_digest(
        [{"name": n, "dtype": "U8", "shape": [len(t)], "data": t.encode("ascii").hex()} for n, t in texts.items()]
    )


# 13 Signatures


def key_id(public: str) -> str:
    return hashlib.sha256(public.encode("ascii")).hexdigest()


def chosen(root: str, beacon: str, stretches: list[list[Any]], sample: int) -> list[list[Any]]:
    """13.1."""

    def rank(stretch: list[Any]) -> str:
        return hashlib.sha256(canonical(["everystep/stretch/1", root, beacon, *stretch]).encode()).hexdigest()

    return sorted(sorted(stretches, key=rank)[:sample])


def caught(bad: int, sample: int, stretches: int) -> float:
    """13.1."""
    return float(1 - Fraction(comb(stretches - bad, sample), comb(stretches, sample)))


def is_signed(public: str, payload: bytes, signature: str) -> bool:
    key = load_pem_public_key(public.encode("ascii"))
    assert isinstance(key, ec.EllipticCurvePublicKey)
    hash_of = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[key.curve.key_size]
    message = b" ".join((b"DSSEv1", b"28", b"application/vnd.in-toto+json", str(len(payload)).encode(), payload))
    try:
        key.verify(base64.b64decode(signature, validate=True), message, ec.ECDSA(hash_of))
    except InvalidSignature:
        return False
    return True


# 16 Disputes

ITEM_SIZES = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "bfloat16": 2, "float16": 2, "bool": 1}


def elements(memory: bytes, dtype: str, shape: list[int], strides: list[int]) -> bytes:
    """16.1."""
    size = ITEM_SIZES[dtype]
    dims = sorted(range(len(shape)), key=lambda dim: -strides[dim])
    places = [0]
    for dim in dims:
        count = shape[dim] if strides[dim] else min(shape[dim], 1)
        places = [place + index * strides[dim] for place in places for index in range(count)]
    return b"".join(memory[place * size : (place + 1) * size] for place in places)


def elements_digest(content: bytes) -> str:
    """16.1."""
    leaves = [hashlib.sha256(b"\0" + content[i : i + 1024]).digest() for i in range(0, len(content), 1024)]
    return (_root(leaves) if leaves else hashlib.sha256(b"").digest()).hex()


def root_by_proof(count: int, shown: dict[int, bytes], proof: list[str]) -> str:
    """16.2."""
    left = list(proof)

    def part(start: int, stop: int) -> bytes:
        if not any(start <= number < stop for number in shown):
            return bytes.fromhex(left.pop(0))
        if stop - start == 1:
            return hashlib.sha256(b"\0" + shown[start]).digest()
        k = 1
        while 2 * k < stop - start:
            k *= 2
        return hashlib.sha256(b"\1" + part(start, start + k) + part(start + k, stop)).digest()

    root = part(0, count).hex()
    assert not left
    return root


def transcript_root(text: str) -> str:
    """16.3, of one without `leaves`."""
    return _root([hashlib.sha256(b"\0" + line.encode()).digest() for line in text.split("\n")[:-1]]).hex()
