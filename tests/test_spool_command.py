"""`bottlenet spool`: what is in a spool, listed, exported, tried again and forgotten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bottlenet.bundle import Bundle
from bottlenet.edge import Choice, Failed, Spool
from bottlenet.edge.prediction import DROPPED, REFUSED, Answered, Photo
from bottlenet.wire.frame import parse_frame
from test_cli import Done, Run, run  # noqa: F401
from test_spool import Fast, frame, in_spool, write_old

STATUSES = {"waiting": 0, "answered": 1, "refused": 2, "dropped": 3}


@pytest.fixture
def photos(tmp_path: Path) -> list[Photo]:
    """Of each status one; of the last the file is gone."""
    (tmp_path / "in").mkdir()
    names = [tmp_path / "in" / f"{number}.jpg" for number in range(4)]
    for name in names[:3]:
        name.write_bytes(b"x")
    return [Photo(str(name), f"{number:064x}") for number, name in enumerate(names)]


@pytest.fixture
def spool(bundle: Bundle, photos: list[Photo], tmp_path: Path) -> Path:
    with Spool(tmp_path / "spool", bundle, connection=Fast) as opened:
        for number, photo in enumerate(photos):
            opened.put(photo, frame(bundle, number))
        choice = (Choice("tabby", 281, 0.81),)
        opened.store(photos[1], Answered(photos[1].name, "server", choice, 100, 104, 1, 1.5))
        opened.store(photos[2], Failed(photos[2].name, REFUSED, "too green"))
        opened.store(photos[3], Failed(photos[3].name, DROPPED, "full"))
    return tmp_path / "spool"


def lines(done: Done) -> list[dict[str, Any]]:
    assert (done.code, done.err) == (0, "")
    return [json.loads(line) for line in done.out.splitlines()]


def test_list(run: Run, spool: Path, photos: list[Photo], bundle: Bundle) -> None:  # noqa: F811
    done = run("spool", spool)
    assert done == run("spool", spool, "list")
    assert done.code == 0
    assert [line.split()[0] for line in done.out.splitlines()] == [*STATUSES, "4"]
    for what in ("0.jpg: 112 bytes", "1.jpg: tabby, 81%", "2.jpg: too green", "3.jpg: full"):
        assert what in done.out
    assert done.out.endswith("4 photos, 1 answered, 1 dropped, 1 refused, 1 waiting\n")
    found = lines(run("spool", spool, "list", "--json"))
    assert {line["photo"]: line["status"] for line in found} == {
        photo.name: status for photo, status in zip(photos, STATUSES, strict=True)
    }
    assert [line["spooled_bytes"] for line in found] == [112, None, 112, None]
    assert {line["bundle"] for line in found} == {bundle.id.hex()}
    assert found[1]["top"] == [{"label": "tabby", "class_index": 281, "score": 0.81}]
    assert found[2]["reason"] == "too green"


def test_list_while_it_is_in_use(run: Run, spool: Path, bundle: Bundle) -> None:  # noqa: F811
    with Spool(spool, bundle):
        assert len(lines(run("spool", spool, "list", "--json"))) == 4
        for action in (["requeue"], ["forget", "--gone"]):
            done = run("spool", spool, *action)
            assert (done.code, done.err.count("\n")) == (2, 1)
            assert "is in use by another process; stop that one" in done.err
    assert in_spool(spool, "refused") != []


def test_export(run: Run, spool: Path, photos: list[Photo], bundle: Bundle, tmp_path: Path) -> None:  # noqa: F811
    found = lines(run("spool", spool, "export", "--output", tmp_path / "out" / "frames", "--json"))
    assert [line["status"] for line in found] == ["waiting", "refused"]
    for number, line in zip((0, 2), found, strict=True):
        path = Path(line["file"])
        assert path == tmp_path / "out" / "frames" / f"{photos[number].key}.frame"
        assert parse_frame(path.read_bytes(), max_payload_bytes=1000, bundle_tag=bundle.tag) == frame(bundle, number)
    done = run("spool", spool, "export", photos[0].name, "-o", tmp_path / "one")
    assert done.out.splitlines()[-1] == "1 photos, 1 waiting"
    (tmp_path / "file").write_bytes(b"")
    done = run("spool", spool, "export", "-o", tmp_path / "file")
    assert (done.code, done.err.count("\n"), "give another --output" in done.err) == (2, 1, True)


def test_requeue(run: Run, spool: Path, photos: list[Photo], bundle: Bundle) -> None:  # noqa: F811
    assert lines(run("spool", spool, "requeue", photos[1].name, "--json")) == []
    assert [line["photo"] for line in lines(run("spool", spool, "requeue", "--json"))] == [photos[2].name]
    with Spool(spool, bundle) as opened:
        assert [entry.photo for entry in opened.waiting] == [photos[0], photos[2]]
        assert opened.frame(opened.waiting[1]) == frame(bundle, 2)
    assert lines(run("spool", spool, "requeue", "--json")) == []


def test_forget(run: Run, spool: Path, photos: list[Photo], tmp_path: Path) -> None:  # noqa: F811
    assert [line["photo"] for line in lines(run("spool", spool, "forget", "--gone", "--json"))] == [photos[3].name]
    assert lines(run("spool", spool, "forget", photos[0].name, "--json")) == []  # it waits
    assert len(lines(run("spool", spool, "forget", tmp_path / "in", "--json"))) == 2
    assert in_spool(spool) == [photos[0].name]


@pytest.mark.parametrize("action", ["list", "requeue", "forget"])
def test_names_that_are_not_in_it(run: Run, spool: Path, photos: list[Photo], action: str, tmp_path: Path) -> None:  # noqa: F811
    """The others are done, and a part of a folder's name is no folder."""
    done = run("spool", spool, action, tmp_path / "i", tmp_path / "in" / "mistyped.jpg", photos[2].name, "--json")
    assert (done.code, done.out.count("\n")) == (2, 1)
    assert f"{tmp_path / 'i'}, {tmp_path / 'in' / 'mistyped.jpg'}: not in this spool; see" in done.err


def test_a_file_where_a_folder_is_wanted(run: Run, spool: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "file").write_text("x")
    done = run("spool", spool, "export", "-o", tmp_path / "file")
    assert done.code == 2
    assert "can't be written: it is no folder; make room, or give another --output" in done.err


def test_a_spool_of_an_older_version(run: Run, bundle: Bundle, tmp_path: Path) -> None:  # noqa: F811
    for name in ("frames", "answers", "failed"):
        (tmp_path / "old" / name).mkdir(parents=True)
    write_old(tmp_path / "old", bundle, 1)
    assert [line["status"] for line in lines(run("spool", tmp_path / "old", "list", "--json"))] == ["waiting"]


@pytest.mark.parametrize(("arguments", "message"), [
    (["nowhere"], "there is no spool in it; give the folder that bottlenet send had as --spool"),
    (["spool", "lits"], "there is no spool action lits; give one of list, export, requeue, forget"),
    (["spool", "export"], "export, and nothing else, writes into a folder: give it with --output DIR"),
    (["spool", "list", "-o", "x"], "export, and nothing else, writes into a folder"),
    (["spool", "forget"], "forget needs photos, folders of them, or --gone; give one of these"),
])  # fmt: skip
def test_what_makes_no_sense(
    run: Run,  # noqa: F811
    spool: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(spool.parent)
    done = run("spool", *arguments)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert message in done.err
    assert len(in_spool(spool)) == 4
    assert not (spool.parent / "nowhere").exists()
