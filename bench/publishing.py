"""What a publication costs: commits, requests and seconds for many checkpoints on the Hub, and how fast bytes verify.

python -m bench.publishing RELEASE [CHECKPOINTS]: publishes so many checkpoints of the size of the release's first model
to the tests' hub on this machine, then verifies RELEASE and digests its bytes by hashlib alone. Prints JSON lines.
"""

import hashlib
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from pipeline.audit.verify import verify
from pipeline.formats import checkpoints as ck
from pipeline.publish.hub import _Hub, _Repository
from pipeline.release.release import Release
from tests.servers.hub import OWNER, TOKEN, environment, running_hub


def main(folder: str, checkpoints: str = "154") -> None:
    release = Release.open(folder)
    with tempfile.TemporaryDirectory() as home, running_hub() as hub:
        os.environ.update(environment(hub.url, home, TOKEN))
        state = list(release.states(release.models()[0]).values())[-1]
        names = (ck.WEIGHTS, ck.OPTIMIZER, ck.CONFIG, ck.RECORD)
        files = {name: Path(home) / name for name in names}
        for name in names:
            files[name].write_bytes(state.file(name).read_bytes())
        began, before = time.monotonic(), cpu()
        client = _Hub(f"hf://{OWNER}/demo")
        repository = _Repository(client, f"{OWNER}/demo", "model")
        repository.create()
        for number in range(int(checkpoints)):
            change(files[ck.WEIGHTS], number)
            change(files[ck.OPTIMIZER], number)
            repository.checkpoint(f"step{number:06d}", files, {})
        said = {
            "checkpoints": int(checkpoints),
            "bytes_each": sum(file.stat().st_size for file in files.values()),
            "seconds": round(time.monotonic() - began, 1),
            "cpu_seconds_with_the_hub": round(cpu() - before, 1),
            "commits": client.commits,
            "requests": len(hub.counted.of()),
            "by_kind": hub.counted.by_kind(),
        }
        print(json.dumps(said), flush=True)
    total = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    for _ in range(3):
        before, began = cpu(), time.monotonic()
        report = verify(folder)
        spent, wall = cpu() - before, time.monotonic() - began
        before = cpu()
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file():
                with file.open("rb") as opened:
                    hashlib.file_digest(opened, "sha256")
        floor = cpu() - before
        said = {
            "exit_code": report.exit_code,
            "bytes": total,
            "seconds": round(wall, 2),
            "cpu_seconds": round(spent, 2),
            "gb_per_cpu_second": round(total / spent / 1e9, 2),
            "hashlib_gb_per_cpu_second": round(total / floor / 1e9, 2),
        }
        print(json.dumps(said), flush=True)


def change(file: Path, number: int) -> None:
    """Give a file bytes of its own, as each checkpoint has."""
    with file.open("r+b") as opened:
        opened.seek(-4096, os.SEEK_END)
        opened.write(np.random.default_rng(number).bytes(4096))


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main(*sys.argv[1:])
