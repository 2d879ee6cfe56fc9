"""What it takes to get one checkpoint from each kind of store, beside the clients that people have.

python -m bench.pulls PROJECT [MODEL STEP]: PROJECT is built, its release at PROJECT/release. Prints a JSON line a way,
with wall and CPU seconds of the whole command (its start included), requests and bytes that the server sent. All
servers are on this machine: a web server, S3 by moto, the tests' hub, and a DVC remote in a folder. Each command starts
with an empty cache.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.base.paths import CACHE
from pipeline.publish.hub import publish_to_hub
from pipeline.publish.upload import publish
from pipeline.release.release import Release
from pipeline.stores.address import open_store
from tests.servers import stores
from tests.servers.faults import Counted
from tests.servers.hub import OWNER, TOKEN, environment, running_hub
from tests.servers.web import serve_folder

Counts = Callable[[], Mapping[str, int]]


def main(project: str, model: str = "mobilellm", step: str = "64") -> None:
    release = Release.open(Path(project) / "release")
    revision = release.states(model)[int(step)].revision
    ours = [sys.executable, "-m", "pipeline.cli", "pull", "ADDRESS", "--model", model, "--step", step, "--out", "OUT"]
    timed("folder", ours, str(release.folder))
    with serve_folder(release.folder) as web:
        timed("web server", ours, web.url, counted=lambda: of(web.counted))
    with tempfile.TemporaryDirectory() as home, running_hub() as hub:
        os.environ.update(environment(hub.url, home, TOKEN))
        publish_to_hub(release, f"hf://{OWNER}/demo")
        timed("hub", ours, f"hf://datasets/{OWNER}/demo", counted=lambda: of(hub.counted), clear=hub.counted.clear)
        for way, code in (
            ("snapshot_download, model repository", f"'{OWNER}/demo-{model}', revision='{revision}'"),
            (
                "snapshot_download, the same files of the data set",
                f"'{OWNER}/demo', repo_type='dataset', allow_patterns='runs/{model}/{revision}/*'",
            ),
        ):
            theirs = f"import huggingface_hub as h; h.snapshot_download({code}, local_dir='OUT')"
            timed(way, [sys.executable, "-c", theirs], counted=lambda: of(hub.counted), clear=hub.counted.clear)
    with stores.s3() as s3:
        os.environ |= {
            "AWS_ENDPOINT_URL": s3.address,
            "AWS_ACCESS_KEY_ID": stores.KEY["aws_access_key_id"],
            "AWS_SECRET_ACCESS_KEY": stores.KEY["aws_secret_access_key"],
        }
        publish(release, open_store(f"s3://{stores.BUCKET}/demo"))
        timed("s3", ours, f"s3://{stores.BUCKET}/demo")
    timed("dvc repository", ours, f"dvc:{project}")
    dvc = str(Path(sys.executable).with_name("dvc"))
    timed("dvc get", [dvc, "get", project, f"runs/{model}/{revision}", "--out", "OUT"])


def of(counted: Counted) -> Mapping[str, int]:
    """Requests, and bytes that were sent."""
    return {"requests": len(counted.of()), "bytes": counted.sent()}


def timed(
    way: str,
    command: list[str],
    address: str = "",
    counted: Counts = lambda: {},
    clear: Callable[[], None] = lambda: None,
) -> None:
    clear()
    with tempfile.TemporaryDirectory() as scratch:
        words = [word.replace("ADDRESS", address).replace("OUT", f"{scratch}/out") for word in command]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        subprocess.run(words, env=os.environ | {CACHE: f"{scratch}/cache"}, check=True, capture_output=True)
        wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"way": way, "seconds": round(wall, 2), "cpu_seconds": round(cpu, 2), **counted()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
