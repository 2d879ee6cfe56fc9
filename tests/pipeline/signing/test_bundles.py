"""Bundles of OpenSSF Model Signing: the published vectors, and those that a dishonest signer would make.

The vectors and the schemas are the OpenSSF's (`openssf/README.md`); it publishes five that are wrong. The others that
are wrong here are ours, one for each rule of the specification.
"""

import json
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import referencing

from pipeline.base.errors import EverystepError
from pipeline.formats.canonical import canonical
from pipeline.signing.bundles import Statement, method_of, parse_bundle, signed_bundle, signed_files
from pipeline.signing.envelopes import opened, sealed
from pipeline.signing.keys import PrivateKey, read_public

OPENSSF = Path(__file__).parent / "openssf"
VECTORS = OPENSSF / "vectors"
NOT_OURS = ["certificate", "sigstore"]
FILES = {"a/b.json": "1" * 64, "a.json": "2" * 64, "c": "3" * 64}
Tree = dict[str, Any]


def schema(name: str) -> Any:
    trees = [json.loads(path.read_text()) for path in sorted((OPENSSF / "schemas").glob("*.json"))]
    pairs = [(tree["$id"], referencing.Resource.from_contents(tree)) for tree in trees]
    registry: Any = referencing.Registry().with_resources(pairs)
    return jsonschema.Draft202012Validator({"$ref": f"https://model_signing/{name}/v1.0/schema"}, registry=registry)


def statement_of(bundle: bytes, key: PrivateKey) -> Tree:
    found: Tree = json.loads(opened(parse_bundle(bundle, "b").envelope, key.public_key(), "b"))
    return found


def bundle_of(statement: Any, key: PrivateKey) -> bytes:
    """A bundle of any statement, rightly signed."""
    tree = json.loads(signed_bundle("x", {"x": "0" * 64}, key))
    tree["dsseEnvelope"] = sealed(json.dumps(statement).encode(), key, "")
    return json.dumps(tree).encode()


def read(bundle: bytes, key: PrivateKey) -> dict[str, str]:
    return signed_files(parse_bundle(bundle, "b"), key.public_key(), "b")


def test_the_published_bundle_of_a_key_is_verified_with_its_key() -> None:
    bundle = parse_bundle((VECTORS / "valid" / "key.bundle.json").read_bytes(), "key.bundle.json")
    files = signed_files(bundle, read_public(VECTORS / "key.public.pem"), "key.bundle.json")
    assert {name: digest[:8] for name, digest in files.items()} == {"signme-1": "bc9a717d", "signme-2": "32dcb1f8"}


def test_the_published_bundle_is_not_verified_with_another_key(key: PrivateKey) -> None:
    with pytest.raises(EverystepError, match=r"publicKey\.hint: names the key 'e8450dec"):
        read((VECTORS / "valid" / "key.bundle.json").read_bytes(), key)


@pytest.mark.parametrize("method", NOT_OURS)
def test_published_bundles_of_the_other_methods_are_read_and_not_taken_for_checked(
    method: str, key: PrivateKey
) -> None:
    bundle = parse_bundle((VECTORS / "valid" / f"{method}.bundle.json").read_bytes(), "b")
    assert method_of(bundle, "b") == method
    with pytest.raises(EverystepError, match="checks the method 'key' only"):
        signed_files(bundle, key.public_key(), "b")


@pytest.mark.parametrize("path", sorted((VECTORS / "invalid").iterdir()), ids=lambda path: path.name)
def test_every_published_bundle_that_is_wrong_is_refused(path: Path) -> None:
    with pytest.raises(EverystepError, match=path.name):
        parse_bundle(path.read_bytes(), path.name)


def test_the_published_statement_that_is_wrong_is_refused_even_if_it_is_rightly_signed(key: PrivateKey) -> None:
    tree = json.loads((VECTORS / "invalid-payload" / "wrong-predicate.bundle.json").read_bytes())
    statement = json.loads(b64decode(tree["dsseEnvelope"]["payload"]))
    with pytest.raises(EverystepError, match="predicateType"):
        read(bundle_of(statement, key), key)


def test_our_bundle_has_the_form_of_the_published_schemas(key: PrivateKey) -> None:
    bundle = signed_bundle("demo", FILES, key)
    schema("bundle").validate(json.loads(bundle))
    schema("statement").validate(statement_of(bundle, key))
    with pytest.raises(jsonschema.ValidationError):
        schema("bundle").validate({})


