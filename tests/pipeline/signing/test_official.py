"""The OpenSSF's own client, `model_signing`, and we: each verifies what the other signed."""

import os
import subprocess
import sys
from pathlib import Path

from pipeline.audit.signed import check_signatures
from pipeline.release.release import Release
from pipeline.signing.keys import PrivateKey, key_id
from pipeline.signing.sign import sign, verified_sums

CLIENT = Path(sys.prefix) / "clients" / "model-signing"
"""Where `make .venv/tested` puts it, with libraries of its own."""


def model_signing(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    assert CLIENT.is_dir(), "run `make .venv/tested`, which installs it"
    return subprocess.run(
        [sys.executable, "-m", "model_signing", *arguments],
        env=os.environ | {"PYTHONPATH": str(CLIENT)},
        capture_output=True,
        text=True,
    )


def verify(release: Path, signature: Path, public: Path) -> subprocess.CompletedProcess[str]:
    return model_signing("verify", "key", release, "--signature", signature, "--public_key", public)


def test_it_verifies_our_signature_and_what_lies_beside_it_changes_nothing(
    release: Release, key: PrivateKey, other: PrivateKey
) -> None:
    (*_, bundle) = sign(release, key)
    sign(release, other)
    for name in (".gitattributes", ".cache/huggingface/x"):  # what Git and the Hub's client leave
        (release.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (release.folder / name).touch()
    signature = release.folder / bundle
    done = verify(release.folder, signature, signature.with_name("public.pem"))
    assert (done.returncode, done.stdout) == (0, "Verification succeeded\n"), done.stdout + done.stderr
    (release.folder / "receipts").mkdir()
    (release.folder / "receipts" / "of-an-audit.json").touch()  # may be added at any time
    done = verify(release.folder, signature, signature.with_name("public.pem"))
    assert (done.returncode, done.stdout) == (0, "Verification succeeded\n"), done.stdout + done.stderr
    (release.folder / "params.yaml").write_text("[]\n")
    (release.folder / "more.txt").touch()
    done = verify(release.folder, signature, signature.with_name("public.pem"))
    assert done.returncode == 1
    assert "params.yaml" in done.stderr and "more.txt" in done.stderr


def test_we_verify_its_signature(release: Release, key: PrivateKey, tmp_path: Path) -> None:
    own = release.folder / "signatures" / key_id(key.public_key())
    own.mkdir(parents=True)
    private, bundle, ignored = tmp_path / "ours" / "private.pem", own / "model.sig", release.folder / "signatures"
    command = ("sign", "key", release.folder, "--private_key", private, "--signature", bundle)
    done = model_signing(*command, "--ignore-paths", ignored)
    assert done.returncode == 0, done.stderr
    found = check_signatures(release, verified_sums(release), {own.name: key.public_key()})
    assert (found.faults, [(one.key, one.pinned) for one in found.signers]) == ([], [(own.name, True)])
    bundle.unlink()
    (own / "public.pem").touch()
    assert model_signing(*command).returncode == 0  # it signs what is below signatures/, which may grow
    (fault,) = check_signatures(release, verified_sums(release), {own.name: key.public_key()}).faults[:1]
    assert "public.pem: no public key" in fault
    (own / "public.pem").unlink()
    (fault,) = check_signatures(release, verified_sums(release), {own.name: key.public_key()}).faults
    assert "public.pem', which is no file of the release; sign with --ignore-paths signatures" in fault
