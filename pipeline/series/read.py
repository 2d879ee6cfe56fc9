"""What is at an address: a release of ours, a repository of the Hub, a tree of files, or a list of links."""

from dataclasses import replace
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from pipeline.base.errors import EverystepError
from pipeline.base.files import Listing, list_folder, read_small
from pipeline.formats.release import ROOT
from pipeline.release.mirror import fetch_small
from pipeline.release.release import Release
from pipeline.release.rungs import pinned_root
from pipeline.series.hub import read_hub
from pipeline.series.links import read_links
from pipeline.series.names import parse_name
from pipeline.series.released import read_release
from pipeline.series.series import Collection, Unseen
from pipeline.series.tree import read_tree
from pipeline.stores.address import HubAddress, is_remote, open_store
from pipeline.stores.download import is_broken
from pipeline.stores.retry import with_retries
from pipeline.stores.store import Listed, Missing, StoreFailed
from pipeline.stores.web import BROKEN_CONNECTION, opened

MAX_PAGE_BYTES = 16 << 20
FIRST_WAIT_SECONDS = 0.5
SHOWN = 3
"""Links that a limit names."""
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
    found = list_folder(path)
    files = [name for name in (*found.files, *found.links) if (path / name).is_file()]
    if ROOT in files:
        return read_release(address, Release.open(address))
    listed = {name: Listed((path / name).stat().st_size, None) for name in files}
    tree = read_tree(address, open_store(address), listed)
    unseen, passed_over = _not_files(path, found)
    limits = [f"links to folders are not followed: {', '.join(passed_over[:SHOWN])}"] if passed_over else []
    return replace(tree, unseen=(*tree.unseen, *unseen), limits=(*tree.limits, *limits))


def _not_files(folder: Path, found: Listing) -> tuple[list[Unseen], list[str]]:
    """What of a folder cannot be looked at though its path has a step, and the other links to folders."""
    unseen, passed_over = [], []
    for name in sorted({*found.links, *found.others, *found.closed}):
        path, has_step = folder / name, any(map(parse_name, PurePosixPath(name).parts))
        if path.is_file() or (not has_step and not path.is_dir()):
            continue
        if name in found.closed:
            unseen.append(Unseen(name, f"{name}: a folder that cannot be listed", is_gone=False))
        elif path.is_dir() and not has_step:
            passed_over.append(name)
        elif path.is_dir():
            unseen.append(Unseen(name, f"{name}: a link to a folder, which is not followed", is_gone=False))
        elif name in found.links:
            unseen.append(Unseen(name, f"{name}: a link to nothing", is_gone=True))
        else:
            unseen.append(Unseen(name, f"{name}: neither a file nor a folder", is_gone=False))
    return unseen, passed_over


def _read_web(address: str) -> Collection:
    """A web server lists nothing, so there is a release of ours, or a page with links."""
    if not urlsplit(address).path.endswith(LISTS):
        store = open_store(address)
        try:
            is_ours = fetch_small(store, ROOT).lstrip().startswith(b"{")  # some servers answer anything with a page
        except Missing:
            is_ours = False
        if is_ours:
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