def test_our_bundle_is_a_function_of_files_name_and_key(key: PrivateKey, other: PrivateKey) -> None:
    bundle = signed_bundle("demo", FILES, key)
    assert bundle == signed_bundle("demo", dict(reversed(FILES.items())), key)
    assert len({bundle, signed_bundle("demo", FILES, other), signed_bundle("other", FILES, key)}) == 3
    assert read(bundle, key) == FILES
    assert [one["name"] for one in statement_of(bundle, key)["predicate"]["resources"]] == ["a.json", "a/b.json", "c"]


def test_a_file_that_every_tool_leaves_out_cannot_be_signed(key: PrivateKey) -> None:
    for path in (".github/x", ".gitignore", "signatures/x"):
        with pytest.raises(EverystepError, match="hides"):
            signed_bundle("demo", FILES | {path: "4" * 64}, key)


def put(path: str, value: Any) -> Callable[[Tree], None]:
    """A change of one value; `...` takes it away."""
    *above, last = path.split("/")

    def change(tree: Any) -> None:
        for part in above:
            tree = tree[int(part) if part.isdigit() else part]
        if value is ...:
            del tree[last]
        else:
            tree[int(last) if last.isdigit() else last] = value

    return change


HOW, FIRST = "predicate/serialization", "predicate/resources/0"
WRONG_STATEMENTS = {
    "another type of statement": (put("_type", "https://in-toto.io/Statement/v0.1"), "_type"),
    "the digests of 2023": (put("predicateType", "https://model_signing/Digests/v0.1"), "predicateType"),
    "no predicate": (put("predicate", ...), "predicate: missing"),
    "no files": (put("predicate/resources", []), "resources"),
    "two subjects": (put("subject", [{"name": "a", "digest": {"sha256": "0"}}] * 2), "subject"),
    "a subject with another digest": (put("subject/0/digest", {"sha256": "0" * 64}), "not that of the resources"),
    "a subject without SHA-256": (put("subject/0/digest", {"sha512": "0" * 64}), "not that of the resources"),
    "a name twice": (put(f"{FIRST}/name", "c"), "'c' is listed twice"),
    "a path that escapes": (put(f"{FIRST}/name", "../../etc/passwd"), "plain relative path"),
    "an absolute path": (put(f"{FIRST}/name", "/etc/passwd"), "plain relative path"),
    "a path that is not canonical": (put(f"{FIRST}/name", "a//b.json"), "plain relative path"),
    "a path with a dot": (put(f"{FIRST}/name", "./a.json"), "plain relative path"),
    "an empty name": (put(f"{FIRST}/name", ""), "name"),
    "a name with a line break": (put(f"{FIRST}/name", "a\nb"), "plain relative path"),
    "another hash of one file": (put(f"{FIRST}/algorithm", "blake3"), "has no SHA-256"),
    "a hash that nobody lists": (put(f"{FIRST}/algorithm", "md5"), "algorithm"),
    "a short digest": (put(f"{FIRST}/digest", "22"), "has no SHA-256"),
    "a digest in capitals": (put(f"{FIRST}/digest", "A" * 64), "digest"),
    "shards": (put(f"{HOW}/method", "shards"), "lists shards by sha256"),
    "files with a size of shards": (put(f"{HOW}/shard_size", 1), "serialization"),
    "another hash": (put(f"{HOW}/hash_type", "blake2b"), "lists files by blake2b"),
    "links as text": (put(f"{HOW}/allow_symlinks", "false"), "allow_symlinks"),
    "an unknown key": (put(f"{HOW}/follow", True), "follow: unknown key"),
    "an ignored file": (put(f"{HOW}/ignore_paths", ["c"]), "'c' hides 'c'"),
    "an ignored folder": (put(f"{HOW}/ignore_paths", ["a"]), "'a' hides 'a/b.json'"),
    "everything ignored": (put(f"{HOW}/ignore_paths", ["."]), "plain relative path"),
    "a pattern": (put(f"{HOW}/ignore_paths", ["*.json"]), "is a pattern"),
    "an ignored path that escapes": (put(f"{HOW}/ignore_paths", ["../x"]), "plain relative path"),
}


@pytest.mark.parametrize("name", WRONG_STATEMENTS)
def test_a_wrong_statement_is_refused_though_it_is_rightly_signed(name: str, key: PrivateKey) -> None:
    change, said = WRONG_STATEMENTS[name]
    statement = statement_of(signed_bundle("demo", FILES, key), key)
    change(statement)
    with pytest.raises(EverystepError, match=r"\Ab: ") as caught:
        read(bundle_of(statement, key), key)
    assert said in str(caught.value)


