"""A series that is a list of links: a file, or a page of a web server, with an address for each checkpoint.

OLMo publishes its checkpoints as tables of such addresses, below which nothing can be listed. So each link is asked for
one byte, and nothing is known but whether something answers. A link that ends in `/` is the place of a checkpoint: it
answers if a config below it does, or it itself.
"""

import re
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from urllib.parse import urljoin

from pipeline.base.console import progress
from pipeline.base.errors import EverystepError
from pipeline.series.hub import AT_ONCE, Hub
from pipeline.series.names import Named, parse_name
from pipeline.series.series import Checkpoint, Collection, File, Unseen, into_series
from pipeline.series.tree import read_range
from pipeline.stores.address import HubAddress, open_store
from pipeline.stores.download import is_broken
from pipeline.stores.retry import with_retries
from pipeline.stores.store import Missing, StoreFailed
from pipeline.stores.web import BROKEN_CONNECTION, opened

LINK = re.compile(r"\b(?:https?|hf|s3|gs)://[^\s\"'<>()\[\],;|\\`]+")
RELATIVE = re.compile(r"""href=["']([^"'#?]+)["']""")
CONFIGS = ("config.json", "config.yaml")
FIRST_WAIT_SECONDS = 0.5
ASKED = "of links only the answer was looked at: neither files nor digests can be listed there"


def read_links(address: str, text: str) -> Collection:
    """The checkpoints to which a text links; `address` is where the text is."""
    links = dict(_links(address, text))
    answers: dict[str, dict[str, File] | EverystepError | None] = {}
    with ThreadPoolExecutor(AT_ONCE) as pool, progress(f"ask {address}", len(links), "links") as advance:
        for link, answer in zip(links, pool.map(_ask, links), strict=True):
            answers[link] = answer
            advance(1)
    series: dict[str, list[Checkpoint]] = {}
    unseen: list[Unseen] = []
    for link, named in links.items():
        files = answers[link]
        if isinstance(files, EverystepError):
            unseen.append(Unseen(link, str(files), isinstance(files, Missing)))
            continue
        found = Checkpoint(link, named.step, files or {}, named.tokens, is_listed=files is not None)
        series.setdefault(named.template, []).append(found)
    limits = (ASKED,) if any(answer is None for answer in answers.values()) else ()
    return Collection(address, Links(), into_series(series), None, tuple(unseen), limits)


class Links:
    """Links, as the place of a series: the name of a checkpoint is its address."""

    def read(self, name: str, path: str, start: int, stop: int | None) -> bytes:
        if name.startswith("hf://"):
            return Hub(name).read(HubAddress(name).revision or "main", path, start, stop)
        return read_range(open_store(name.rstrip("/")), path, start, stop)

    def command(self, name: str, path: str) -> str:
        if name.startswith("hf://"):
            return Hub(name).command(HubAddress(name).revision or "main", path)
        return f"curl --head --location {shlex.quote(name + path)}"


def _links(address: str, text: str) -> Iterator[tuple[str, Named]]:
    """Every link whose last part has a step, in the order of the text, with what its name says."""
    found = LINK.findall(text)
    if address.startswith(("http://", "https://")):
        found += [urljoin(f"{address.rstrip('/')}/", target) for target in RELATIVE.findall(text)]
    for link in found:
        link = link.rstrip(".")
        named = parse_name(link.rstrip("/").rpartition("/")[2])
        if named:
            start = link.rstrip("/").rpartition("/")[0]
            yield link, named._replace(template=f"{start}/{named.template}")


def _ask(link: str) -> dict[str, File] | EverystepError | None:
    """The files at a link if they can be listed, None if something answers, else the error."""
    try:
        if link.startswith("hf://"):
            return Hub(link).tree(HubAddress(link).revision or "main")
        if not link.startswith(("http://", "https://")):
            listed = open_store(link.rstrip("/")).list() or {}
            if not listed:
                raise Missing(f"{link}: nothing is there")
            return {path: File(about.bytes, about.tag) for path, about in listed.items()}
        _ask_web(link)
    except EverystepError as error:
        return error
    return None


def _ask_web(link: str) -> None:
    """Return if a link answers. Of several errors, one that is no 404 counts: then something may be there."""
    errors: list[EverystepError] = []
    for url in [*(link + name for name in CONFIGS if link.endswith("/")), link]:
        try:
            with_retries(partial(_one_byte, url), is_broken, FIRST_WAIT_SECONDS)
        except BROKEN_CONNECTION as error:
            errors.append(StoreFailed(f"{url}: the connection broke ({error})"))
        except EverystepError as error:
            errors.append(error)
        else:
            return
    raise next((error for error in errors if not isinstance(error, Missing)), errors[-1])


def _one_byte(url: str) -> None:
    with opened(url, 0, 1) as answer:
        next(answer.chunks, b"")
