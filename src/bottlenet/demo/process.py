"""The demo's server: a process of its own, as in real life, on a free loopback port.

this process --stdin--> `bottlenet serve`     its end is the sign to stop, so the server never outlives the demo
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
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, Queue
from typing import IO

from bottlenet.errors import LinkError

START_S = 60.0  # a small machine may need long for its first imports
STOP_S = 10.0
MAX_LINE = 4096


@contextlib.contextmanager
def server_process(bundle: Path, start_s: float = START_S) -> Iterator[str]:
    """The URL of a server for `bundle`, which is stopped whatever happens. LinkError: it did not start in time."""
    command = [sys.executable, "-m", "bottlenet.cli", "serve", "--port", "0", "--json", "--stop-with-input"]
    # A file in the current folder must not stand in for a module of ours.
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            [*command, "--", str(bundle.resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            text=True,
        ) as process,
    ):
        try:
            yield listening_url(process, log, start_s)
        finally:
            stop(process)


def listening_url(process: subprocess.Popen[str], log: IO[bytes], start_s: float) -> str:
    """What the server says when it is ready."""
    said: Queue[str] = Queue()
    assert process.stdout is not None
    # A pipe can't be read with a deadline everywhere, so a thread reads it. It ends with the server.
    threading.Thread(target=read_document, args=(process.stdout, said), daemon=True).start()
    try:
        return str(json.loads(said.get(timeout=start_s))["listening"])
    except Empty as error:
        raise LinkError(f"the server did not start within {start_s:g} s; try again on a less busy machine") from error
    except (ValueError, KeyError, TypeError) as error:
        raise LinkError(f"the server did not start: {last_line(log)}") from error


def read_document(stream: IO[str], said: Queue[str]) -> None:
    """One JSON object over several lines, closed by a line with a brace; what was read so far at the end."""
    text = ""
    while line := stream.readline(MAX_LINE):
        text += line
        if line.rstrip() == "}" or len(text) > MAX_LINE:
            break
    said.put(text)


def last_line(log: IO[bytes]) -> str:
    """What the server complained about last."""
    log.seek(max(0, log.seek(0, os.SEEK_END) - MAX_LINE))
    lines = log.read(MAX_LINE).decode(errors="replace").splitlines()
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
