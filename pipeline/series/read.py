"""What is at an address: a release of ours, a repository of the Hub, a tree of files, or a list of links."""

from pathlib import Path
from urllib.parse import urlsplit

from pipeline.base.errors import EverystepError
from pipeline.base.files import read_small
from pipeline.formats.release import ROOT
from pipeline.release.mirror import fetch_small
from pipeline.release.release import Release
from pipeline.release.rungs import pinned_root
from pipeline.series.hub import read_hub
from pipeline.series.links import read_links
from pipeline.series.released import read_release
from pipeline.series.series import Collection
from pipeline.series.tree import read_tree
from pipeline.stores.address import HubAddress, is_remote, open_store
from pipeline.stores.download import is_broken
from pipeline.stores.retry import with_retries
from pipeline.stores.store import Missing, StoreFailed
from pipeline.stores.web import BROKEN_CONNECTION, opened

MAX_PAGE_BYTES = 16 << 20
FIRST_WAIT_SECONDS = 0.5
LISTS = (".csv", ".tsv", ".txt", ".md", ".html", ".htm", ".json", ".jsonl")


def read_address(address: str) -> Collection:
    """All checkpoints at an address; an error, if there is none."""
    if pinned_root(address).sha256:
        found = read_release(address, Release.open(address))
    elif not is_remote(address):
        found = _read_local(address)
    elif address.startswith(("http://", "https://")):
        found = _read_web(address)
    elif address.startswith("hf://") and HubAddress(address).revision is None:
        found = read_hub(address)
        if found.main and (ROOT in found.main.files or not found.series):
            found = _read_store(address)
    else:
        found = _read_store(address)
    if not found.series and not found.unseen:
        raise EverystepError(
            f"{address}: no checkpoint there: no branch, tag, folder or link has a step in its name, "
            "as step1000, ckpt_100 or checkpoint-500"
        )
    return found


def _read_local(address: str) -> Collection:
    path = Path(address.removeprefix("file://"))
    if path.is_file():
        return read_links(address, read_small(path).decode("utf-8", "replace"))
    if not path.is_dir():
        raise EverystepError(f"{address}: no such folder or file; give the place of a series of checkpoints")
    return _read_store(address)


def _read_web(address: str) -> Collection:
    """A web server lists nothing, so there is a release of ours, or a page with links."""
    if not urlsplit(address).path.endswith(LISTS):
        store = open_store(address)
        try:
            fetch_small(store, ROOT)
        except Missing:
            pass
        else:
            return read_release(address, Release.mirrored(store))
    try:
        page = with_retries(lambda: _page(address), is_broken, FIRST_WAIT_SECONDS)
    except BROKEN_CONNECTION as error:
        raise StoreFailed(f"{address}: the connection broke ({error}); run the same command again") from error
    return read_links(address, page.decode("utf-8", "replace"))


def _page(url: str) -> bytes:
    content = b""
    with opened(url) as answer:
        for chunk in answer.chunks:
            content += chunk
            if len(content) > MAX_PAGE_BYTES:
                raise EverystepError(f"{url}: more than {MAX_PAGE_BYTES} bytes; give a page or a table of links")
    return content


def _read_store(address: str) -> Collection:
    store = open_store(address)
    listed = store.list()
    if listed is None:
        raise EverystepError(f"{address}: cannot be listed; give a list of links to its checkpoints")
    if ROOT in listed:
        return read_release(address, Release.open(address))
    return read_tree(address, store, listed)
