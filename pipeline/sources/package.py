"""Fetch a wheel from a Python package index. `pip` downloads it; it is never installed or run.

The index, its certificates and proxies are the caller's configuration of pip; everything else that could influence
pip is removed from its environment. Whichever index serves the wheel, its digest decides.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from pipeline.base.console import ReportTotal
from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import sha256_file
from pipeline.sources.declaration import Package

FLAGS = (
    "--quiet --disable-pip-version-check --no-input --no-deps --only-binary :all: --require-hashes "
    "--ignore-requires-python"
)
INDEX_SETTINGS = (
    "PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_NO_INDEX PIP_FIND_LINKS PIP_CONFIG_FILE PIP_TRUSTED_HOST PIP_CERT "
    "PIP_CLIENT_CERT PIP_PROXY PIP_CACHE_DIR PIP_NO_CACHE_DIR PIP_TIMEOUT PIP_DEFAULT_TIMEOUT PIP_RETRIES "
    "PIP_KEYRING_PROVIDER"
)


def fetch(source: Package, folder: Path, partial: Path, report: ReportTotal) -> None:
    """Put the wheel of `source` into `folder`. pip cannot resume: a killed download starts again."""
    scratch = partial / "pip"
    shutil.rmtree(scratch, ignore_errors=True)
    wheels, requirements = scratch / "wheels", scratch / "requirements.txt"
    wheels.mkdir(parents=True)
    pinned = f"{source.package}=={source.version}"
    requirements.write_text(f"{pinned} --hash=sha256:{source.sha256}\n", "utf-8")
    report(0, None)
    _download(pinned, requirements, wheels)
    found = sorted(wheels.iterdir())
    if len(found) != 1 or found[0].suffix != ".whl":
        raise EverystepError(f"{pinned}: expected one wheel from the index, got {[path.name for path in found]}")
    digest = sha256_file(found[0])
    if digest != source.sha256:
        raise Differs(f"{pinned}: expected sha256 {source.sha256}, got {digest}; compare the pin with the index")
    report(found[0].stat().st_size, found[0].stat().st_size)
    found[0].replace(folder / found[0].name)
    shutil.rmtree(scratch)


def _download(pinned: str, requirements: Path, wheels: Path) -> None:
    places = ["-d", str(wheels), "-r", str(requirements)]
    command = [sys.executable, "-m", "pip", "download", *FLAGS.split(), *places]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        advice = "check its name, version and sha256, and that pip can reach an index that has it"
        raise EverystepError(f"{pinned}: pip could not download the wheel; {advice}. pip said:\n{done.stderr.strip()}")


def _environment() -> dict[str, str]:
    def kept(name: str) -> bool:
        return name in INDEX_SETTINGS.split() if name.startswith("PIP_") else not name.startswith("PYTHON")

    return {name: value for name, value in os.environ.items() if kept(name)}
