"""Extract one source: natural documents out of the raw artefact, as document shards.

Reads `data/raw/SOURCE`; writes `data/documents/SOURCE` (shards and `removals.parquet`: what could not be
read as text, with the reason) and `manifests/documents/SOURCE.json`. Documents stand in the order of the
artefact's parts; an id that comes twice is an error, because everything later is keyed by it.
"""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

from pipeline.console import progress, run_command
from pipeline.formats.documents import Document, text_sha256, write_sharded
from pipeline.formats.errors import EverystepError
from pipeline.formats.files import fresh_folder
from pipeline.formats.manifests import manifest_path, write_manifest
from pipeline.formats.project import DOCUMENTS, RAW, REMOVALS_FILE
from pipeline.formats.tables import REMOVALS, removal, write_table
from pipeline.sources.declaration import Source
from pipeline.sources.document import Rejected
from pipeline.sources.readers import READERS
from pipeline.stages.parallel import ordered_map
from pipeline.stages.params import load_source


def extract(name: str) -> None:
    """Extract the source `name`."""
    source = load_source(name)
    folder = fresh_folder(DOCUMENTS / name)
    parts = READERS[source.reader].parts(RAW / name, source)
    removals: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    with progress(f"extract {name}", len(parts), "parts") as advance:

        def documents() -> Iterator[Document]:
            seen: set[str] = set()
            for items in ordered_map(partial(_read_part, name=name, source=source), parts):
                for item in items:
                    if item.id in seen:
                        raise EverystepError(
                            f"{RAW / name}: two documents have the id {item.id}; choose another id_column or reader"
                        )
                    seen.add(item.id)
                    if isinstance(item, Document):
                        counts["documents"] += 1
                        counts["bytes"] += len(item.text.encode())
                        yield item
                    else:
                        removals.append(removal("extract", name, item.id, item.reason, detail=item.detail))
                advance(1)

        shards = write_sharded(folder, documents())
    table = write_table(folder / REMOVALS_FILE, removals, REMOVALS, REMOVALS_FILE)
    write_manifest(
        "extract",
        name,
        inputs=[manifest_path("fetch", name)],
        parameters={"reader": source.reader},
        outputs={"documents": shards, "removals": [table]},
        documents=counts["documents"],
        bytes=counts["bytes"],
        removed=dict(Counter(row["reason"] for row in removals)),
    )


class _Rejected(Rejected):
    """A rejection under the full id of its document."""

    @property
    def id(self) -> str:
        return self.key


def _read_part(part: str, name: str, source: Source) -> list[Document | _Rejected]:
    items: list[Document | _Rejected] = []
    for item in READERS[source.reader].read(RAW / name, part, source):
        id = f"{name}/{item.key}"
        if isinstance(item, Rejected):
            items.append(_Rejected(id, item.reason, item.detail))
        else:
            own = {"license": source.license, "source": name, "text_sha256": text_sha256(item.text)}
            items.append(Document(id, item.text, item.metadata | own))
    return items


if __name__ == "__main__":
    run_command(extract, "SOURCE")
