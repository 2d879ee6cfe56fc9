"""Show: what is in a release, from its manifests, for a person or (as one JSON object) for a program.

What is shown is what the release promises: each manifest and `params.yaml` are compared with the root manifest first.
Files beside the promised ones are not counted.
"""

from pipeline.formats.manifests import Coverage
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
    """Promised files that are there, the two lists included; as many as promised, if the store cannot list."""
    bytes: Count | None
    """Their bytes; null if the store cannot list."""


def summarize(release: Release) -> Summary:
    """What `everystep show` prints of a release."""
    facts = gather(release, release.manifest(Coverage))
    sizes = release.sizes()
    return Summary(
        name=release.name,
        version=release.version,
        files=len(release.files) + 2 if sizes is None else len(sizes),
        bytes=None if sizes is None else sum(sizes.values()),
        **dict(facts),
    )
