"""What a release says, verified without its rows, tables and tensors: what moves, what is found, what is left."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.audit.verify_metadata import named_root, verify_metadata
from pipeline.base.errors import EverystepError
from pipeline.formats.release import ROOT, SUMS
from tests.releases import (
    copied,
    edit_log,
    everystep,
    flip,
    read_json,
    reseal,
    reseal_file,
    reseal_sums,
    swap,
    write_json,
)
from tests.servers.web import serve_folder

LARGE = (".safetensors", ".zst", ".parquet", ".ids", ".nodes")
STATE = "runs/openelm/step000004-tokens1024"


@pytest.fixture
def release(built_project: Path, tmp_path: Path) -> Path:
    return copied(built_project / "release", tmp_path / "release")


def faults(release: Path) -> list[str]:
    return verify_metadata(str(release)).faults


def test_an_address_and_an_option_that_name_two_roots_are_refused() -> None:
    for named in ("0" * 64, None):
        assert named_root(f"place#sha256={'0' * 64}", named) == ("place", "0" * 64)
    with pytest.raises(EverystepError, match="the address and --root name two different digests"):
        named_root(f"place#sha256={'0' * 64}", "1" * 64)


def test_no_large_file_is_read(built_project: Path) -> None:
    folder = built_project / "release"
    with serve_folder(folder) as web:
        report = verify_metadata(web.url)
    assert (report.faults, report.checkpoints) == ([], 10)
    paths = {request.path.lstrip("/") for request in web.counted.requests}
    assert not [path for path in paths if path.endswith(LARGE)]
    small = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(LARGE)]
    assert web.counted.sent() <= sum(path.stat().st_size for path in small)
    assert report.unread == len([path for path in folder.rglob("*") if path.name.endswith(LARGE)])


def test_it_says_what_it_has_not_read(built_project: Path) -> None:
    done = everystep("verify", built_project / "release", "--metadata")
    assert done.code == 0
    assert "the metadata agree: everystep-demo 0.1.0" in done.out
    assert "files of rows, tables and tensors; verify without --metadata reads them" in done.out
    told = json.loads(everystep("verify", built_project / "release", "--metadata", "--json").out)
    assert told["metadata_verified"] and "verified" not in told


def test_a_changed_tensor_is_left_to_verify_itself(release: Path) -> None:
    flip(release / STATE / "model.safetensors", 0.8)
    assert faults(release) == []
    assert everystep("verify", release).code == 1


def _another_card(release: Path) -> None:
    (release / "README.md").write_text("# Everything is well\n")
    reseal_file(release, "README.md")


def _another_loss_in_the_log(release: Path) -> None:
    edit_log(release, "openelm", lambda entries: entries[3].update(loss=1.0))
    reseal(release)


def _swapped_checkpoints(release: Path) -> None:
    swap(release / STATE, release / "runs/openelm/step000002-tokens512")
    reseal(release)


def _another_lock(release: Path) -> None:
    (release / "dvc.lock").write_text("{}\n")


def _a_missing_weight(release: Path) -> None:
    (release / STATE / "model.safetensors").unlink()


def _other_lists(release: Path) -> None:
    lines = (release / SUMS).read_text().splitlines(keepends=True)
    (release / SUMS).write_text("".join(lines[1:]))


def _a_manifest_of_other_counts(release: Path) -> None:
    path = release / "manifests/deduplicated.json"
    write_json(path, read_json(path) | {"documents": 1})
    reseal(release)


def _another_digest_of_the_weights(release: Path) -> None:
    root = read_json(release / ROOT)
    root["files"][f"{STATE}/model.safetensors"]["digest"] = "tensors-v1:" + "0" * 64
    write_json(release / ROOT, root)
    reseal_sums(release)


@pytest.mark.parametrize(
    "attack",
    [
        _another_card,
        _another_loss_in_the_log,
        _swapped_checkpoints,
        _another_lock,
        _a_missing_weight,
        _other_lists,
        _a_manifest_of_other_counts,
        _another_digest_of_the_weights,
    ],
)
def test_what_contradicts_itself_is_found(release: Path, attack: Callable[[Path], None]) -> None:
    attack(release)
    found = faults(release)
    assert found
    assert everystep("verify", release).code == 1


def test_a_signature_is_of_every_byte(release: Path) -> None:
    done = everystep("verify", release, "--metadata", "--key", release / "NOTICE")
    assert done.code == 2
    assert "give either --key or --metadata" in done.err
