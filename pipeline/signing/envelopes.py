"""DSSE envelopes: a payload and one signature, which covers the payload's type too (secure-systems-lab/dsse, v1.0).

The payload is an in-toto statement. A reader decides by the key alone which algorithm was used; `keyid` is a hint and
is not read.
"""

from base64 import b64decode, b64encode
from typing import Annotated, Literal

from pydantic import Field

from pipeline.base.errors import Differs, EverystepError
from pipeline.formats.canonical import Json
from pipeline.formats.typed import Typed
from pipeline.signing.keys import PrivateKey, PublicKey, is_signed, signature

PAYLOAD_TYPE = "application/vnd.in-toto+json"


class Signature(Typed):
    """A signature in an envelope."""

    sig: Annotated[str, Field(min_length=1)]
    """Signature of the pre-authentication encoding, in base64."""
    keyid: str | None = None
    """Hint about the key; anything may be in it."""


class Envelope(Typed):
    """A DSSE envelope."""

    payload: Annotated[str, Field(min_length=1)]
    """The statement, in base64."""
    payload_type: Literal["application/vnd.in-toto+json"] = Field(alias="payloadType")
    """What the payload is."""
    signatures: Annotated[list[Signature], Field(min_length=1, max_length=1)]
    """The one signature; a second signer writes a file of its own."""


def pae(payload: bytes) -> bytes:
    """The pre-authentication encoding of a payload: the bytes that are signed."""
    return b"DSSEv1 %d %b %d %b" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def sealed(payload: bytes, key: PrivateKey, keyid: str) -> Json:
    """The envelope of a payload, signed."""
    signed = {"keyid": keyid, "sig": b64encode(signature(key, pae(payload))).decode()}
    return {"payload": b64encode(payload).decode(), "payloadType": PAYLOAD_TYPE, "signatures": [signed]}


def opened(envelope: Envelope, key: PublicKey, where: object) -> bytes:
    """The payload of an envelope that the owner of `key` signed; else `Differs`."""
    payload = _bytes(envelope.payload, f"{where}: payload")
    if not is_signed(key, pae(payload), _bytes(envelope.signatures[0].sig, f"{where}: signatures.0.sig")):
        raise Differs(f"{where}: its signature is not one that this key made of these bytes")
    return payload


def _bytes(text: str, where: str) -> bytes:
    """What base64 says; the one way to write it, so that no two files are the same signature."""
    try:
        content = b64decode(text, validate=True)
    except ValueError as error:
        raise EverystepError(f"{where}: not base64: {error}") from error
    if b64encode(content).decode() != text:
        raise EverystepError(f"{where}: not base64 as RFC 4648 writes it")
    return content
