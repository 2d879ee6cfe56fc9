"""Run parts of a stage on Ray or Slurm, by datatrove's executors.

Every machine sees the project's folder under the same path, and has the same libraries. Rank r of datatrove does
part r, and writes the result to the folder of the call (`pipeline.executor.calls`).
"""

import logging
import os
import re
import reprlib
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from datatrove.executor.base import PipelineExecutor
from datatrove.executor.ray import RayPipelineExecutor
from datatrove.executor.slurm import SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from pipeline.base.console import note
from pipeline.base.errors import EverystepError, how_to_install
from pipeline.base.paths import PARAMS
from pipeline.executor.calls import TRIES, Call, do_part
from pipeline.executor.settings import ExecutorParams, RayParams

ADDRESS = "RAY_ADDRESS"
SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_BETWEEN_QUESTIONS = 2.0  # to Slurm's controller
SECONDS_UNTIL_SEEN = 60.0  # NFS may show the file of another machine this late
SECONDS_TO_ANSWER = 10.0
PLAIN_PATH = re.compile(r"[A-Za-z0-9_./+@=-]+")
ENDED = {
    *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "BOOT_FAIL", "DEADLINE", "REVOKED"),
}


def on_cluster(settings: ExecutorParams, function: Callable[[Any], Any], parts: Sequence[Any]) -> Iterator[Any]:
    """Compute `map(function, parts)` with the executor that the settings name."""
    logger.remove()  # datatrove logs to the folder of the call
    call = Call(function, parts)
    executor: Ranks = RayRanks(settings.ray, call) if settings.name == "ray" else SlurmRanks(settings, call)
    launches = Counter(range(call.num))
    try:
        executor.launch()
        for number in range(call.num):
            while not call.is_done(number):
                time.sleep(SECONDS_BETWEEN_LOOKS)
                lost = executor.lost()
                launches.update(lost)
                for other in lost:
                    if launches[other] > TRIES:
                        raise EverystepError(
                            f"part {other + 1} of {call.num} ({reprlib.repr(parts[other])}): its worker died {TRIES} "
                            f"times; if memory ran out, ask for more in {PARAMS}: executor; "
                            f"{executor.diagnosis(other)}"
                        )
                if lost:
                    executor.launch()
            yield call.take(number).result()
    except BaseException:
        executor.stop()  # the folder stays, for its logs, until the stage runs again
        raise
    executor.settle()
    shutil.rmtree(call.folder, ignore_errors=True)


def clear(folders: list[Path]) -> None:
    """Remove calls that were left over, after their jobs in Slurm have ended."""
    for folder in folders:
        if (_trove(folder) / "launch_script.slurm").exists():
            _cancel(folder)
            while _are_alive(_jobs(folder)):
                note(f"waiting for jobs of an earlier run to end: {_jobs(folder)[0]}")
                time.sleep(SECONDS_BETWEEN_QUESTIONS)
        shutil.rmtree(folder, ignore_errors=True)


class Ranks(Protocol):
    """Executor of datatrove that is started and watched."""

    def launch(self) -> None:
        """Start every part that is neither done nor running."""

    def lost(self) -> list[int]:
        """List parts that were started since then, and are neither done nor running."""

    def diagnosis(self, number: int) -> str:
        """Say why a part was lost, or where to find out."""

    def settle(self) -> None:
        """Wait until nothing of a call whose results were all taken is running: a worker still writes logs into the
        folder of the call after its result is visible. What takes long is ended."""

    def stop(self) -> None:
        """End what is running."""


class PartOfStage(PipelineStep):  # type: ignore[misc]  # datatrove has no types
    """Only step of the pipeline: rank r does part r of a call. It yields no documents."""

    type, name = "everystep", "part of a stage"

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.project, self.folder = Path.cwd(), call.folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        os.chdir(self.project)
        do_part(self.folder, rank)
        return iter(())


