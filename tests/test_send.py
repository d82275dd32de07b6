"""`bottlenet send`, and the options that `classify` and `encode` have in common with it, against real servers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.server import ServerConnection
from websockets.sync.server import serve as websocket_server

from bottlenet import cli, runtime
from bottlenet.bundle import Bundle
from bottlenet.cli import sending
from bottlenet.cloud import create_app
from bottlenet.edge import Edge, Spool
from bottlenet.edge.spool import is_spool
from bottlenet.photo import SUFFIXES
from bottlenet.runtime import run_all
from bottlenet.wire.answer import Answer
from conftest import Server
from network import make_album
from test_auto import profile
from test_spool import damage, in_spool

COUNT = 12


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photos, each different."""
    return make_album(tmp_path_factory.mktemp("album"), COUNT)


@pytest.fixture(scope="module")
def photos(album: Path) -> list[Path]:
    return sorted(album.iterdir())


class Ran:
    """What a command said, and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Of JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def bottlenet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bundle: Bundle
) -> Callable[..., Ran]:
    """`bottlenet("send", ...)`, with the tiny bundle, in this process."""
    monkeypatch.delenv("BOTTLENET_TOKEN", raising=False)

    def call(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["bottlenet", *map(str, arguments), "--bundle", str(bundle.path)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Ran(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[str]:
    server = Server(create_app([bundle]))
    yield server.url
    server.stop()


@pytest.fixture
def nobody() -> str:
    """A URL where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return f"ws://127.0.0.1:{sock.getsockname()[1]}"


