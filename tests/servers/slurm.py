"""A real Slurm of two nodes on loopback, run by whoever runs the tests. Needs munged, slurmctld, slurmd and sbatch."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from getpass import getuser
from pathlib import Path

from tests.parts import until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")
NODES = ("n1", "n2")
CONFIGURATION = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=n1 NodeAddr=127.0.0.1 NodeHostname={host} Port={ports[1]} CPUs=1 RealMemory=8000
NodeName=n2 NodeAddr=127.0.0.1 NodeHostname={host} Port={ports[2]} CPUs=1 RealMemory=8000
PartitionName=all Nodes=n1,n2 Default=YES State=UP
"""


def is_installed() -> bool:
    return all(shutil.which(program, path=_path()) for program in PROGRAMS)


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """A cluster whose files are in `folder` (a short path: it holds a socket); yields what its users' environment
    needs. The partition is `all`."""
    configuration = folder / "slurm.conf"
    ports = [_free_port() for _ in range(3)]
    configuration.write_text(
        CONFIGURATION.format(folder=folder, host=socket.gethostname().split(".")[0], ports=ports, user=getuser())
    )
    environment = {"SLURM_CONF": str(configuration), "PATH": _path()}
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o600)
    munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    commands = [
        ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munge],
        ["slurmctld", "-D"],
        *(["slurmd", "-D", "-N", node] for node in NODES),
    ]
    servers = []
    try:
        for command in commands:
            servers.append(_start(command, environment))
            if command[0] == "munged":
                until((folder / "munge.socket").exists)
        until(lambda: _idle(environment) == len(NODES))
        yield environment
    finally:
        for server in reversed(servers):
            server.terminate()
            server.wait()


def _start(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    silent = subprocess.DEVNULL
    return subprocess.Popen(command, env=os.environ | environment, stdout=silent, stderr=silent)


def _idle(environment: dict[str, str]) -> int:
    command = ["sinfo", "--noheader", "--Node", "--states=idle", "--format=%N"]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    return len(done.stdout.split())


def _path() -> str:
    """Debian keeps servers where not every user looks."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin", "/sbin"])


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
