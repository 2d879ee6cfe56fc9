"""The way out: `keys`, `sign`, `publish`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.base.console import note
from pipeline.cli.arguments import Address, Json
from pipeline.cli.common import ask_passphrase, open_release, require_torch, say

commands = typer.Typer()
keys = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
commands.add_typer(keys, name="keys")


@keys.callback()
def _keys() -> None:
    """Make the keys that sign releases."""


@keys.command("new")
def keys_new(
    out: Annotated[Path, typer.Option(help="Folder to create, for the two keys.")],
    passphrase: Annotated[bool, typer.Option("--passphrase", help="Ask for a passphrase for the private key.")] = False,
    passphrase_file: Annotated[Path | None, typer.Option(help="File with the passphrase, without asking.")] = None,
) -> None:
    """Make a pair of keys: private.pem, which only you can read, and public.pem, for readers."""
    from pipeline.signing.keys import PRIVATE, PUBLIC, new_keys

    protected = passphrase or passphrase_file is not None
    made = new_keys(out, ask_passphrase(passphrase_file, confirm=True) if protected else None)
    say(f"{out}: key {made}")
    say(f"sign with {out / PRIVATE}, and keep it secret; give readers {out / PUBLIC}, where they trust you")


@commands.command()
def sign(
    address: Address,
    key: Annotated[Path, typer.Option(help="Private key, as `everystep keys new` writes it.")],
    commit: Annotated[
        str | None, typer.Option(help="Commit of the project that built the release, for the statements.")
    ] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="File with the passphrase of the key (default: ask, if it has one).")
    ] = None,
) -> None:
    """Verify a release and sign it: every byte, and what went into data and models and came out."""
    from pipeline.audit.verify import verify as check_release
    from pipeline.release.release import Release
    from pipeline.signing.keys import key_id, read_private
    from pipeline.signing.sign import sign as sign_release
    from pipeline.signing.statements import checked_commit

    if commit is not None:
        checked_commit(commit)
    private = read_private(key, lambda: ask_passphrase(passphrase_file, confirm=False))
    report = check_release(address)
    if report.exit_code:
        for line in report.lines(address):
            note(line)
        note("error: not signed, because of the above")
        sys.exit(report.exit_code)
    files = sign_release(Release.open(address), private, commit)
    say(f"{address}: signed by {key_id(private.public_key())}, {len(files)} files below {Path(files[0]).parent}")


@commands.command()
def publish(
    address: Annotated[
        Path, typer.Argument(metavar="RELEASE", help="Folder of a release, in the project that built it.")
    ],
    to: Annotated[str, typer.Option(help="Folder, s3://BUCKET/PATH, or hf://OWNER/NAME.")],
    key: Annotated[Path | None, typer.Option(help="Private key to sign with (default: it is signed already).")] = None,
    as_json: Json = False,
) -> None:
    """Check a release, upload it, and compare every byte with what the store then has.

    Nothing goes out unless each checkpoint is the one that was trained, its validation loss comes out again, the
    licences are allowed, the project is committed, and commit and lock are signed. Run again, it goes on.
    """
    require_torch("publish")
    from dataclasses import asdict

    from pipeline.base.errors import Differs
    from pipeline.publish.hub import publish_to_hub
    from pipeline.publish.refusals import committed, refusals, unsigned
    from pipeline.publish.upload import publish as upload
    from pipeline.signing.keys import read_private
    from pipeline.signing.sign import sign as sign_release
    from pipeline.stores.address import open_store
    from trainer.probe import probe

    release = open_release(str(address))
    faults = list(refusals(release))
    if not faults:
        faults = [fault for model in release.models() for fault in probe(release, model)]
    if not faults:
        if key is not None:
            sign_release(release, read_private(key, lambda: ask_passphrase(None, confirm=False)), committed(release))
        faults = list(unsigned(release))
    if faults:
        lines = [*faults[:20], *([f"... and {len(faults) - 20} more"] if len(faults) > 20 else [])]
        raise Differs("\n".join([*lines, "nothing was published"]))
    if to.startswith("hf://"):
        on_hub = publish_to_hub(release, to)
        if as_json:
            print(json.dumps(asdict(on_hub)))
            return
        say(
            f"{to}: published {release.name} {release.version} in {len(on_hub.repositories)} repositories, "
            f"{on_hub.revisions} checkpoints, {on_hub.commits} commits; the Hub was asked for {on_hub.compared:,} files"
        )
        return
    done = upload(release, open_store(to))
    if as_json:
        print(json.dumps(asdict(done)))
        return
    say(
        f"{to}: published {release.name} {release.version}, {done.files:,} files, {done.bytes / 1e6:,.1f} MB; "
        f"{done.uploaded:,} were uploaded, {done.told:,} compared with the store's own SHA-256, "
        f"{done.read_back:,} read back"
    )
    say(f"sha256 of release.json: {done.root_sha256}")
