"""Real servers, each a process of its own on a free loopback port, which ends with the block.

this process --stdin--> server      its end is the sign to stop, so that none is left behind
<--stdout-- {"listening": "ws://127.0.0.1:PORT"}
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import Empty, Queue
from typing import IO

from bottlenet.errors import LinkError

START_S = 120.0  # a small machine may need long for its first imports
STOP_S = 10.0
MAX_CHARACTERS = 4096
MAX_INPUT_BYTES = 2**22  # of a network's input as a picture file


@contextlib.contextmanager
def split_server(bundles: Sequence[Path], start_s: float = START_S, *, threads: int = 1) -> Iterator[int]:
    """The port of `bottlenet serve` for bundles in these folders. LinkError: it did not start in time."""
    folders = [str(bundle.resolve()) for bundle in bundles]
    options = ["--port", "0", "--json", "--stop-with-input", "--max-payload-bytes", str(MAX_INPUT_BYTES)]
    command = ["bottlenet.cli", "serve", *options, "--threads", str(threads), "--", *folders]
    with running(command, start_s) as port:
        yield port


@contextlib.contextmanager
def busy_server(bundles: Sequence[Path], start_s: float = START_S) -> Iterator[tuple[int, Callable[[int], None]]]:
    """The port of `lab.busy_server`, and what to call with the number of other devices. Errors as above."""
    folders = [str(bundle.resolve()) for bundle in bundles]
    with started(["bottlenet.lab.busy_server", *folders], start_s) as (port, process):

        def change(others: int) -> None:
            assert process.stdin is not None
            process.stdin.write(f"{others}\n")
            process.stdin.flush()

        yield port, change


@contextlib.contextmanager
def running(module: Sequence[str], start_s: float = START_S) -> Iterator[int]:
    """The port of `python -m` this. LinkError: it did not start in time, or ended with an error."""
    with started(module, start_s) as (port, _):
        yield port


@contextlib.contextmanager
def started(module: Sequence[str], start_s: float) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """The same, with the process."""
    # A file in the current folder must not stand in for a module of ours.
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            [sys.executable, "-m", *module], stdin=pipe, stdout=pipe, stderr=log, env=environment, text=True
        ) as process,
    ):
        try:
            yield listening_port(process, log, start_s), process
        finally:
            stop(process)


def listening_port(process: subprocess.Popen[str], log: IO[bytes], start_s: float) -> int:
    """What the server says when it is ready."""
    said: Queue[str] = Queue()
    assert process.stdout is not None
    # A pipe can't be read with a deadline everywhere, so a thread reads it. It ends with the server.
    threading.Thread(target=read_document, args=(process.stdout, said), daemon=True).start()
    try:
        return int(json.loads(said.get(timeout=start_s))["listening"].rpartition(":")[2])
    except Empty as error:
        raise LinkError(f"the server did not start within {start_s:g} s; try again on a less busy machine") from error
    except (ValueError, KeyError, TypeError) as error:
        raise LinkError(f"the server did not start: {last_line(log)}") from error


def read_document(stream: IO[str], said: Queue[str]) -> None:
    """One JSON object, closed by a line with a brace; what was read so far at the end."""
    text = ""
    while line := stream.readline(MAX_CHARACTERS):
        text += line
        if line.rstrip() == "}" or len(text) > MAX_CHARACTERS:
            break
    said.put(text)


def last_line(log: IO[bytes]) -> str:
    """What the server complained about last."""
    log.seek(max(0, log.seek(0, os.SEEK_END) - MAX_CHARACTERS))
    lines = log.read(MAX_CHARACTERS).decode(errors="replace").splitlines()
    return lines[-1].removeprefix("error: ") if lines else "it ended without a word"


def stop(process: subprocess.Popen[str]) -> None:
    """End of its input first, then more clearly."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    for more in (process.terminate, process.kill):
        try:
            process.wait(STOP_S)
            return
        except subprocess.TimeoutExpired:
            more()
    process.wait(STOP_S)
