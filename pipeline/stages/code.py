"""Write down the code: for each stage the files that it loads, the pins of the libraries, and one digest of these.

Reads the packages `pipeline` and `trainer` and `constraints.txt`; writes `manifests/code.json`, a function of these
alone. The other stages depend on their own digest there, so a change of code runs what loads it and nothing else.
"""

from pipeline.base.files import sha256_file
from pipeline.base.imports import closure_with_scripts
from pipeline.base.swhid import swhid
from pipeline.formats.current import take_basis, write_manifest
from pipeline.formats.manifests import Code, digest_of_code
from pipeline.stages.programs import ENTRY_POINT, NAMES, ROOT, module_of

PINS = "constraints.txt"


def code() -> None:
    """Write the manifest of the code."""
    loaded = {stage: [PINS, *closure_with_scripts(ROOT, [ENTRY_POINT, module_of(stage)])] for stage in NAMES}
    files = {name: sha256_file(ROOT / name) for name in sorted(set().union(*loaded.values()))}
    stages = {
        stage: {"digest": digest_of_code({name: files[name] for name in names}), "files": names}
        for stage, names in loaded.items()
    }
    write_manifest(
        Code,
        None,
        take_basis(),
        parameters={},
        outputs={},
        files=files,
        stages=stages,
        swhid=swhid({name: (ROOT / name).read_bytes() for name in files}),
    )
