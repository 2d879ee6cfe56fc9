"""Report: the files that the explorer reads are what the release gives, to the last byte."""

import hashlib
from collections.abc import Iterator

from pipeline.release.release import Release
from pipeline.release.report.data import data_files


def report_faults(release: Release) -> Iterator[str]:
    """Each of the files that is missing, or has other bytes."""
    for path, pieces in data_files(release):
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
        name = path.as_posix()
        if name not in release.files:
            yield f"{name}: missing"
        elif release.files[name].digest != digest.hexdigest():
            yield f"{name}: is not what the documents, the rows and the losses of the release give"
