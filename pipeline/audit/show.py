"""Show: what is in a release, from its manifests, for a person or (as one JSON object) for a program.

What is shown is what the release promises: each manifest and `params.yaml` are compared with the root manifest first.
Files beside the promised ones are not counted.
"""

from pipeline.base.files import safe_join
from pipeline.formats.manifests import Coverage
from pipeline.formats.release import ROOT, SUMS
from pipeline.formats.typed import Count
from pipeline.release.facts import Facts, gather
from pipeline.release.release import Release


class Summary(Facts):
    """The facts that `everystep show` prints."""

    name: str
    """Name of the release."""
    version: str | None
    """Version of the release."""
    files: Count
    """Promised files that are there, the two lists included."""
    bytes: Count
    """Their bytes."""


def summarize(release: Release) -> Summary:
    """What `everystep show` prints of a release."""
    facts = gather(release, release.manifest(Coverage))
    files = [safe_join(release.folder, path, release.follow_links) for path in (ROOT, SUMS, *release.files)]
    present = [file for file in files if file.is_file()]
    return Summary(
        name=release.name,
        version=release.version,
        files=len(present),
        bytes=sum(file.stat().st_size for file in present),
        **dict(facts),
    )
