"""Starts one command several times, as processes that train together on this machine.

`accelerate launch` does the same for several machines and has more settings; both leave the same words in the
environment: RANK, WORLD_SIZE, MASTER_ADDR.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import IO

POLL_S = 0.2
GRACE_S = 5.0  # for process 0 to fail as another did
STOP_S = 30.0  # for a process to end after it was asked to
LONGEST_ERROR = 64 * 2**10  # bytes shown of what a process wrote to stderr


def launch(processes: int, command: Sequence[str]) -> int:
    """Runs `command` as so many processes; the exit code of the first that failed, or 0. The others are ended then.

    Standard output and error are those of process 0. Where another failed first, what it wrote to stderr is shown, not
    if process 0 ends in the same way: then that has said the same.
    """
    port = free_port()
    team: list[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as files:
        files.callback(lambda: stop(team))
        errors = [files.enter_context(tempfile.TemporaryFile()) for _ in range(processes - 1)]
        for number in range(processes):
            quiet = number > 0
            team.append(
                subprocess.Popen(
                    command,
                    env=environment(number, processes, port),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL if quiet else None,
                    stderr=errors[number - 1] if quiet else None,
                )
            )
        number, code = first_failure(team)
        if number > 0 and ended(team[0], GRACE_S) != code:
            show_end(errors[number - 1])
        return code


def environment(number: int, processes: int, port: int) -> dict[str, str]:
    """What torch.distributed and accelerate look for."""
    told = {
        "RANK": number,
        "LOCAL_RANK": number,
        "WORLD_SIZE": processes,
        "LOCAL_WORLD_SIZE": processes,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    # Each taking all cores would be slower than each taking its share.
    threads = max(1, (os.cpu_count() or 1) // processes)
    return {"OMP_NUM_THREADS": f"{threads}", **os.environ, **{name: f"{value}" for name, value in told.items()}}


def free_port() -> int:
    """One that nobody listens on just now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def first_failure(team: Sequence[subprocess.Popen[bytes]]) -> tuple[int, int]:
    """(number, exit code) of the first process that failed, or of process 0 when all have ended well. A death by signal
    counts as 128 and its number, as in a shell.
    """
    while True:
        codes = [process.poll() for process in team]
        for number, code in enumerate(codes):
            if code:
                return number, code if code > 0 else 128 - code
        if all(code == 0 for code in codes):
            return 0, 0
        time.sleep(POLL_S)


def ended(process: subprocess.Popen[bytes], limit_s: float) -> int | None:
    """Its exit code, or None where it runs on."""
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None


def stop(team: Sequence[subprocess.Popen[bytes]]) -> None:
    """Asks those that still run to end, and kills those that don't."""
    for process in team:
        process.terminate()  # nothing, where it has ended
    until = time.monotonic() + STOP_S
    for process in team:
        if ended(process, max(0.0, until - time.monotonic())) is None:
            process.kill()
            process.wait()


def show_end(file: IO[bytes]) -> None:
    """The end of what a process wrote to stderr."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - LONGEST_ERROR))
    sys.stderr.write(file.read().decode(errors="replace"))
