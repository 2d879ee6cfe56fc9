"""Evidence: made by a machine that trains the disputed step again, and checked by computing one operator.

Where the tensors of an operator are larger than a file of evidence, the dispute goes on to one leaf of its result, and
the file holds what that leaf depends on. The checker fills the rest with zeros and computes the whole operator, so
that the layout, which decides bits, is that of the training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.base.errors import Differs, EverystepError, well_shaped
from pipeline.formats import trees
from pipeline.formats.evidence import FORMAT, MAX_BYTES, Evidence, Party, decode, encode, filled, is_carried, runs
from pipeline.formats.transcript import LEAF, Claim, Operation, Transcript, leaves_of
from pipeline.release.release import Release
from trainer import numerics
from trainer.dispute.compare import Finding
from trainer.dispute.run import Recorded, read_rows

if TYPE_CHECKING:
    from torch import Tensor

ROWS = "everystep.rows"
WHOLE = 4_500_000
"""Bytes of tensors up to which evidence has them as a whole."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the one operator gives: whether it is what each side says. A side that applied an operator which the
    numerics class does not have is wrong."""

    evidence: Evidence
    a: bool
    b: bool

    @property
    def right(self) -> str:
        """`A`, `B`, `both` (they applied different operators) or `neither`."""
        return {(True, False): "A", (False, True): "B", (True, True): "both"}.get((self.a, self.b), "neither")


def make(recorded: Recorded, finding: Finding, a: Transcript, b: Transcript) -> bytes:
    """Return the evidence of a finding; `recorded` is the step by this machine, opened at the operation."""
    number, ours = finding.number, recorded.transcript
    mine, its = a.operations[number], b.operations[number]
    before = zip(ours.operations[:number], a.operations, strict=False)
    same = [x.same_task(y) and x.same_result(y) for x, y in before]
    if not all(same) or not any(ours.operations[number].same_task(one) for one in (mine, its)):
        place = same.index(False) if not all(same) else number
        raise Differs(
            f"operation {place} of this machine is neither A's nor B's; make the evidence on a machine of the numerics "
            "class, with the code of A or B"
        )
    if not _read_the_same(mine, its):
        raise EverystepError("A and B applied different operators to different tensors; no operator can decide that")
    output = next(
        (place for place, (x, y) in enumerate(zip(mine.writes, its.writes, strict=False)) if not x.same(y)), 0
    )
    leaf = None
    carried = sum(claim.num_bytes for claim in mine.reads if is_carried(claim))
    if carried > WHOLE:
        leaf = _differing_leaf(ours.operations[number], mine, its, number, output)
    boxes = _wanted(mine, output, leaf, recorded.read)
    shown: list[list[list[int]]] = []
    proofs: list[list[str]] = []
    payload = b""
    for claim, content, wanted in zip(mine.reads, recorded.read, boxes, strict=True):
        if not is_carried(claim):
            shown.append([])
            proofs.append([])
            continue
        shown.append(runs(wanted))
        proofs.append([digest.hex() for digest in trees.prove(leaves_of(content), wanted)])
        payload += b"".join(content[number * LEAF : (number + 1) * LEAF] for number in wanted)
    evidence = Evidence(
        format=FORMAT,
        model=a.head.model,
        step=a.head.step,
        number=number,
        output=output,
        leaf=leaf,
        numerics=ours.head.numerics,
        a=_party(a, number, output, leaf, ours.operations[number]),
        b=_party(b, number, output, leaf, ours.operations[number]),
        shown=shown,
        proofs=proofs,
    )
    content = encode(evidence, payload)
    if len(content) > MAX_BYTES:
        raise EverystepError(
            f"operation {number}, {mine.operator}: its evidence would have {len(content):,} bytes, more than "
            f"{MAX_BYTES:,}"
        )
    return content


def check(content: bytes, where: str, release: Release | None = None) -> Verdict:
    """Compute the operator of a file of evidence; `release` has the rows, if it is the reading of rows.

    May restart this program, to enter the numerics class. `Differs` if something in the file was altered.
    """
    evidence, leaves = decode(content, where)
    mine, its = evidence.a.operation, evidence.b.operation
    if not _read_the_same(mine, its):
        raise Differs(f"{where}: A and B read different tensors")
    if evidence.output >= min(len(mine.writes), len(its.writes)):
        raise Differs(f"{where}: output: the operation has no result number {evidence.output}")
    if evidence.leaf is not None and evidence.leaf >= mine.writes[evidence.output].num_leaves:
        raise Differs(f"{where}: leaf: the result has no leaf number {evidence.leaf}")
    contents = [filled(claim, known) for claim, known in zip(mine.reads, leaves, strict=True)]
    with well_shaped(where):
        needed = _wanted(mine, evidence.output, evidence.leaf, contents)
    for claim, known, wanted in zip(mine.reads, leaves, needed, strict=True):
        if is_carried(claim) and sorted(known) != wanted:
            raise Differs(f"{where}: shown: not the elements that the result depends on")
    if mine.operator == ROWS and release is None:
        raise EverystepError(f"{where}: is about which ids a row has; name the release that has them with --release")
    numerics.enter(evidence.numerics.name)  # may restart this program
    numerics.warn_if_other(evidence.numerics.to_json(), numerics.describe(evidence.numerics.name))
    agree = [
        _is_right(party, evidence, _computed(party.operation, contents, evidence.model, release), where)
        for party in (evidence.a, evidence.b)
    ]
    return Verdict(evidence=evidence, a=agree[0], b=agree[1])


def _read_the_same(mine: Operation, its: Operation) -> bool:
    return len(mine.reads) == len(its.reads) and all(x.same(y) for x, y in zip(mine.reads, its.reads, strict=True))


def _computed(
    operation: Operation, contents: Sequence[bytearray], model: str, release: Release | None
) -> "list[Tensor]":
    from trainer.dispute.memory import rebuilt
    from trainer.dispute.operators import compute

    pairs = zip(operation.reads, contents, strict=True)
    reads = [rebuilt(claim, b"" if claim.digest is None else content) for claim, content in pairs]
    if operation.operator == ROWS:
        assert release is not None
        return [read_rows(release, model, reads[0].tolist())]
    return compute(operation.operator, operation.arguments, reads)


def _is_right(party: Party, evidence: Evidence, results: "list[Tensor]", where: str) -> bool:
    from trainer.dispute.memory import elements
    from trainer.dispute.operators import NOT_PORTABLE, short

    claim = party.operation.writes[evidence.output]
    if evidence.numerics.name == "portable" and short(party.operation.operator) in NOT_PORTABLE:
        return False
    if evidence.output >= len(results):
        return False
    result = results[evidence.output]
    layout = str(result.dtype).removeprefix("torch."), list(result.shape), list(result.stride())
    leaves = leaves_of(elements(result))
    if layout != (claim.dtype, claim.shape, claim.strides):
        return False
    if evidence.leaf is None:
        return trees.root(leaves).hex() == claim.digest
    if party.leaf is None or claim.num_leaves <= evidence.leaf:
        raise Differs(f"{where}: leaf: a result is not given by its leaf")
    proof = [bytes.fromhex(digest) for digest in party.leaf_proof]
    root = trees.root_from(claim.num_leaves, {evidence.leaf: bytes.fromhex(party.leaf)}, proof)
    if root.hex() != claim.digest:
        raise Differs(f"{where}: leaf: not one of the result that the transcript {party.transcript:.12} has")
    return leaves[evidence.leaf].hex() == party.leaf


def _wanted(
    operation: Operation, output: int, leaf: int | None, contents: Sequence[bytes | bytearray]
) -> list[list[int]]:
    """Number the leaves of each tensor that decide a leaf of a result; None: of the whole result."""
    if leaf is None:
        return [list(range(claim.num_leaves)) for claim in operation.reads]
    from trainer.dispute.memory import box_of_leaf, leaves_of_boxes, rebuilt
    from trainer.dispute.operators import needed

    box = box_of_leaf(operation.writes[output], leaf)
    shapes = [claim.shape for claim in operation.reads]
    parts = needed(
        operation.operator,
        operation.arguments,
        shapes,
        box,
        lambda number: rebuilt(operation.reads[number], contents[number]),
    )
    return [leaves_of_boxes(claim, part) for claim, part in zip(operation.reads, parts, strict=True)]


def _differing_leaf(ours: Operation, mine: Operation, its: Operation, number: int, output: int) -> int:
    pair = [_opened(one.writes[output], ours.writes[output], who, number) for one, who in ((mine, "A"), (its, "B"))]
    return next(leaf for leaf, (x, y) in enumerate(zip(*pair, strict=True)) if x != y)


def _opened(claim: Claim, ours: Claim, who: str, number: int) -> list[bytes]:
    """Return the leaves of a result: as its side gives them, or as this machine has them if it is the same."""
    if claim.leaves is None and not claim.same(ours):
        raise EverystepError(
            f"operation {number} is too large for evidence as a whole: {who} opens it with "
            f"`everystep transcript ... --open {number}`; give that transcript"
        )
    return (claim if claim.leaves is not None else ours).leaf_digests


def _party(transcript: Transcript, number: int, output: int, leaf: int | None, ours: Operation) -> Party:
    leaves = transcript.leaves
    operation = transcript.operations[number]
    of_result: list[bytes] = []
    if leaf is not None:
        of_result = _opened(operation.writes[output], ours.writes[output], "one", number)
    return Party(
        transcript=transcript.root,
        lines=len(leaves),
        operation=operation.closed(),
        proof=[digest.hex() for digest in trees.prove(leaves, [number + 1])],
        leaf=None if leaf is None else of_result[leaf].hex(),
        leaf_proof=[] if leaf is None else [digest.hex() for digest in trees.prove(of_result, [leaf])],
    )
