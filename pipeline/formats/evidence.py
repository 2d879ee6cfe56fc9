"""Evidence of a dispute: one operation as two transcripts have it, with as much of its tensors as one result needs.

A canonical JSON line, `Evidence`, and after it the leaves of the tensors that were read, one after another: for each
tensor whose elements are not in the operation itself, all leaves, or those that the disputed leaf depends on.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field

from pipeline.base.errors import Differs, EverystepError
from pipeline.formats import trees
from pipeline.formats.bounds import MAX_STEPS
from pipeline.formats.canonical import canonical
from pipeline.formats.checkpoints import Numerics
from pipeline.formats.transcript import LEAF, Claim, Operation
from pipeline.formats.typed import Count, Sha256, Typed

FORMAT: Literal["everystep/evidence/1"] = "everystep/evidence/1"
MAX_BYTES = 5_000_000
"""Bytes of a file of evidence."""
MAX_TENSOR_BYTES = 1 << 31
"""Bytes of the tensors that an operation in evidence reads and writes."""
Proof = Annotated[list[Sha256], Field(max_length=1 << 16)]


class Party(Typed):
    """What one side says of the operation."""

    transcript: Sha256
    """Root of its transcript."""
    lines: Annotated[int, Field(ge=3, le=1 << 24)]
    """Lines of its transcript."""
    operation: Operation
    """The operation, without the leaves of its tensors."""
    proof: Proof
    """Proof that this line is in the transcript."""
    leaf: Sha256 | None
    """Digest of the disputed leaf of its result; null if the whole result is compared."""
    leaf_proof: Proof
    """Proof that this leaf is in the result."""

    def require_own(self, number: int) -> None:
        """Require that the operation, and the leaf, are those of the transcript."""
        tensors = (*self.operation.reads, *self.operation.writes)
        size = sum(max(claim.num_bytes, claim.span) for claim in tensors)
        if size > MAX_TENSOR_BYTES:
            raise EverystepError(f"the operation has tensors of {size} bytes; at most {MAX_TENSOR_BYTES} are read")
        line = trees.leaf(canonical(self.operation.to_json()))
        proof = [bytes.fromhex(digest) for digest in self.proof]
        if trees.root_from(self.lines, {number + 1: line}, proof).hex() != self.transcript:
            raise Differs(f"the operation is not line {number + 2} of the transcript {self.transcript:.12}")


class Evidence(Typed):
    """The first line of the file."""

    format: Literal["everystep/evidence/1"]
    """Version of this form."""
    model: str
    """Name of the model."""
    step: Annotated[int, Field(ge=1, le=MAX_STEPS)]
    """The step."""
    number: Count
    """Number of the operation in both transcripts, from 0."""
    output: Count
    """Number of the result that differs."""
    leaf: Count | None
    """Number of the leaf of it that differs; null if the whole result is compared."""
    numerics: Numerics
    """What decided the bits where the evidence was made."""
    a: Party
    """What A says."""
    b: Party
    """What B says."""
    shown: list[list[Annotated[list[Count], Field(min_length=2, max_length=2)]]]
    """For each tensor that was read, the runs of leaves that are shown, each as [first, stop]."""
    proofs: list[Proof]
    """For each tensor that was read, the proof of its leaves."""


def encode(evidence: Evidence, payload: bytes) -> bytes:
    """Return the bytes of the file."""
    return canonical(evidence.to_json()) + b"\n" + payload


def decode(content: bytes, where: object) -> tuple[Evidence, list[dict[int, bytes]]]:
    """Read a file: the evidence, and the leaves of each tensor that was read, by number.

    Both operations must be of their transcripts, and all leaves those of the tensors; `Differs` if one is not.
    """
    if len(content) > MAX_BYTES:
        raise EverystepError(f"{where}: {len(content)} bytes; evidence has at most {MAX_BYTES}")
    line, _, payload = content.partition(b"\n")
    evidence = Evidence.parse(line, where)
    if encode(evidence, payload) != content:
        raise EverystepError(f"{where}: its first line is not canonical JSON")
    try:
        for party in (evidence.a, evidence.b):
            party.require_own(evidence.number)
        return evidence, _leaves(evidence, payload)
    except Differs as error:
        raise Differs(f"{where}: {error}") from error


def runs(numbers: list[int]) -> list[list[int]]:
    """Write ascending numbers as runs."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][1] == number:
            found[-1][1] += 1
        else:
            found.append([number, number + 1])
    return found


def in_runs(listed: list[list[int]]) -> Iterator[int]:
    """Yield the numbers of runs. Law: `list(in_runs(runs(x))) == x`."""
    for first, stop in listed:
        yield from range(first, stop)


def is_carried(claim: Claim) -> bool:
    """Tell whether the elements of a tensor are in the payload: they are not in its claim, and they were read."""
    return claim.content is None and claim.digest is not None


def filled(claim: Claim, leaves: Mapping[int, bytes]) -> bytearray:
    """Return the elements of a tensor of which only some leaves are known; the others are zero."""
    if claim.content is not None:
        return bytearray.fromhex(claim.content)
    content = bytearray(claim.num_bytes)
    for number, leaf in leaves.items():
        content[number * LEAF : number * LEAF + len(leaf)] = leaf
    return content


def _leaves(evidence: Evidence, payload: bytes) -> list[dict[int, bytes]]:
    reads, found, start = evidence.a.operation.reads, [], 0
    if not len(reads) == len(evidence.shown) == len(evidence.proofs):
        raise Differs("shown and proofs are not one for each tensor that was read")
    for number, (claim, listed, proof) in enumerate(zip(reads, evidence.shown, evidence.proofs, strict=True)):
        leaves: dict[int, bytes] = {}
        if not is_carried(claim):
            found.append(leaves)
            continue
        if any(stop > claim.num_leaves or first >= stop for first, stop in listed):
            raise Differs(f"tensor {number}: there are no such leaves")
        for leaf in in_runs(listed):
            stop = start + min(LEAF, claim.num_bytes - leaf * LEAF)
            leaves[leaf] = payload[start:stop]
            start = stop
        digests = {leaf: trees.leaf(content) for leaf, content in leaves.items()}
        given = [bytes.fromhex(digest) for digest in proof]
        if trees.root_from(claim.num_leaves, digests, given).hex() != claim.digest:
            raise Differs(f"tensor {number}: its elements are not those that A and B read")
        found.append(leaves)
    if start != len(payload):
        raise Differs(f"{len(payload)} bytes of elements; {start} belong to the tensors")
    return found
