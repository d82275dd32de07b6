"""Where the jobs of a sweep run: in this process, or as Ray tasks over the cores and machines that there are.

    sweep -> start(job) -> ...             `slots` at a time
          <- wait()     -> job, Result

With Ray every machine needs bottlenet and Ray, and the data and the sweep's folder under the same paths. A worker that
dies takes no trial along: Ray starts it again, and it goes on from its last checkpoint.
"""

from __future__ import annotations

import importlib
import os
import socket
from dataclasses import dataclass
from typing import Any, Protocol

from rich.progress import Progress

from bottlenet.errors import BottleNetError, InputError, LinkError, MissingExtraError
from bottlenet.lab.grid import Trial
from bottlenet.lab.sweepconfig import SweepConfig
from bottlenet.lab.sweepfolder import Result, SweepFolder

CONNECT_S = 10.0
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # or Ray warns that it will be so
}


@dataclass(frozen=True)
class Job:
    """A trial, or the features that the trials of a cut have in common."""

    config: SweepConfig
    trial: Trial  # of features: any of the cut
    folder: str  # of the sweep
    threads: int
    features: bool  # not the trial

    def run(self, progress: Progress) -> Result | None:
        """None for features. InputError: as `lab.train`."""
        import torch

        from bottlenet.lab.trial import prepare, run_trial

        torch.set_num_threads(self.threads)
        folder = SweepFolder(self.folder)
        if self.features:
            prepare(self.config, self.trial, folder, progress)
            return None
        return run_trial(self.config, self.trial, folder, progress)


class Engine(Protocol):
    """Runs jobs."""

    @property
    def slots(self) -> int:
        """Jobs that can run at a time, 1 or more."""

    def start(self, job: Job) -> None:
        """While fewer than `slots` run."""

    def wait(self) -> tuple[Job, Result | None]:
        """The next that is finished. BottleNetError: what it failed with."""

    def close(self) -> None:
        """What runs ends."""


class Local:
    """In this process, one at a time."""

    slots = 1

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._job: Job | None = None

    def start(self, job: Job) -> None:
        self._job = job

    def wait(self) -> tuple[Job, Result | None]:
        assert self._job is not None
        return self._job, self._job.run(self._progress)

    def close(self) -> None:
        self._job = None


class RayTasks:
    """As tasks of the Ray cluster at `address`; without one, of a cluster of this machine's cores alone.

    MissingExtraError: Ray is not installed. LinkError: no cluster there.
    """

    def __init__(self, address: str | None, threads: int) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            ray: Any = importlib.import_module("ray")
        except ModuleNotFoundError as error:
            raise MissingExtraError("--engine ray", "ray") from error
        self._ray = ray
        check_address(address)
        try:
            # "local": without an address Ray would join any cluster that was ever started here
            ray.init(address=address or "local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            why = " ".join(str(error).split())
            raise LinkError(
                f"no Ray cluster at {address or 'this machine'}: {why:.200}; give another address"
            ) from error
        self._run = ray.remote(num_cpus=threads, max_retries=-1)(run_job)
        self._threads = threads
        self._running: dict[Any, Job] = {}

    @property
    def slots(self) -> int:
        """Machines may join a cluster, so this is asked for anew each time."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)) // self._threads)

    def start(self, job: Job) -> None:
        self._running[self._run.remote(job)] = job

    def wait(self) -> tuple[Job, Result | None]:
        (done, *_), _ = self._ray.wait(list(self._running), num_returns=1)
        job = self._running.pop(done)
        try:
            result: Result | None = self._ray.get(done)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, BottleNetError):
                raise error.cause from error
            raise
        return job, result

    def close(self) -> None:
        self._ray.shutdown()


def check_address(address: str | None) -> None:
    """LinkError: nobody answers at HOST:PORT. Ray itself would try for an hour."""
    host, _, port = (address or "").rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        return  # such as "auto"
    try:
        with socket.create_connection((host, int(port)), CONNECT_S):
            pass
    except (OSError, OverflowError) as error:
        raise LinkError(f"no Ray cluster at {address}: {error}; start one, or give another address") from error


def run_job(job: Job) -> Result | None:
    """In a worker of Ray."""
    with Progress(disable=True) as progress:
        return job.run(progress)


def open_engine(name: str, progress: Progress, *, address: str | None = None, threads: int = 1) -> Engine:
    """InputError: an unknown name, or an address for a local engine. Errors as for `RayTasks`."""
    if name == "local":
        if address is not None:
            raise InputError(f"--address {address!a:.80} is for --engine ray; leave it out, or give both")
        return Local(progress)
    if name == "ray":
        return RayTasks(address, threads)
    raise InputError(f"engine {name!a:.40}: one of local, ray is possible")
