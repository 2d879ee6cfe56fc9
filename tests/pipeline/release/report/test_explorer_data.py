"""The files of the explorer say what the index and the record of losses say, and `verify` makes them again."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.formats import losses
from pipeline.formats.explorer import in_units
from pipeline.formats.manifests import Tokens
from pipeline.release.release import Release
from pipeline.release.report.data import DOCUMENTS, PLACES, data_files, data_paths, losses_file
from tests.releases import copied, everystep, reseal


def test_documents_are_sorted_by_id_and_each_place_leads_to_its_line(built_project: Path) -> None:
    release = Release.open(built_project / "release")
    content = release.file(DOCUMENTS).read_bytes()
    lines = [json.loads(line) for line in content.splitlines()]
    index = pq.read_table(release.file("data/tokens/train.parquet")).to_pylist()
    assert [line["id"] for line in lines] == sorted(row["id"] for row in index)
    columns = ("first_row", "id", "license", "num_tokens", "offset")
    width = release.manifest(Tokens).width
    places = np.frombuffer(release.file(PLACES).read_bytes(), "<u8").reshape(-1, 2).tolist()
    for row, (place, line) in zip(index, places, strict=True):
        assert place == row["first_row"] * width + row["offset"]
        assert json.loads(content[line : content.index(b"\n", line)]) == {key: row[key] for key in columns}


def test_losses_are_those_of_the_record_in_thousandths_of_a_nat(built_project: Path) -> None:
    release = Release.open(built_project / "release")
    context = release.manifest(Tokens).width - 1
    for model in release.models():
        table = pq.read_table(release.file(f"results/{model}/losses.parquet"))
        sampled = table.filter(np.array(table["split"].to_pylist()) == losses.TRAINED_ON)
        revisions = [state.revision for state in release.states(model).values()]
        content = release.file(losses_file(model)).read_bytes()
        size = 8 + 2 * context * len(revisions)
        records = [content[start : start + size] for start in range(0, len(content), size)]
        rows = [int.from_bytes(record[:8], "little") for record in records]
        assert rows == sorted({*sampled["row"].to_pylist()}) != []
        for number, record in enumerate(records):
            said = np.frombuffer(record[8:], "<u2").reshape(len(revisions), context) / 1000
            for values, revision in zip(said, revisions, strict=True):
                exact = sampled[revision].to_numpy()[number * context : (number + 1) * context]
                assert np.abs(values - exact).max() <= 0.0005 + 1e-6


def test_a_loss_is_rounded_half_to_even_and_the_largest_is_65_nats() -> None:
    given = np.array([0, 0.0005, 0.0015, 1.2344, 65.5, 66, np.float32(3e38)], np.float32)
    assert in_units(given).tolist() == [0, 1, 2, 1234, 65500, 65535, 65535]  # 0.0005 is a little more as a float32


def test_the_same_files_give_the_same_bytes_and_the_release_lists_them_all(built_project: Path) -> None:
    project, release = Release.open(built_project), Release.open(built_project / "release")
    for (path, made), (again, listed) in zip(data_files(project), data_files(release), strict=True):
        assert path == again and b"".join(made) == b"".join(listed) == release.file(path).read_bytes()
    below = [path for path in release.files if path.startswith("report/data/")]
    assert below == sorted(path.as_posix() for path in data_paths(release.models()))


@pytest.mark.parametrize("kind", ["documents.jsonl", "documents.places", "mobilellm.losses", "other"])
def test_a_changed_file_of_the_explorer_is_found(built_project: Path, tmp_path: Path, kind: str) -> None:
    release = copied(built_project / "release", tmp_path / "release")
    file = release / "report" / "data" / kind
    if kind == "other":
        file.write_bytes(b"more")
    elif kind == "documents.jsonl":
        file.write_text(file.read_text().replace("CC0-1.0", "CC0-2.0", 1))
    else:
        content = bytearray(file.read_bytes())
        content[20] ^= 1
        file.write_bytes(content)
    reseal(release)
    done = everystep("verify", release)
    what = "a release has no such file" if kind == "other" else "is not what the documents, the rows and the losses"
    assert done.code == 1 and f"report/data/{kind}: {what}" in done.out
