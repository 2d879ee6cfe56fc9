"""The data of the explorer: files of which a browser reads ranges, each computed from other files of the release.

    report/data/documents.jsonl     the training documents, sorted by id
    report/data/documents.places    the same in the order in which they were packed: where each begins, and its line
    report/data/MODEL.losses        the loss of each token of the sampled training rows, at each stored checkpoint

What a browser reads as it is has no copy here: the ids of the rows (`data/search`), the tokenizer, the logs, the
samples of text and the manifests. The same files give the same bytes, so `verify` makes them again and compares.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.base.paths import RESULTS
from pipeline.formats import losses
from pipeline.formats.explorer import FORGOTTEN, DocumentLines, loss_record
from pipeline.formats.manifests import Tokens
from pipeline.formats.tables import DOCUMENT_INDEX, read_table
from pipeline.release.forgetting import INDEX, forgotten_of, index_of
from pipeline.release.release import Release

FOLDER = Path("report/data")
DOCUMENTS, PLACES = FOLDER / "documents.jsonl", FOLDER / "documents.places"
Pieces = Iterator[bytes]


def data_files(release: Release) -> Iterator[tuple[Path, Pieces]]:
    """The path and the bytes of each file, to be taken one after another."""
    lines = DocumentLines(_documents(release), release.manifest(Tokens).width)
    yield DOCUMENTS, lines.pieces()
    yield PLACES, iter([lines.places()])
    for model in release.models():
        yield losses_file(model), _loss_records(release, model)


def data_paths(models: Iterable[str]) -> list[Path]:
    """The paths of all files, in the order of `data_files`."""
    return [DOCUMENTS, PLACES, *map(losses_file, models)]


def losses_file(model: str) -> Path:
    """Path of the losses of a model."""
    return FOLDER / f"{model}.losses"


def _documents(release: Release) -> pa.Table:
    """The training index; where documents were forgotten, a column says which."""
    table = read_table(release.file(INDEX), DOCUMENT_INDEX)
    if (lost := forgotten_of(release)) is None:
        return table
    return table.append_column(FORGOTTEN, pa.array(index_of(release).having(lost.spans)))


def _loss_records(release: Release, model: str) -> Pieces:
    """A record for each sampled row, ascending, from the lines of the learning record, one for each target."""
    revisions = [state.revision for state in release.states(model).values()]
    context = release.manifest(Tokens).width - 1
    path = release.file(RESULTS / model / losses.NAME)
    columns = ["split", "row", *revisions]
    waiting = losses.losses_schema(revisions).empty_table().select(columns)
    for batch in losses.losses_batches(path, revisions, columns):
        sampled = batch.filter(pc.equal(batch["split"], losses.TRAINED_ON))
        waiting = pa.concat_tables([waiting, pa.Table.from_batches([sampled])])
        while len(waiting) >= context:
            targets, waiting = waiting.slice(0, context), waiting.slice(context)
            yield loss_record(targets["row"][0].as_py(), (targets[name].to_numpy() for name in revisions))
