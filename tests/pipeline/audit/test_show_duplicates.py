import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from tests.releases import copied, everystep


def test_clusters_hold_every_removal_once(built_project: Path) -> None:
    rows = pq.read_table(built_project / "data/deduplicated/removals.parquet").to_pylist()
    for folder in (built_project, built_project / "release"):
        shown = everystep("duplicates", folder, "--json", "--largest", "1000")
        assert shown.code == 0, shown.said
        clusters = json.loads(shown.out)["clusters"]
        expected = Counter(row["kept"] for row in rows)
        assert {cluster["kept"]: cluster["exact"] + cluster["near"] for cluster in clusters} == expected
        assert [c["exact"] + c["near"] for c in clusters] == sorted(expected.values(), reverse=True)
    assert "documents are duplicates of" in everystep("duplicates", built_project).out


def test_a_removal_is_measured_again_on_the_words(built_project: Path) -> None:
    rows = pq.read_table(built_project / "data/deduplicated/removals.parquet").to_pylist()
    row = next(row for row in rows if row["reason"] == "near_duplicate")
    shown = everystep("duplicates", built_project, "--id", row["id"], "--json")
    found = json.loads(shown.out)
    assert shown.code == 0
    assert found["kept"] == row["kept"]
    assert found["measured"] == found["recorded"] == row["similarity"]
    assert any(line.startswith("+") for line in found["difference"])


def test_what_cannot_be_shown_is_said(built_project: Path, tmp_path: Path) -> None:
    release = built_project / "release"
    row = pq.read_table(release / "data/deduplicated/removals.parquet").to_pylist()[0]
    assert "texts are compared where they were built" in everystep("duplicates", release, "--id", row["id"]).err
    unknown = everystep("duplicates", built_project, "--id", "tales/none")
    assert (unknown.code, "was not removed as a duplicate" in unknown.err) == (2, True)
    assert everystep("show", release, built_project).code == 2
    broken = copied(release, tmp_path / "release")
    pq.write_table(pq.read_table(broken / "data/deduplicated/removals.parquet").slice(1), broken / "x.parquet")
    (broken / "x.parquet").replace(broken / "data/deduplicated/removals.parquet")
    assert everystep("duplicates", broken).code == 1
