"""Rebuild a release from a capsule, without any network: `python3 thaw.py OUT`, or `everystep thaw CAPSULE OUT`.

This file is a part of every capsule and needs Python, Git and nothing else. Every file of the capsule is compared with
`capsule.json` before the first is used. Then OUT becomes a clone of the code, with an environment of the packages; the
release is built in it from the artefacts, and compared with the committed lock and manifests.
"""

import hashlib
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

MANIFEST, FORMAT = "capsule.json", "everystep/capsule/1"
CODE, PACKAGES, ARTEFACTS = "code.bundle", "packages", "artefacts"
KEYS = {"commit", "files", "format", "platform", "python", "torch"}
NAME = re.compile(r"[A-Za-z0-9_+!-][A-Za-z0-9._+!-]{0,199}")  # no name begins with a dot
MAX_MANIFEST_BYTES, MAX_DEPTH = 16 << 20, 8
OURS = {"PATH", "LD_LIBRARY_PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "TERM", "USER", "LOGNAME", "COLUMNS"}
"""Variables that the build gets from the caller, with those of Everystep; pip's and Python's could bring in more."""


class Refused(Exception):  # noqa: N818  # reads as the sentence that it is
    """Capsule or machine that cannot be used. The message names the file and the fix."""

    exit_code = 2


class Changed(Refused):
    """Byte of a capsule, or of what was rebuilt, that differs from what was promised."""

    exit_code = 1


def here() -> str:
    """Name the Python and the platform that packages are made for: `3.11`, `linux-x86_64`."""
    return f"{sys.version_info.major}.{sys.version_info.minor} {sysconfig.get_platform()}"


def thaw(capsule: Path, out: Path) -> None:
    """Check `capsule`, rebuild in the new folder `out`, compare. A clone that was prepared is kept whatever comes."""
    about = check(capsule)
    if f"{about['python']} {about['platform']}" != here():
        needed = f"Python {about['python']} on {about['platform']}"
        raise Refused(f"{capsule}: its packages are for {needed}, this is {here()}; run it with that Python")
    if os.path.lexists(out):
        raise Refused(f"{out}: already exists; name a new folder")
    capsule, out = capsule.absolute(), out.absolute()
    try:
        _prepare(capsule, out, about)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    _say(f"building in {out}")
    python = out / ".venv" / "bin" / "python"
    environment = _environment() | {"EVERYSTEP_ARTEFACTS": str(capsule / ARTEFACTS)}
    if not _has_loopback():
        _say("there is no loopback interface, so trainings use one process, which changes no byte")
        environment["EVERYSTEP_PROCESSES"] = "1"
    command = [str(python), "-m", "pipeline.build.reproduce", "here"]
    code = subprocess.run(command, cwd=out, env=environment, check=False).returncode
    if code:
        raise (Changed if code == 1 else Refused)(f"{out}: the rebuild ended with {code}; its own words are above")


def check(capsule: Path) -> dict[str, Any]:
    """Compare every file of `capsule` with its manifest, which is returned. Links and other files are refused."""
    about = read_manifest(capsule / MANIFEST)
    promised = {file["path"]: file for file in about["files"]}
    found = set(_listed(capsule, "", 0)) - {MANIFEST}
    if missing := sorted(promised.keys() - found):
        raise Changed(f"{capsule / missing[0]}: missing, with {len(missing) - 1} others; copy the whole capsule again")
    if foreign := sorted(found - promised.keys()):
        raise Changed(f"{capsule / foreign[0]}: {MANIFEST} does not list it; remove it, if you know where it is from")
    _say(f"checking {len(promised)} files of {capsule}")
    for path, file in promised.items():
        with (capsule / path).open("rb") as content:
            size, digest = os.fstat(content.fileno()).st_size, hashlib.file_digest(content, "sha256").hexdigest()
        if (size, digest) != (file["bytes"], file["sha256"]):
            raise Changed(f"{capsule / path}: other bytes than {MANIFEST} lists; copy it again")
    return about


def read_manifest(path: Path) -> dict[str, Any]:
    """Parse `capsule.json`; every key is required, and every name stays in the capsule."""
    if path.is_symlink() or not path.is_file():
        raise Refused(f"{path}: no such file; this is no capsule, or one that was not finished: make it again")
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise Refused(f"{path}: more than {MAX_MANIFEST_BYTES} bytes")
    try:
        tree = json.loads(path.read_bytes())
        if not isinstance(tree, dict) or tree.get("format") != FORMAT:
            raise Refused(f"{path}: not of format {FORMAT}; use the thaw.py of this capsule")
        _require(tree.keys() == KEYS, f"its keys are not {sorted(KEYS)}")
        _require(all(isinstance(tree[key], str) for key in KEYS - {"files"}), "a value is not a string")
        _require(re.fullmatch("[0-9a-f]{40}", tree["commit"]), f"commit: {tree['commit']!r:.80}")
        _require(re.fullmatch(r"torch==[A-Za-z0-9.+]+", tree["torch"]), f"torch: {tree['torch']!r:.80}")
        for file in tree["files"]:
            _require(file.keys() == {"bytes", "path", "sha256"}, f"files: {file!r:.200}")
            _require(all(NAME.fullmatch(part) for part in file["path"].split("/")), f"files: path: {file!r:.200}")
            _require(type(file["bytes"]) is int and re.fullmatch("[0-9a-f]{64}", file["sha256"]), f"{file!r:.200}")
        paths = [file["path"] for file in tree["files"]]
        _require(paths == sorted({*paths} - {MANIFEST}), "files: not sorted, or listed twice")
        _require({CODE, "thaw.py"} <= {*paths}, f"files: lists no {CODE} or no thaw.py")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise Refused(f"{path}: not a manifest of a capsule: {error}") from error
    return tree


def _require(holds: object, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _listed(folder: Path, inside: str, depth: int) -> list[str]:
    """List the regular files below `folder`, by relative path."""
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name, mode = f"{inside}{entry.name}", entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode) and depth < MAX_DEPTH:
                names += _listed(folder / entry.name, f"{name}/", depth + 1)
            elif stat.S_ISREG(mode):
                names.append(name)
            else:
                raise Refused(f"{folder / entry.name}: a link, pipe or device; a capsule holds regular files only")
    return names


def _prepare(capsule: Path, out: Path, about: dict[str, Any]) -> None:
    """Make `out` a clone of the code at the capsule's commit, with the packages in `.venv`."""
    _say(f"cloning {about['commit']}")
    _run("git", "init", "--quiet", str(out))
    _run("git", "-C", str(out), "fetch", "--quiet", str(capsule / CODE), "HEAD")
    _run("git", "-C", str(out), "checkout", "--quiet", "-B", "main", about["commit"])
    _say("installing the packages (about three minutes)")
    _run(sys.executable, "-m", "venv", str(out / ".venv"))
    pip = [str(out / ".venv" / "bin" / "python"), "-m", "pip", "--isolated", "--disable-pip-version-check", "install"]
    pip += ["--quiet", "--no-index", "--find-links", str(capsule / PACKAGES)]
    pinned = ["--constraint", str(out / "constraints.txt")]
    _run(*pip, *pinned, "--no-deps", "setuptools")  # it builds what the lock has as source only
    from_lock = ["--no-deps", "--require-hashes", "--requirement", str(out / "requirements.lock")]
    _run(*pip, *from_lock, "--no-build-isolation", "--use-pep517")
    _run(*pip, *pinned, about["torch"])
    _run(*pip, "--no-deps", "--no-build-isolation", "--editable", str(out))
    (out / ".venv" / "built").touch()  # `make` then knows that nothing is to be installed


def _run(*command: str) -> None:
    """Run a program whose output matters only if it fails."""
    environment = _environment()
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    except FileNotFoundError as error:
        raise Refused(f"{command[0]}: no such program; install it and run the same command again") from error
    if done.returncode:
        said = f"{done.stdout}\n{done.stderr}".strip()[-3000:]
        raise Refused(f"`{' '.join(command)}` ended with {done.returncode}:\n{said}")


def _has_loopback() -> bool:
    """Whether processes of this machine can talk to each other; in a network namespace the interface may be down."""
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.settimeout(5)
        return client.connect_ex(server.getsockname()) == 0


def _environment() -> dict[str, str]:
    """The caller's environment without what could bring in other packages, code or settings."""
    kept = {name: value for name, value in os.environ.items() if name in OURS or name.startswith("EVERYSTEP_")}
    return kept | {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INPUT": "1"}


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def main() -> None:
    """Thaw the capsule that this file is in."""
    if len(sys.argv) != 2:
        _say("usage: python3 thaw.py OUT")
        sys.exit(Refused.exit_code)
    try:
        thaw(Path(__file__).parent, Path(sys.argv[1]))
    except Refused as error:
        _say(f"error: {error}")
        sys.exit(error.exit_code)
    except OSError as error:
        _say(f"error: {error}")
        sys.exit(Refused.exit_code)
    except KeyboardInterrupt:
        _say("interrupted; remove the folder and run the same command again")
        sys.exit(130)


if __name__ == "__main__":
    main()
