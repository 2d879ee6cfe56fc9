"""What it takes to lint 154 revisions of others on the Hub: requests, bytes, seconds.

python -m bench.lint: the shapes of pythia-2.8b (one file of weights) and pythia-12b (three shards) on the tests' hub,
on this machine. Prints a JSON line each: of a call in this process, of one where each answer takes 100 ms, as over a
network, and of the whole command with its start.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time

from pipeline.series.lint import lint
from tests.pipeline.series import published
from tests.servers.hub import OWNER, environment, running_hub

SERIES = {
    "clean": published.clean,
    "pythia#205": published.issue_205,
    "three shards": lambda: published.sharded(published.PYTHIA),
    "pythia#206": published.issue_206,
}
LATENCY_SECONDS = 0.1


def main() -> None:
    with tempfile.TemporaryDirectory() as home, running_hub() as hub:
        os.environ.update(environment(hub.url, home))
        for name, build in SERIES.items():
            repository = f"{OWNER}/{name.replace('#', '-').replace(' ', '-')}"
            hub.put_branches("models", repository, build())
            hub.counted.clear()
            began = time.monotonic()
            found = lint(f"hf://{repository}")
            seconds = time.monotonic() - began
            counted = {"requests": len(hub.counted.of()), "bytes": hub.counted.sent(), "by_kind": hub.counted.by_kind()}
            hub.manners.slow[repository] = [LATENCY_SECONDS] * 1000
            began = time.monotonic()
            lint(f"hf://{repository}")
            waiting = time.monotonic() - began
            hub.manners.slow.clear()
            began = time.monotonic()
            command = [sys.executable, "-m", "pipeline.cli", "lint", f"hf://{repository}"]
            before = cpu_of_children()
            subprocess.run(command, check=False, capture_output=True)
            said = {
                "series": name,
                "revisions": len(list(found.collection.checkpoints())),
                "named": len(found.named),
                "seconds": round(seconds, 2),
                "seconds_waiting": round(waiting, 2),
                "seconds_of_the_command": round(time.monotonic() - began, 2),
                "cpu_seconds_of_the_command": round(cpu_of_children() - before, 2),
            }
            print(json.dumps(said | counted), flush=True)


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
