"""Object stores on this machine, over real HTTP: S3 by moto, Google Cloud Storage by gcp-storage-emulator."""

import contextlib
import io
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import boto3
from gcp_storage_emulator.server import create_server
from moto.server import ThreadedMotoServer

KEY = {"aws_access_key_id": "a-key", "aws_secret_access_key": "a-secret", "region_name": "us-east-1"}
BUCKET = "corpora"


@dataclass(frozen=True)
class Store:
    """`address`: where it listens. `put`: store an object that anybody may read."""

    scheme: str
    address: str
    put: Callable[[str, bytes], None]
    hide: Callable[[str], None] | None = None
    """Let only holders of credentials read an object; the fake of Google's store knows no credentials."""


@contextmanager
def s3() -> Iterator[Store]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    urllib.request.urlopen(urllib.request.Request(f"{address}/moto-api/reset", method="POST")).close()
    client = boto3.client("s3", endpoint_url=address, **KEY)
    client.create_bucket(Bucket=BUCKET)

    def put(name: str, content: bytes) -> None:
        client.put_object(Bucket=BUCKET, Key=name, Body=content, ACL="public-read")

    def hide(name: str) -> None:
        client.put_object_acl(Bucket=BUCKET, Key=name, ACL="private")

    try:
        yield Store("s3", address, put, hide)
    finally:
        server.stop()


@contextmanager
def gs() -> Iterator[Store]:
    with contextlib.redirect_stderr(io.StringIO()):  # its server writes a line for each request
        server = create_server("127.0.0.1", 0, in_memory=True, default_bucket=BUCKET)
        server.start()
    address = f"http://127.0.0.1:{server._api._httpd.server_address[1]}"

    def put(name: str, content: bytes) -> None:
        place = f"{address}/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={name}"
        urllib.request.urlopen(urllib.request.Request(place, data=content, method="POST")).close()

    try:
        yield Store("gs", address, put)
    finally:
        server.stop()
