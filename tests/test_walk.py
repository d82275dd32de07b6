"""The files and functions that one photo goes through, device and server together: what a reader follows.

`python tests/test_walk.py` lists them.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy as np

import bottlenet
from bottlenet.bundle import Bundle, write_bundle
from bottlenet.cloud import create_app
from bottlenet.edge import Edge
from conftest import Server, tiny_files, tiny_manifest

PACKAGE = Path(bottlenet.__file__).parent
MAX_FILES, MAX_FUNCTIONS = 22, 100

Step = tuple[str, str]  # file below bottlenet/, function


@contextmanager
def watched() -> Iterator[Callable[[Callable[[], object]], set[Step]]]:
    """Gives a function that runs another, and returns what is entered meanwhile: in threads that start in here, too."""
    entered: set[Step] = set()
    watching = False

    def look(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if watching and event == "call" and code.co_name[0] != "<" and code.co_filename.startswith(f"{PACKAGE}/"):
            entered.add((code.co_filename[len(f"{PACKAGE}/") :], code.co_name))

    def walk(run: Callable[[], object]) -> set[Step]:
        nonlocal watching
        entered.clear()
        watching = True
        run()
        watching = False
        return set(entered)

    before = sys.getprofile()
    threading.setprofile(look)
    sys.setprofile(look)
    try:
        yield walk
    finally:
        sys.setprofile(before)
        threading.setprofile(before)


def walk_of_one_photo(bundle: Bundle, photo: np.ndarray) -> set[Step]:
    """On a connection that is open, over a real socket."""
    with watched() as walk:
        server = Server(create_app([bundle]))
        try:
            with Edge(bundle, server.url) as edge:
                edge.classify(photo)
                return walk(lambda: edge.classify(photo))
        finally:
            server.stop()


def test_one_photo_goes_through_few_files(bundle: Bundle, photo: np.ndarray) -> None:
    steps = walk_of_one_photo(bundle, photo)
    files = {file for file, _ in steps}
    assert {"edge/client.py", "wire/frame.py", "cloud/batcher.py"} <= files  # it sees both sides
    assert len(files) <= MAX_FILES, sorted(files)
    assert len(steps) <= MAX_FUNCTIONS, sorted(steps)


def test_an_answer_becomes_a_prediction_in_one_function(bundle: Bundle, photo: np.ndarray) -> None:
    steps = {name for file, name in walk_of_one_photo(bundle, photo) if file == "edge/prediction.py"}
    assert steps == {"predict", "read_answer", "choice"}


if __name__ == "__main__":
    made = write_bundle(Path(tempfile.mkdtemp()) / "tiny", tiny_manifest(), tiny_files())
    found = walk_of_one_photo(made, np.zeros((60, 80, 3), np.uint8))
    print("\n".join(f"{file:24} {name}" for file, name in sorted(found)))
    print(f"{len({file for file, _ in found})} files, {len(found)} functions")
