"""Addresses: what a person writes for the place of a release, and the store that it names.

PATH, file://PATH            a folder
http://, https://            a folder of any web server
s3://, gs://, ...            a prefix of an object store, or whatever else fsspec knows
hf://OWNER/NAME[@REVISION]   a repository of the Hugging Face Hub: of a model, or hf://datasets/OWNER/NAME
dvc:REPOSITORY[@REVISION]    the folder `release` of a DVC project: a path, or what `git clone` takes
"""

import re
from pathlib import Path
from typing import Any

from pipeline.base.errors import EverystepError, how_to_install
from pipeline.stores.folder import Folder
from pipeline.stores.objects import Objects, translated_errors
from pipeline.stores.store import Store
from pipeline.stores.web import Web

SCHEME = re.compile(r"\A([a-z][a-z0-9+.-]{1,30})://")
HUB = re.compile(r"hf://(?:(datasets|models)/)?([^/@]+/[^/@]+)(?:@(.+))?")
DVC = re.compile(r"dvc:(.+?)(?:@([^@/:]+))?")
RELEASE = "release"


def is_remote(address: str | Path) -> bool:
    """Whether an address is anything but a folder of this machine."""
    return (
        isinstance(address, str)
        and not address.startswith("file://")
        and bool(SCHEME.match(address) or address.startswith("dvc:"))
    )


def open_store(address: str) -> Store:
    """The store at an address."""
    scheme = SCHEME.match(address)
    if address.startswith("dvc:"):
        return _dvc(address)
    if scheme is None or scheme[1] == "file":
        return Folder(address)
    if scheme[1] in ("http", "https"):
        return Web(address)
    return hub(address) if scheme[1] == "hf" else Objects.at(address)


class HubAddress:
    """A repository of the Hugging Face Hub, at a revision."""

    def __init__(self, address: str) -> None:
        parts = HUB.fullmatch(address)
        if not parts:
            raise EverystepError(
                f"{address}: not an address of the Hub; write hf://OWNER/NAME or hf://OWNER/NAME@REVISION"
            )
        self.kind = "dataset" if parts[1] == "datasets" else "model"
        self.repository = parts[2]
        self.revision = parts[3]


def hub(address: str) -> Objects:
    """A repository of the Hub, through its own client: `HF_ENDPOINT` and `HF_TOKEN` say where and as whom."""
    where = HubAddress(address)
    try:
        from huggingface_hub import HfFileSystem
    except ImportError as error:
        raise EverystepError(f"{address}: needs the library huggingface_hub; {how_to_install('hub')}") from error
    prefix = "datasets/" if where.kind == "dataset" else ""
    revision = f"@{where.revision.replace('/', '%2F')}" if where.revision else ""
    with translated_errors(address):
        return Objects(address, HfFileSystem(skip_instance_cache=True), f"{prefix}{where.repository}{revision}")


def _dvc(address: str) -> Objects:
    parts = DVC.fullmatch(address)
    try:
        from dvc.api import DVCFileSystem
    except ImportError as error:
        raise EverystepError(f"{address}: needs DVC; {how_to_install('build')}") from error
    if not parts:
        raise EverystepError(f"{address}: not a DVC repository; write dvc:PATH or dvc:URL@REVISION")
    with translated_errors(address):
        filesystem: Any = DVCFileSystem(parts[1], rev=parts[2])
        return Objects(address, filesystem, RELEASE)