class TestCommand:
    def test_photos_and_a_folder(
        self, bottlenet: Callable[..., Ran], server: str, album: Path, bundle: Bundle, tmp_path: Path
    ) -> None:
        ran = bottlenet("send", album / "0003.png", album, "--spool", tmp_path / "spool", "--to", server, "--json")
        assert (ran.code, ran.err) == (0, "")
        assert sorted(line["photo"] for line in ran.lines if not line["again"]) == sorted(map(str, album.iterdir()))
        with Edge(bundle, server) as edge:
            for line in ran.lines:
                assert line["status"] == "answered"
                assert line["class_index"] == edge.classify(line["photo"]).class_index
                assert line["label"] == line["top"][0]["label"] == bundle.labels[line["class_index"]]
                assert 0 < line["payload_bytes"] < line["frame_bytes"]
        again = bottlenet("send", album, "--spool", tmp_path / "spool", "--to", server.replace("ws", "http"))
        assert (again.code, again.err) == (0, "")
        assert again.out.count("from before") == COUNT

    def test_lines_for_people(
        self, bottlenet: Callable[..., Ran], server: str, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(album)
        ran = bottlenet("send", album / "0000.png", "--spool", tmp_path / "spool", "--to", server)
        (line,) = ran.out.splitlines()
        assert line.startswith("0000.png: class ")
        assert line.endswith("bytes)")

    def test_nobody_is_there_and_then_somebody_is(
        self, bottlenet: Callable[..., Ran], nobody: str, server: str, album: Path, tmp_path: Path
    ) -> None:
        spool = tmp_path / "spool"
        ran = bottlenet("send", album, "--spool", spool, "--to", nobody, "--deadline", 0.1, "--json")
        assert ran.code == 1
        assert [line["status"] for line in ran.lines] == ["waiting"] * COUNT
        assert ran.err.startswith(f"error: can't connect to {nobody}: connection refused")
        assert ran.err.count("\n") == 1  # the same trouble is told once
        ran = bottlenet("send", "--spool", spool, "--to", nobody, "--deadline", 0.1)
        assert ran.out.count("waits in the spool; run this again") == COUNT
        ran = bottlenet("send", "--spool", spool, "--to", server, "--json")
        assert (ran.code, {line["status"] for line in ran.lines}, len(ran.lines)) == (0, {"answered"}, COUNT)

    def test_one_is_no_photo(self, bottlenet: Callable[..., Ran], server: str, album: Path, tmp_path: Path) -> None:
        (tmp_path / "bad.jpg").write_bytes(b"no photo")
        ran = bottlenet(
            "send", tmp_path / "bad.jpg", album / "0001.png", "--spool", tmp_path / "s", "--to", server, "--json"
        )
        assert ran.code == 2
        assert [line["status"] for line in ran.lines] == ["unusable", "answered"]
        assert f"error: unusable: {tmp_path}/bad.jpg: it is no photo" in ran.err

    def test_fallback(self, bottlenet: Callable[..., Ran], nobody: str, album: Path, tmp_path: Path) -> None:
        ran = bottlenet("send", album, "--spool", tmp_path / "s", "--to", nobody, "--fallback", "local")
        assert (ran.code, ran.out.count("answered here")) == (0, COUNT)
        one = album / "0000.png"
        ran = bottlenet("classify", one, "--to", nobody, "--fallback", "local")
        assert (ran.code, f"as the server couldn't: {one}" in ran.out.replace("\n", "")) == (0, True)
        ran = bottlenet("classify", one, "--to", nobody, "--fallback", "local", "--json")
        assert json.loads(ran.out)["photos"][0]["answered_by"] == "local"
        ran = bottlenet("classify", one, "--to", nobody, "--fallback", "cloud")
        assert (ran.code, ran.err) == (2, "error: fallback is 'cloud'; give 'local', or leave it out\n")

    def test_partition_auto(
        self, bottlenet: Callable[..., Ran], bundle: Bundle, nobody: str, server: str, album: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "profile.json"
        path.write_text(json.dumps(dataclasses.asdict(profile(bundle, edge_s=1e6))))  # whatever it takes, the server
        auto = ("--partition", "auto", "--profile", path)
        ran = bottlenet("send", album, "--spool", tmp_path / "s", "--to", nobody, *auto)
        assert (ran.code, ran.out.count("(0 bytes, answered here)"), ran.err) == (0, COUNT, "")
        ran = bottlenet("send", album / "0000.png", "--spool", tmp_path / "t", "--to", server, *auto, "--json")
        (line,) = ran.lines
        assert (ran.code, line["by"], line["status"]) == (0, "server", "answered")
        (move,) = ran.err.splitlines()
        assert move.startswith("edge-only -> ")
        assert " wins on " in move

    def test_partition_auto_for_the_fewest_bytes(
        self, bottlenet: Callable[..., Ran], bundle: Bundle, server: str, album: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "profile.json"
        path.write_bytes(profile(bundle, edge_s=1e6).to_json())
        auto = ("--partition", "auto", "--profile", path, "--objective")
        ran = bottlenet("send", album, "--spool", tmp_path / "s", "--to", server, *auto, "bytes")
        assert (ran.code, ran.out.count("(0 bytes, answered here)"), ran.err) == (0, COUNT, "")
        for wrong, message in (
            (["energy"], "the objective energy needs the power of a radio"),
            (["energy", "--radio", "lorawan"], "--radio is 'lorawan', whose power has no source"),
            (["energy", "--radio", "3g"], "no candidate's device energy is known"),
            (["cost"], "objective cost needs the price"),
            (["fun"], "objective 'fun' is unknown"),
        ):
            ran = bottlenet("send", album, "--spool", tmp_path / "s", "--to", server, *auto, *wrong)
            assert (ran.code, ran.out) == (2, "")
            assert ran.err.startswith(f"error: {message}")

    @pytest.mark.parametrize(("options", "message"), [
        (["--partition", "best"], "--partition is best; give auto"),
        (["--partition", "auto"], "--partition auto chooses by a profile; give --profile"),
        (["--profile", "x.json"], "--profile and --max-drop are for --partition auto"),
        (["--max-drop", "2"], "--profile and --max-drop are for --partition auto"),
        (["--objective", "bytes"], "--profile and --max-drop are for --partition auto, and so are --objective"),
        (["--partition", "auto", "--profile", "/no/such.json"], "/no/such.json: can't be read"),
    ])  # fmt: skip
    def test_partition_of_no_use(
        self, bottlenet: Callable[..., Ran], nobody: str, tmp_path: Path, options: list[str], message: str
    ) -> None:
        ran = bottlenet("send", "a.jpg", "--spool", tmp_path / "s", "--to", nobody, *options)
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith(f"error: {message}")

    def test_budget(self, bottlenet: Callable[..., Ran], server: str, album: Path, tmp_path: Path) -> None:
        one, out = album / "0000.png", tmp_path / "frame"
        free = json.loads(bottlenet("encode", one, "-o", out, "--json").out)["frame_bytes"]
        budget = free - 10
        assert bottlenet("encode", one, "-o", out, "--budget", budget).code == 0
        assert out.stat().st_size <= budget
        ran = bottlenet("classify", one, "--to", server, "--budget", budget, "--json")
        assert json.loads(ran.out)["photos"][0]["payload_bytes"] + 12 <= budget
        ran = bottlenet("send", album, "--to", server, "--spool", tmp_path / "s", "--budget", budget, "--json")
        assert ran.code == 0
        assert all(line["payload_bytes"] + 12 <= budget for line in ran.lines)
        for command in (["encode", one, "-o", out], ["classify", one, "--to", server]):
            ran = bottlenet(*command, "--budget", 14)
            assert ran.code == 2
            assert "no frame fits 14 bytes, 12 of them its header" in ran.err
        ran = bottlenet("send", one, "--to", server, "--spool", tmp_path / "t", "--budget", 14, "--json")
        assert (ran.code, ran.lines[0]["status"]) == (2, "unusable")
        assert in_spool(tmp_path / "t") == []

    def test_token(
        self,
        bottlenet: Callable[..., Ran],
        bundle: Bundle,
        album: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        (tmp_path / "tokens").write_text("a-camera-0123456789\n")
        (tmp_path / "wrong").write_text("another-0123456789\n")
        guarded = Server(create_app([bundle], tokens=tmp_path / "tokens"))
        try:
            one, to = album / "0000.png", ("--to", guarded.url)
            for token in ([], ["--token-file", tmp_path / "wrong"]):
                ran = bottlenet("classify", one, *to, *token)
                assert ran.code == 2
                assert "lets nobody in without a token" in ran.err
                assert "another-0123456789" not in ran.err
                ran = bottlenet("send", one, *to, *token, "--spool", tmp_path / "s", "--deadline", 0.1)
                assert ran.code == 1  # it waits for a better token
                assert "lets nobody in without a token" in ran.err
            assert bottlenet("classify", one, *to, "--token-file", tmp_path / "tokens").code == 0
            monkeypatch.setenv("BOTTLENET_TOKEN", "a-camera-0123456789")
            assert bottlenet("send", *to, "--spool", tmp_path / "s").code == 0
            assert bottlenet("classify", one, *to, "--token-file", tmp_path / "nowhere").code == 2
        finally:
            guarded.stop()

    def test_watch_until_told_to_stop(
        self, bottlenet: Callable[..., Ran], server: str, photos: list[Path], tmp_path: Path
    ) -> None:
        folder, spool = tmp_path / "in", tmp_path / "spool"
        folder.mkdir()
        (folder / "0.png").write_bytes(photos[0].read_bytes())
        problems: list[str] = []

        def others() -> None:
            """A camera, and whoever stops the service."""
            for number in (1, 2):
                deadline = time.monotonic() + 30
                while not is_spool(spool) or len(in_spool(spool, "answered")) < number:
                    if time.monotonic() > deadline:
                        problems.append(f"no answer to photo {number - 1}")
                        break
                    time.sleep(0.05)
                if number == 1:
                    (folder / "1.png").write_bytes(photos[1].read_bytes())
            os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=others)
        before = signal.getsignal(signal.SIGTERM)
        thread.start()
        ran = bottlenet("send", folder, "--watch", "--spool", spool, "--to", server, "--json")
        thread.join()
        assert problems == []
        assert (ran.code, ran.err) == (0, "")
        # An answer is stored first and told then, and the signal may come between the two.
        assert [Path(line["photo"]).name for line in ran.lines] in (["0.png"], ["0.png", "1.png"])
        assert len(in_spool(spool, "answered")) == 2
        assert signal.getsignal(signal.SIGTERM) is before

    def test_told_to_stop_while_the_network_runs(
        self,
        bottlenet: Callable[..., Ran],
        server: str,
        photos: list[Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """onnxruntime's errors are translated, and this is none of them."""
        folder = tmp_path / "in"
        folder.mkdir()
        (folder / "0.png").write_bytes(photos[0].read_bytes())

        class Session:
            def run(self, *arguments: object) -> object:
                os.kill(os.getpid(), signal.SIGTERM)
                raise AssertionError("the signal comes before this")

        real = sending.told_to_stop

        @contextlib.contextmanager
        def told_to_stop() -> Iterator[None]:
            with real(), monkeypatch.context() as patch:
                patch.setattr(runtime, "run_all", lambda session, **inputs: run_all(Session(), **inputs))
                yield

        monkeypatch.setattr(sending, "told_to_stop", told_to_stop)
        ran = bottlenet("send", folder, "--watch", "--spool", tmp_path / "spool", "--to", server)
        assert (ran.code, ran.err) == (0, "")
        assert in_spool(tmp_path / "spool") == []

    def test_watch_takes_one_folder(
        self, bottlenet: Callable[..., Ran], server: str, album: Path, photos: list[Path], tmp_path: Path
    ) -> None:
        for what in ([], [photos[0]], [album, photos[0]], [tmp_path / "nowhere"]):
            ran = bottlenet("send", *what, "--watch", "--spool", tmp_path / "s", "--to", server)
            assert ran.code == 2
            assert "--watch takes one folder" in ran.err
            assert ran.err.count("\n") == 1

    def test_a_full_spool_in_a_watched_folder_is_told_once(
        self, bottlenet: Callable[..., Ran], nobody: str, album: Path, tmp_path: Path
    ) -> None:
        ran = bottlenet(
            "send", album, "--watch", "--spool", tmp_path / "s", "--to", nobody, "--spool-bytes", 5000, "--deadline", 3
        )
        assert ran.code == 1
        taken = len(in_spool(tmp_path / "s", "waiting"))
        assert 0 < taken < COUNT
        assert ran.err.count("error: full: ") == COUNT - taken
        assert ran.out.count("waits in the spool") == taken

    def test_nothing_to_send(self, bottlenet: Callable[..., Ran], nobody: str, tmp_path: Path) -> None:
        """An empty folder is named; where there is nothing to send, there is no spool either."""
        (tmp_path / "empty" / "deeper").mkdir(parents=True)
        (tmp_path / "empty" / "notes.txt").write_text("hello")
        spool = ("--spool", tmp_path / "spool", "--to", nobody)
        ran = bottlenet("send", tmp_path / "empty", *spool)
        assert (ran.code, ran.out) == (0, "")
        assert ran.err == f"{tmp_path}/empty: there are no photos in it; their names end in {', '.join(SUFFIXES)}\n"
        assert not (tmp_path / "spool").exists()
        ran = bottlenet("send", tmp_path / "phtos", tmp_path / "empty", *spool, "--json")
        assert (ran.code, [line["status"] for line in ran.lines]) == (2, ["unusable"])
        assert f"{tmp_path}/phtos: there is no such file" in ran.err
        assert not (tmp_path / "spool").exists()
        ran = bottlenet("send", *spool)
        assert (ran.code, ran.out) == (2, "")
        assert f"{tmp_path}/spool: there is no spool, and so nothing that waits" in ran.err
        assert not (tmp_path / "spool").exists()

    def test_an_empty_folder_and_what_waits(
        self, bottlenet: Callable[..., Ran], nobody: str, server: str, album: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "empty").mkdir()
        bottlenet("send", album / "0000.png", "--spool", tmp_path / "s", "--to", nobody, "--deadline", 0.1)
        ran = bottlenet("send", tmp_path / "empty", "--spool", tmp_path / "s", "--to", server)
        assert (ran.code, ran.out.count("0000.png: class"), ran.err.count("there are no photos")) == (0, 1, 1)

    def test_a_folder_that_cannot_be_listed(
        self,
        bottlenet: Callable[..., Ran],
        server: str,
        album: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        folder = tmp_path / "in"
        (folder / "closed").mkdir(parents=True)
        (folder / "0.png").write_bytes((album / "0000.png").read_bytes())
        (folder / "closed" / "1.png").write_bytes((album / "0001.png").read_bytes())
        closed, scandir = str(folder / "closed"), os.scandir

        def fails(path: Any = ".") -> Any:
            if path == closed:
                raise PermissionError(13, "Permission denied", path)
            return scandir(path)

        monkeypatch.setattr(os, "scandir", fails)
        ran = bottlenet("send", folder, "--spool", tmp_path / "s", "--to", server, "--json")
        assert ran.code == 2
        assert {(Path(line["photo"]).name, line["status"]) for line in ran.lines} == {
            ("0.png", "answered"),
            ("closed", "unreadable"),
        }
        assert (
            f"error: unreadable: {closed}: it can't be looked at (Permission denied), and nothing in it is" in ran.err
        )
        assert ran.err.count("\n") == 1
        monkeypatch.undo()
        (folder / "0.png").unlink()
        (folder / "2.png").symlink_to(tmp_path / "nowhere")
        ran = bottlenet("send", folder, "--spool", tmp_path / "s", "--to", server)
        assert (ran.code, ran.out.count("1.png"), f"{folder}/2.png: it can't be looked at" in ran.err) == (2, 1, True)

    def test_what_was_in_the_spool(
        self, bottlenet: Callable[..., Ran], bundle: Bundle, server: str, album: Path, nobody: str, tmp_path: Path
    ) -> None:
        spool = tmp_path / "s"
        bottlenet("send", album / "0000.png", "--spool", spool, "--to", nobody, "--deadline", 0.1)
        damage(spool, "UPDATE photos SET frame = substr(frame, 2)")
        (spool / "frames").mkdir()
        (spool / "frames" / "stranger").write_text("hello")
        ran = bottlenet("send", album / "0000.png", "--spool", spool, "--to", server, "--json")
        assert [line["status"] for line in ran.lines] == ["damaged", "answered"]
        assert "stranger" in ran.err
        with Spool(spool, bundle):
            ran = bottlenet("send", "--spool", spool, "--to", server)
        assert (ran.code, "in use by another process" in ran.err) == (2, True)

    @pytest.mark.parametrize(
        "options",
        [
            ["--when-full", "explode"],
            ["--spool-bytes", "0"],
            ["--in-flight", "0"],
            ["--deadline", "-1"],
            ["--timeout", "0"],
        ],
    )
    def test_options_that_make_no_sense(
        self, bottlenet: Callable[..., Ran], server: str, tmp_path: Path, options: list[str]
    ) -> None:
        ran = bottlenet("send", "--spool", tmp_path / "s", "--to", server, *options)
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith("error: ")
        assert ran.err.count("\n") == 1

    def test_help(self, bottlenet: Callable[..., Ran]) -> None:
        ran = bottlenet("send", "--help")
        assert ran.code == 0
        for option in ("--watch", "--spool", "--fallback", "--budget", "--in-flight", "--token-file", "--json"):
            assert option in ran.out


def test_the_header_of_the_token(bundle: Bundle, photos: list[Path]) -> None:
    """What is sent when a stream opens, as a server of another make sees it."""
    seen: list[str | None] = []

    def handler(connection: ServerConnection) -> None:
        assert connection.request is not None
        seen.append(connection.request.headers.get("Authorization"))
        message = connection.recv()
        assert isinstance(message, bytes)
        connection.send(Answer(int.from_bytes(message[2:4], "big"), 1, 1, ((1, 0.5),)).to_bytes())

    server = websocket_server(handler, "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        for token in (None, "one-0123456789abcdef", lambda: "two-0123456789abcdef"):
            with Edge(bundle, url, token=token) as edge:
                edge.classify(photos[0])
    finally:
        server.shutdown()
        thread.join()
    assert seen == [None, "Bearer one-0123456789abcdef", "Bearer two-0123456789abcdef"]
