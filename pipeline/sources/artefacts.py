"""A folder of artefacts that `fetch` looks into before it asks the network: `SHA256/NAME`, one file for each digest.

`EVERYSTEP_ARTEFACTS` names it. It decides where bytes come from and never which: only a file whose bytes have the
declared digest is taken, under the name that it had when it was fetched.
"""

import os
import shutil
from pathlib import Path

from pipeline.base.console import ReportTotal
from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import list_files, safe_join, sha256_file

ARTEFACTS = "EVERYSTEP_ARTEFACTS"


def take(sha256: str | None, folder: Path, partial: Path, report: ReportTotal) -> bool:
    """Copy the artefact with this digest into `folder`, by way of `partial`; False if there is none."""
    place = os.environ.get(ARTEFACTS)
    if not place or not sha256:
        return False
    root = Path(place)
    if not root.is_dir():
        raise EverystepError(f"{ARTEFACTS}: {place}: no such folder; correct or unset the variable")
    names = list_files(root / sha256)
    if not names:
        return False
    if len(names) > 1 or "/" in names[0]:
        raise EverystepError(f"{root / sha256}: holds {names}; one file is expected, the artefact of that digest")
    path = safe_join(root, f"{sha256}/{names[0]}")
    if not path.is_file():
        raise EverystepError(f"{path}: not a regular file; put the artefact itself there")
    copy = partial / "artefact"
    shutil.copyfile(path, copy)  # a file that changes meanwhile would differ here
    size, digest = copy.stat().st_size, sha256_file(copy)
    if digest != sha256:
        copy.unlink()
        raise Differs(f"{path}: expected sha256 {sha256}, got {digest}; remove this file, and the network is asked")
    report(size, size)
    copy.replace(folder / names[0])
    return True