SIG = "dsseEnvelope/signatures/0"
CHAIN = {"certificates": [{"rawBytes": "MIIB"}]}
WRONG_BUNDLES = {
    "another form": (put("mediaType", "application/json"), "mediaType"),
    "a form of the future": (put("mediaType", "application/vnd.dev.sigstore.bundle.v9+json"), "mediaType"),
    "a key and certificates": (put("verificationMaterial/x509CertificateChain", CHAIN), "names neither"),
    "no key": (put("verificationMaterial/publicKey", ...), "names neither"),
    "an empty key": (put("verificationMaterial/publicKey", {}), "names neither"),
    "certificates in place of the key": (put("verificationMaterial", {"x509CertificateChain": CHAIN}), "'certificate'"),
    "another key": (put("verificationMaterial/publicKey/hint", "0" * 64), "publicKey.hint"),
    "a hint that is no text": (put("verificationMaterial/publicKey", {"hint": 7, "rawBytes": ""}), "publicKey.hint"),
    "no signature": (put("dsseEnvelope/signatures", []), "signatures"),
    "two signatures": (put("dsseEnvelope/signatures", [{"sig": "AA=="}] * 2), "signatures"),
    "an empty signature": (put(f"{SIG}/sig", ""), "sig"),
    "a signature of nothing": (put(f"{SIG}/sig", "AA=="), "not one that this key made"),
    "r and s of zero": (put(f"{SIG}/sig", "MAYCAQACAQA="), "not one that this key made"),
    "no base64": (put(f"{SIG}/sig", "!!!!"), "not base64"),
    "base64 with bits to spare": (put(f"{SIG}/sig", "AB=="), "not base64 as RFC 4648"),
    "base64 with line breaks": (put("dsseEnvelope/payload", "e30\n="), "not base64"),
    "another type of payload": (put("dsseEnvelope/payloadType", "application/json"), "payloadType"),
    "an unknown key": (put("dsseEnvelope/alg", "none"), "alg: unknown key"),
    "a key of a JSON web token": (put(f"{SIG}/alg", "none"), "alg: unknown key"),
    "another payload": (put("dsseEnvelope/payload", "e30="), "not one that this key made"),
}


@pytest.mark.parametrize("name", WRONG_BUNDLES)
def test_a_wrong_bundle_is_refused(name: str, key: PrivateKey) -> None:
    change, said = WRONG_BUNDLES[name]
    tree = json.loads(signed_bundle("demo", FILES, key))
    change(tree)
    with pytest.raises(EverystepError, match=r"\Ab: ") as caught:
        read(json.dumps(tree).encode(), key)
    assert said in str(caught.value)


def test_bundles_of_older_and_other_programs_are_read(key: PrivateKey) -> None:
    """What section 11 of the specification asks of a reader."""
    for change in (
        put("verificationMaterial/publicKey", {"rawBytes": "AAAA", "keyDetails": "PKIX_ECDSA_P256_SHA_256"}),
        put("verificationMaterial/tlogEntries", ...),
        put(f"{SIG}/keyid", ...),
        put(f"{SIG}/keyid", None),
        put("mediaType", "application/vnd.dev.sigstore.bundle+json;version=0.3"),
    ):
        tree = json.loads(signed_bundle("demo", FILES, key))
        change(tree)
        assert read(json.dumps(tree).encode(), key) == FILES
    statement = statement_of(signed_bundle("demo", FILES, key), key)
    put(f"{HOW}/ignore_paths", ...)(statement)
    put(f"{FIRST}/annotations", {"x": 1})(statement)
    put("subject/0/name", "model")(statement)
    assert read(bundle_of(statement, key), key) == FILES


def test_json_that_readers_understand_differently_is_refused(key: PrivateKey) -> None:
    bundle = signed_bundle("demo", FILES, key)
    twice = bundle.replace(b'"mediaType":', b'"mediaType": "x", "mediaType":', 1)
    deep = b"[" * 100_000
    for content, said in ((twice, "appears twice"), (deep, "not valid JSON"), (b"\xef\xbb\xbf" + bundle, "not valid")):
        with pytest.raises(EverystepError, match=said):
            parse_bundle(content, "b")
    statement = canonical(statement_of(bundle, key)).replace(b'"name":"c"', b'"name":"c","name":"c"')
    tree = json.loads(bundle) | {"dsseEnvelope": sealed(statement, key, "")}
    with pytest.raises(EverystepError, match="payload: not valid JSON: key 'name' appears twice"):
        read(json.dumps(tree).encode(), key)


def test_the_statement_of_our_bundle_is_typed_as_it_is_written(key: PrivateKey) -> None:
    tree = statement_of(signed_bundle("demo", FILES, key), key)
    assert Statement.from_json(tree, "s").to_json() == tree
