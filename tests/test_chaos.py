"""Everything goes wrong at once, with real processes: and each photo has its answer in the end, one, the right one.

benchmarks/chaos.py at a fifth of its size, with a server that is quick to start.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from bottlenet.bundle import Bundle, write_bundle
from bottlenet.edge import Encoder, Spool
from bottlenet.edge.prediction import DEVICE, SERVER, Choice, Findings, Photo, answered_now
from bottlenet.wire.answer import Answer, Top
from conftest import SCORES, SYMBOLS, exit_files, exit_manifest, graph_bytes, tail_nodes, tiny_manifest
from test_benchmarks import load, record

PHOTOS, KILLS, DELAY_MS = 200, 3, 30


@pytest.fixture(scope="module")
def bundle(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny one with a tail so gentle that all ten classes are likely: no two photos get the same answer."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "gentle", tiny_manifest(), {**files, **gentle_tail()})


def gentle_tail() -> dict[str, bytes]:
    nodes, constants = tail_nodes()
    tail = graph_bytes(nodes, [SYMBOLS], [SCORES], {"matrix": constants["matrix"] * np.float32(0.05)})
    return {"tail.onnx": tail}


@pytest.fixture(scope="module")
def selective(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """One whose device is sure of half of the photos; its answers differ as the other's do."""
    folder, content = tmp_path_factory.mktemp("bundles"), {**exit_files(), **gentle_tail()}
    with pytest.MonkeyPatch.context() as patch:
        photos = load("chaos", patch).make_album(folder / "album", 40)
    always = write_bundle(folder / "always", exit_manifest(0), content)
    answers = [Encoder(always).work(photo).result for photo in photos]
    bound = np.median([answer.top[0][1] for answer in answers if isinstance(answer, Answer)])
    return write_bundle(folder / "selective", exit_manifest(float(bound)), content)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bundle", "selective"])
def test_chaos(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    bundle = request.getfixturevalue(name)
    options = ("--photos", str(PHOTOS), "--kills", str(KILLS), "--delay-ms", str(DELAY_MS))
    got = record("chaos.py", "--bundle", bundle.path, *options, out=tmp_path / "out")
    happened = got["happened"]
    # All of it happened.
    assert got["kills"] == {"server": KILLS, "device": KILLS}
    assert {"cut", "lost", "twice", "late", "cut upwards"} < set(happened)
    assert min(happened.values()) > 0
    # Each photo was answered once, the last run says so of each, none is wrong, and nothing is left over.
    assert got["stored"] == got["said_answered"] == PHOTOS
    assert got["missing"] == got["duplicates"] == got["wrong"] == got["left_over"] == 0
    assert got["different_answers"] > 0.99 * PHOTOS  # so another photo's answer shows
    assert got["met"]
    assert (0.3 < got["answered_by_the_device"] / PHOTOS < 0.7) == (name == "selective")


RIGHT = {"a.jpg": ((3, 0.5), (1, 0.25)), "b.jpg": ((2, 0.5),)}


@pytest.mark.parametrize(
    ("stored", "counted"),
    [
        ({"a": ("a.jpg", RIGHT["a.jpg"]), "b": ("b.jpg", RIGHT["b.jpg"])}, {}),
        ({"a": ("a.jpg", RIGHT["a.jpg"])}, {"stored": 1, "missing": 1}),
        ({"a": ("a.jpg", RIGHT["b.jpg"]), "b": ("b.jpg", RIGHT["b.jpg"])}, {"wrong": 1}),
        ({"a": ("a.jpg", ((3, 0.5), (1, 0.24))), "b": ("b.jpg", RIGHT["b.jpg"])}, {"wrong": 1}),
        ({"a": ("b.jpg", RIGHT["b.jpg"]), "b": ("b.jpg", RIGHT["b.jpg"])}, {"missing": 1, "duplicates": 1}),
    ],
    ids=["right", "missing", "another's", "other scores", "twice"],
)
@pytest.mark.parametrize("by", [SERVER, DEVICE])
def test_what_is_counted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stored: dict[str, tuple[str, Top]],
    counted: dict[str, int],
    by: str,
) -> None:
    chaos = load("chaos", monkeypatch)
    with Spool(tmp_path / "spool") as spool:
        for number, (photo, top) in enumerate(stored.values()):
            choices = tuple(Choice(str(index), index, score) for index, score in top)
            answer = answered_now(photo, by, Findings(choices), frame_bytes=100, tries=1)
            spool.store(Photo(photo, f"{number:064x}"), answer)
    (tmp_path / "out").write_text("".join(f'{{"photo": "{photo}", "status": "answered"}}\n' for photo in RIGHT))
    right = {photo: (by, top) for photo, top in RIGHT.items()}
    found = chaos.judge(Namespace(folder=tmp_path, spool=tmp_path / "spool"), right)
    plain = {"stored": 2, "missing": 0, "duplicates": 0, "wrong": 0, "left_over": 0}
    plain["answered_by_the_device"] = 2 * (by == DEVICE)
    assert found == {**plain, "said_answered": 2, "different_answers": 2, **counted}
    assert chaos.is_well(found, 2) == (not counted)
