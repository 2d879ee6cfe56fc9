"""Sources in object stores, against real servers on this machine: what is asked, what comes, what is said."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.errors import Differs, EverystepError
from pipeline.sources.fetch import fetch
from pipeline.stores import objects
from tests.pipeline.sources.declared import declared
from tests.servers import stores
from tests.servers.cutter import Cutter, cutting
from tests.servers.loopback import Handler, serve

CONTENT = os.urandom(600_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = "gazette/corpus.bin"


@pytest.fixture(scope="module", params=[stores.s3, stores.gs], ids=["s3", "gs"])
def store(request: pytest.FixtureRequest) -> Iterator[stores.Store]:
    with request.param() as store:
        store.put(NAME, CONTENT)
        yield store


@pytest.fixture(scope="module")
def s3() -> Iterator[stores.Store]:
    with stores.s3() as store:
        store.put(NAME, CONTENT)
        yield store


@pytest.fixture(autouse=True)
def _a_machine_without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the person who runs the tests, and small requests so that an object takes several."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "FSSPEC_", "STORAGE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setattr(objects, "RANGE_BYTES", 100_000)


@pytest.fixture
def through(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Say where the store is, as a person does; the way there may break."""
    with ExitStack() as stack:

        def through(store: stores.Store, **faults: int) -> Cutter:
            way = stack.enter_context(cutting(store.address, **faults))
            monkeypatch.setenv({"s3": "AWS_ENDPOINT_URL", "gs": "STORAGE_EMULATOR_HOST"}[store.scheme], way.address)
            return way

        yield through


def address(store: stores.Store, name: str = NAME) -> str:
    return f"{store.scheme}://{stores.BUCKET}/{name}"


def take(tmp_path: Path, url: str, **changes: Any) -> list[dict[str, Any]]:
    source = declared("url", **({"url": url, "sha256": SHA256} | changes))
    return fetch("gazette", source, tmp_path / "raw", tmp_path / "partial", lambda done, total: None)


def refused(tmp_path: Path, url: str, **changes: Any) -> str:
    """What is said of a fetch that must fail and leave nothing to use."""
    with pytest.raises(EverystepError) as caught:
        take(tmp_path, url, **changes)
    assert list((tmp_path / "raw").iterdir()) == []
    return str(caught.value)


def test_public_object_comes_whole_without_credentials(store: stores.Store, through: Any, tmp_path: Path) -> None:
    through(store)
    assert take(tmp_path, address(store)) == [{"path": "corpus.bin", "bytes": len(CONTENT), "sha256": SHA256}]
    assert (tmp_path / "raw/corpus.bin").read_bytes() == CONTENT
    assert list((tmp_path / "partial").iterdir()) == []


def test_wrong_digest_is_refused_before_a_byte_is_used(store: stores.Store, through: Any, tmp_path: Path) -> None:
    through(store)
    said = refused(tmp_path, address(store), sha256="0" * 64)
    assert said.startswith(f"source gazette: {address(store)}: expected sha256 {'0' * 64}, got {SHA256}")
    assert list((tmp_path / "partial").iterdir()) == []


def test_object_that_changed_since_the_pin_is_a_difference(store: stores.Store, through: Any, tmp_path: Path) -> None:
    through(store)
    store.put("moved/corpus.bin", CONTENT[::-1])
    with pytest.raises(Differs):
        take(tmp_path, address(store, "moved/corpus.bin"))


@pytest.mark.parametrize("name", ["gazette/other.bin", "gazette"])
def test_missing_object_is_named_with_the_fix(store: stores.Store, through: Any, tmp_path: Path, name: str) -> None:
    through(store)
    said = refused(tmp_path, address(store, name))
    assert said == f"source gazette: {address(store, name)}: no such file; correct the address"


def test_missing_bucket_is_named_with_the_fix(store: stores.Store, through: Any, tmp_path: Path) -> None:
    through(store)
    place = f"{store.scheme}://no-such-bucket/corpus.bin"
    assert refused(tmp_path, place) == f"source gazette: {place}: no such file; correct the address"


def test_answer_longer_than_declared_is_cut_short(store: stores.Store, through: Any, tmp_path: Path) -> None:
    through(store)
    assert "sends more than 1000 bytes; correct `bytes`" in refused(tmp_path, address(store), bytes=1000)


def test_connection_that_breaks_once_is_mended_by_the_library(
    store: stores.Store, through: Any, tmp_path: Path
) -> None:
    way = through(store, cut_after=250_000, cuts=1)
    take(tmp_path, address(store))
    assert way.cuts == 0
    assert (tmp_path / "raw/corpus.bin").read_bytes() == CONTENT


def test_store_that_goes_away_keeps_the_part_and_the_next_command_goes_on(
    s3: stores.Store, through: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only for s3: gcsfs asks for half a minute before it gives up."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    through(s3, cut_after=250_000, cuts=10**6)
    said = refused(tmp_path, address(s3))
    assert said.startswith(f"source gazette: {address(s3)}: the store failed (")
    assert said.endswith("the part so far is kept; run the same command again, or correct the address")
    part = (tmp_path / f"partial/{SHA256}.part").read_bytes()
    assert 0 < len(part) < len(CONTENT)
    assert CONTENT.startswith(part)
    way = through(s3)
    take(tmp_path, address(s3))
    assert (tmp_path / "raw/corpus.bin").read_bytes() == CONTENT
    assert way.sent < len(CONTENT) - len(part) + 50_000  # the rest, with headers


def test_killed_download_goes_on_in_the_next_process(store: stores.Store, through: Any, tmp_path: Path) -> None:
    (tmp_path / "partial").mkdir()
    (tmp_path / f"partial/{SHA256}.part").write_bytes(CONTENT[:450_001])
    way = through(store)
    take(tmp_path, address(store))
    assert (tmp_path / "raw/corpus.bin").read_bytes() == CONTENT
    assert way.sent < 200_000


def test_hidden_object_without_credentials_says_what_to_give(s3: stores.Store, through: Any, tmp_path: Path) -> None:
    through(s3)
    assert s3.hide
    s3.put("hidden/corpus.bin", CONTENT)
    s3.hide("hidden/corpus.bin")
    said = refused(tmp_path, address(s3, "hidden/corpus.bin"))
    assert "not readable with the credentials of this machine" in said
    assert "give credentials" in said


def test_hidden_object_comes_with_the_credentials_of_the_environment(
    s3: stores.Store, through: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    through(s3)
    assert s3.hide
    s3.put("hidden/corpus.bin", CONTENT)
    s3.hide("hidden/corpus.bin")
    for name, value in stores.KEY.items():
        monkeypatch.setenv({"region_name": "AWS_DEFAULT_REGION"}.get(name, name.upper()), value)
    assert take(tmp_path, address(s3, "hidden/corpus.bin"))[0]["sha256"] == SHA256


@pytest.mark.parametrize("status", [401, 403])
def test_google_that_refuses_says_what_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """By a server that answers as Google's does: the emulator lets everybody in."""

    class Closed(Handler):
        def do_GET(self) -> None:  # noqa: N802 - the library's name
            who = "Anonymous caller does not have storage.objects.get access"
            self.answer(status, json.dumps({"error": {"code": status, "message": who}}).encode())

    with serve(Closed) as place:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", place)
        said = refused(tmp_path, "gs://corpora/corpus.bin")
    assert "Anonymous caller does not have storage.objects.get access" in said
    assert "give credentials" in said
