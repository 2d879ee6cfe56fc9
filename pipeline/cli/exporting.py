"""Files for other programs: `export tokens`, `export gguf`."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.base.errors import EverystepError, how_to_install
from pipeline.cli.arguments import Address, Folder, FollowLinks, OnlyModel
from pipeline.cli.common import only_model, open_release, open_release_or_project, say, with_bytes

if TYPE_CHECKING:
    from pipeline.audit.export_rows import Exported

commands = typer.Typer()
export = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
commands.add_typer(export, name="export")


@export.callback()
def _export() -> None:
    """Write checkpoints and rows of a release as files for other programs."""


@export.command("tokens")
def export_tokens(
    folder: Folder,
    layout: Annotated[
        Literal["mobilellm", "llm360", "npy", "megatron", "parquet", "mds"], typer.Option(help="Trainer to write for.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to create.")],
    nodes: Annotated[int | None, typer.Option(min=1, help="With mobilellm: nodes, of 8 ranks each.")] = None,
    chunks: Annotated[int | None, typer.Option(min=1, help="With llm360: chunks, one per checkpoint.")] = None,
    digits: Annotated[int, typer.Option(min=1, max=9, help="With llm360: digits in a file name; amber-train: 1.")] = 3,
    global_batch: Annotated[int | None, typer.Option(min=1, help="Rows per step (default: the minimum).")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Number of steps to write (default: one epoch).")] = None,
) -> None:
    """Write the verified training rows, in the published order, as the files that other trainers read."""
    from pipeline.audit.export_arrays import export_arrays
    from pipeline.audit.export_rows import export_llm360, export_mobilellm

    if ((nodes is None) is (layout == "mobilellm")) or ((chunks is None) is (layout == "llm360")):
        raise EverystepError("export tokens: give --nodes with --layout mobilellm, --chunks with --layout llm360")
    release = open_release_or_project(folder)
    if layout == "mobilellm":
        done = export_mobilellm(release, out, nodes or 1, global_batch, steps)
    elif layout == "llm360":
        done = export_llm360(release, out, chunks or 1, digits, global_batch, steps)
    else:
        done = export_arrays(release, out, layout, global_batch, steps)
    files = f"{done.files} file{'s' * (done.files > 1)}"
    say(
        f"{out}: {done.rows:,} rows in {files}, {done.steps:,} steps of {done.global_batch}; "
        f"{done.left_out:,} rows of the epoch are left out\n{_how_to_read(done, out)}"
    )


def _how_to_read(done: "Exported", out: Path) -> str:
    width, path = done.width, str(out)
    match done.layout:
        case "npy":
            array = f"numpy.memmap({f'{path}/train.bin'!r}, dtype={done.dtype!r}, mode='r').reshape(-1, {width})"
            return f"row i is {array}[i]; OLMo-core reads it with sequence_length={width}, dtype=numpy.{done.dtype}"
        case "megatron":
            return f"row i is megatron.core.datasets.indexed_dataset.IndexedDataset({f'{path}/train'!r})[i]"
        case "parquet":
            return f"row i is datasets.load_dataset({path!r}, split='train')[i]['input_ids']"
        case "mds":
            return f"row i is streaming.StreamingDataset(local={path!r}, batch_size=1)[i]['tokens']"
    recipe = (
        f"a recipe reads it with layout: {done.layout}, width: {width}, seed: {done.seed}, "
        f"global_batch: {done.global_batch}"
    )
    if done.layout != "llm360":
        return recipe
    return (
        f"{recipe}\nthe trainers of Amber and MobiLlama read it with TRAIN_EXAMPLES_PER_CHUNK = "
        f"{done.rows // done.files}, N_CHUNKS = {done.files}"
    )


@export.command("gguf")
def export_gguf(
    address: Address,
    out: Annotated[Path, typer.Option(help="File to create.")],
    model: OnlyModel = None,
    step: Annotated[int | None, typer.Option(help="Step, stored or virtual (default: the last stored).")] = None,
    dtype: Annotated[Literal["f32", "f16"], typer.Option(help="Numbers of the matrices.")] = "f32",
    follow_links: FollowLinks = False,
) -> None:
    """Write one verified checkpoint, with its tokenizer, as a GGUF file for llama.cpp."""
    if not find_spec("gguf"):
        raise EverystepError(f"export gguf: needs the package gguf; {how_to_install('gguf')}")
    from pipeline.audit.export_gguf import export_gguf as write_gguf

    release = open_release(address, follow_links)
    model = model or only_model(release)
    wanted = max(release.states(model)) if step is None else step
    state = with_bytes(release, {wanted: release.state(model, wanted)})[wanted]
    write_gguf(release, state, out, dtype)
    say(f"{out}: {model} {state.entry.revision}, {dtype}, {out.stat().st_size / 1e6:,.1f} MB")