class RayRanks:
    """Ray executor of datatrove, with a Ray task for each rank.

    Its own `run` puts a `multiprocessing.Pool` into an actor. If the process of that pool is killed, the rank waits
    forever (docs/decisions.md). Here the process that works is the one that Ray watches.
    """

    def __init__(self, settings: RayParams, call: Call) -> None:
        _connect(settings)
        self._call = call
        self._under_way: dict[int, Any] = {}
        self._over_since: dict[int, float] = {}
        self._errors: dict[int, str] = {}
        self._needs = {"num_cpus": settings.cpus, "memory": settings.cpus * settings.memory_gb * 2**30}
        self._trove = RayPipelineExecutor(
            [PartOfStage(call)],
            tasks=call.num,
            logging_dir=str(_trove(call.folder)),
            cpus_per_task=settings.cpus,
            mem_per_cpu_gb=settings.memory_gb,
        )

    def launch(self) -> None:
        import ray

        task: Any = ray.remote(_run_rank).options(
            max_retries=0, **self._needs
        )  # tries are counted here, for both executors alike
        trove = ray.put(self._trove)
        for number in self._call.missing():
            if number not in self._under_way:
                self._under_way[number] = task.remote(trove, number)

    def lost(self) -> list[int]:
        import ray

        tasks = list(self._under_way.values())
        over = set(ray.wait(tasks, num_returns=len(tasks), timeout=0)[0]) if tasks else set()
        ended = [number for number, task in self._under_way.items() if task in over]
        lost = [number for number in ended if not self._call.is_done(number) and self._is_given_up(number)]
        for number in ended:
            if number in lost or self._call.is_done(number):
                del self._under_way[number]
        return lost

    def _is_given_up(self, number: int) -> bool:
        """Tell whether an ended task failed, or its result should be visible by now."""
        import ray

        try:
            ray.get(self._under_way[number])
        except ray.exceptions.RayError as error:
            self._errors[number] = str(error).strip().splitlines()[-1]
            return True
        now = time.monotonic()
        return now - self._over_since.setdefault(number, now) > SECONDS_UNTIL_SEEN

    def diagnosis(self, number: int) -> str:
        return self._errors.get(
            number, f"it succeeded, but {self._call.folder} has no result; check that this folder is shared"
        )

    def settle(self) -> None:
        import ray

        tasks = list(self._under_way.values())
        if tasks and ray.wait(tasks, num_returns=len(tasks), timeout=SECONDS_UNTIL_SEEN)[1]:
            self.stop()
            ray.wait(tasks, num_returns=len(tasks), timeout=SECONDS_UNTIL_SEEN)

    def stop(self) -> None:
        import ray

        for task in self._under_way.values():
            ray.cancel(task, force=True)


def _run_rank(trove: RayPipelineExecutor, rank: int) -> None:
    """Do datatrove's work for one rank, with its log in the shared folder, where it survives a kill."""
    PipelineExecutor._run_for_rank(trove, rank, local_rank=1)


def _connect(settings: RayParams) -> None:
    try:
        import ray
    except ImportError as error:
        raise EverystepError(f"{PARAMS}: executor: Ray is not installed; {how_to_install('ray')}") from error
    if ray.is_initialized():
        return
    address = os.environ.get(ADDRESS) or settings.address
    here = {"env_vars": {"PYTHONPATH": _search_path()}}
    try:
        if parts := re.fullmatch(r"([^/:]+):([0-9]+)", address):
            socket.create_connection(
                (parts[1], int(parts[2])), SECONDS_TO_ANSWER
            ).close()  # Ray itself tries for minutes
        ray.init(address=address, runtime_env=here, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError) as error:
        raise EverystepError(
            f"{PARAMS}: executor.ray.address: no Ray cluster answers at {address}; start one or correct the address"
        ) from error


