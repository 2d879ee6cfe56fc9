"""Show: what is in a release, from its manifests, for a person or (as one JSON object) for a program.

What is shown is what the release promises: each manifest and `params.yaml` are compared with the root manifest first.
Files beside the promised ones are not counted.
"""

from pipeline.formats.manifests import Coverage, Trained
from pipeline.formats.typed import Count, Typed
from pipeline.release.facts import Facts, gather
from pipeline.release.release import Release

BYTES_OF_A_PARAMETER = 12
"""Of a state: its weight and two moments, in fp32."""


class StateFacts(Typed):
    """How many states a model has, and the bytes of their weights and moments."""

    model: str
    """Name of the model."""
    stored: Count
    """States whose bytes are in the release."""
    virtual: Count
    """States of which it has the digest of the weights; the bytes come back by replay."""
    bytes_stored: Count
    """Bytes of the stored states."""
    bytes_raw: Count
    """Bytes that all of them would take."""


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
    states: list[StateFacts]
    """The states of each model."""


def summarize(release: Release) -> Summary:
    """What `everystep show` prints of a release."""
    facts = gather(release, release.manifest(Coverage))
    sizes = release.sizes()
    return Summary(
        name=release.name,
        version=release.version,
        files=len(release.files) + 2 if sizes is None else len(sizes),
        bytes=None if sizes is None else sum(sizes.values()),
        states=[_states(release.model(model.name)) for model in facts.models],
        **dict(facts),
    )


def _states(trained: Trained) -> StateFacts:
    stored, virtual = len(trained.checkpoints), trained.num_virtual
    each = BYTES_OF_A_PARAMETER * trained.parameters_unique
    return StateFacts(
        model=trained.of,
        stored=stored,
        virtual=virtual,
        bytes_stored=stored * each,
        bytes_raw=(stored + virtual) * each,
    )
