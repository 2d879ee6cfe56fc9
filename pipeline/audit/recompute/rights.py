"""Rights: every document is of the source that its id names, under a licence that this source declares."""

from collections.abc import Iterator

from pipeline.audit.recompute.columns import index_batches, index_path
from pipeline.base.paths import SPLITS
from pipeline.base.spdx import is_satisfied
from pipeline.formats.manifests import Fetched, Filtered
from pipeline.release.release import Release


def right_faults(release: Release) -> Iterator[str]:
    """Each document whose source or licence the manifests do not give."""
    licenses = {name: licenses_of(release, name) for name in release.sources()}
    for split in SPLITS:
        for batch in index_batches(release, split, ["id", "source", "license"]):
            for row in batch.to_pylist():
                source = row["source"]
                if row["id"].partition("/")[0] != source or source not in licenses:
                    yield f"{index_path(split)}: {row['id']}: source is {source}, not as its id or the manifests say"
                elif row["license"] not in licenses[source]:
                    known = ", ".join(sorted(licenses[source]))
                    yield f"{index_path(split)}: {row['id']}: license is {row['license']}, {source} declares {known}"


def licenses_of(release: Release, source: str) -> set[str]:
    """The licences that a document of a source may have: declared, and accepted by the filter."""
    declared = release.manifest(Fetched, source).parameters.to_json()
    found = {*declared["licenses"]} if declared["license_column"] else {declared["license"]}
    if declared["unknown_license"] == "declared":
        found.add(declared["license"])
    accepted = release.manifest(Filtered, source).parameters.to_json()["licenses"]
    return {license for license in found if is_satisfied(license, accepted)}