class SlurmRanks(SlurmPipelineExecutor):  # type: ignore[misc]
    """Slurm executor of datatrove: an array of jobs, watched until it has left the queue."""

    def __init__(self, settings: ExecutorParams, call: Call) -> None:
        if settings.slurm is None:
            raise EverystepError(f"{PARAMS}: executor.slurm: missing; add at least partition and time")
        for path in (Path.cwd(), Path(sys.executable)):
            if not PLAIN_PATH.fullmatch(str(path)):
                raise EverystepError(f"{path}: a job script cannot hold this path; use one of plain characters")
        super().__init__(
            [PartOfStage(call)],
            tasks=call.num,
            time=settings.slurm.time,
            partition=settings.slurm.partition,
            cpus_per_task=settings.slurm.cpus,
            mem_per_cpu_gb=settings.slurm.memory_gb,
            workers=settings.workers or -1,
            qos=settings.slurm.qos,
            env_command=_environment(),
            logging_dir=str(_trove(call.folder)),
        )
        self._call = call
        self._launches = 0
        self._asked = self._gone = 0.0

    def launch(self) -> None:
        self._launches += 1
        self._asked, self._gone = time.monotonic(), 0.0
        self.job_name, self.job_id = _jobs(self._call.folder)[self._launches - 1], None
        try:
            self.launch_job()
        except FileNotFoundError as error:
            raise EverystepError(f"{PARAMS}: executor: slurm: this machine has no `sbatch`") from error
        except subprocess.CalledProcessError as error:
            script = _trove(self._call.folder) / "launch_script.slurm"
            raise EverystepError(f"{script}: sbatch refused it (see above); check {PARAMS}: executor.slurm") from error

    def launch_merge_stats(self) -> None:
        """Launch no further job: nobody reads datatrove's statistics of a stage."""

    def lost(self) -> list[int]:
        """List all missing parts once no job is left: waiting jobs still read the list of ranks of the last launch."""
        now = time.monotonic()
        if now - self._asked < SECONDS_BETWEEN_QUESTIONS:
            return []
        self._asked = now
        states = _states([self.job_name])
        if states is None or states - ENDED:
            return []
        self._gone = self._gone or now
        has_failed = bool(states - {"COMPLETED"})
        return self._call.missing() if has_failed or now - self._gone > SECONDS_UNTIL_SEEN else []

    def diagnosis(self, number: int) -> str:
        return f"its log is in {self.slurm_logs_folder}"

    def settle(self) -> None:
        wait_until = time.monotonic() + SECONDS_UNTIL_SEEN
        _cancel(self._call.folder, only="PENDING")  # copies of parts that are done
        while _are_alive(_jobs(self._call.folder)) and time.monotonic() < wait_until:
            time.sleep(SECONDS_BETWEEN_QUESTIONS)
        self.stop()

    def stop(self) -> None:
        _cancel(self._call.folder)


def _environment() -> str:
    """Make the first shell line of a job: go to the folder where the stage runs, with its interpreter."""
    project, programs = shlex.quote(str(Path.cwd())), shlex.quote(str(Path(sys.executable).parent))
    return f'cd {project} && export PYTHONPATH={shlex.quote(_search_path())} PATH={programs}:"$PATH"'


def _search_path() -> str:
    """Let workers import from the same folders as the stage."""
    return os.pathsep.join(str(Path(folder).absolute()) for folder in sys.path)


def _trove(folder: Path) -> Path:
    return folder / "trove"


def _jobs(folder: Path) -> list[str]:
    """Name the jobs of a call, launch by launch."""
    return [f"everystep-{folder.parent.name}-{folder.name}-{launch + 1}" for launch in range(TRIES)]


def _cancel(folder: Path, only: str | None = None) -> None:
    """Cancel the jobs of a call, or those in one state."""
    which = [] if only is None else [f"--state={only}"]
    for job in _jobs(folder) if shutil.which("scancel") else []:  # without it, no job was submitted from this machine
        subprocess.run(["scancel", f"--name={job}", *which], capture_output=True, check=False)


def _are_alive(jobs: list[str]) -> bool:
    """Tell whether Slurm may still run a job of these names."""
    if not shutil.which("squeue"):
        return False
    states = _states(jobs)
    return states is None or bool(states - ENDED)


def _states(jobs: list[str]) -> set[str] | None:
    """Ask Slurm for the states of all jobs of these names that it still knows; None if it does not answer."""
    command = ["squeue", "--noheader", "--states=all", "--array", "--format=%T", f"--name={','.join(jobs)}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode else set(done.stdout.split())
