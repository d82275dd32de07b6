"""Every command in this process: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from bottlenet import cli
from bottlenet.bundle import Bundle
from bottlenet.cli.show import say
from bottlenet.cloud import create_app
from bottlenet.edge import Encoder
from bottlenet.train.config import TrainConfig
from bottlenet.wire.frame import parse_frame


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line on stderr of a command that failed as it should."""
        assert self.code == 2
        assert self.out == ""
        assert self.err.startswith("error: ")
        assert self.err.count("\n") == 1
        return self.err


Run = Callable[..., Done]
COMMANDS = [command.__name__ for commands in cli.COMMANDS.values() for command in commands]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object, columns: int = 100) -> Done:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys, "argv", ["bottlenet", *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        return Done(code, *capsys.readouterr())

    return call


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))

    header = struct.pack("!IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


class TestHelp:
    def test_it_lists_every_command(self, run: Run) -> None:
        done = run("--help")
        assert done.code == 0
        for command in COMMANDS:
            assert command in done.out

    def test_no_arguments_are_a_question(self, run: Run) -> None:
        assert "Usage" in run().out

    @pytest.mark.parametrize("command", COMMANDS)
    def test_each_has_an_example_and_json(self, run: Run, command: str) -> None:
        done = run(command, "--help")
        assert done.code == 0
        assert f"bottlenet {command}" in done.out
        assert "--json" in done.out

    @pytest.mark.parametrize("command", COMMANDS)
    def test_it_is_whole_and_examples_can_be_pasted_at_80_columns(self, run: Run, command: str) -> None:
        out = run(command, "-h", columns=80).out
        assert "…" not in out
        shown = [line.strip() for line in out.split("Example")[1].split("╭")[0].splitlines()[1:] if line.strip()]
        examples = typer.main.get_command(cli.app).commands[command].help.split("Example")[1].partition("\n")[2]
        assert shown == [line.strip() for line in examples.splitlines()]
        typed = examples.replace("\\\n", " ").split("bottlenet ")[1:]
        assert {each.split()[0] for each in typed} <= set(COMMANDS)

    def test_train_is_among_the_commands_that_make_a_network(self, run: Run) -> None:
        panel = run("--help").out.split("─ Making a split network")[1].split("╰")[0]
        assert [line.split()[1] for line in panel.splitlines()[1:] if line[2:3].strip()][:4] == [
            "cuts",
            "quick",
            "train",
            "sweep",
        ]

    def test_completion(self) -> None:
        completing = {"_BOTTLENET_COMPLETE": "complete_bash", "COMP_CWORD": "1", "COMP_WORDS": "bottlenet cla"}
        command = [sys.executable, "-c", "from bottlenet.cli import main; main()"]
        done = subprocess.run(
            command, env={**os.environ, **completing}, capture_output=True, text=True, check=False, timeout=600
        )
        assert done.stdout.split() == ["classify"]

    def test_train_has_the_fields_of_its_config(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torch", None)
        done = run("train", "--help")
        assert done.code == 0
        for field in dataclasses.fields(TrainConfig):
            assert "--" + field.name.replace("_", "-") in done.out

    def test_version(self, run: Run) -> None:
        assert run("--version").out.startswith("bottlenet ")

    def test_it_is_quick(self) -> None:
        code = "import bottlenet.cli, sys; print(*{name.partition('.')[0] for name in sys.modules})"
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split()
        assert not {"torch", "onnxruntime", "numpy", "PIL", "starlette", "uvicorn", "websockets"} & set(loaded)

    @pytest.mark.parametrize("option", ["-h", "--help"])
    @pytest.mark.parametrize("command", [[], ["plan"], ["train"]])
    def test_both_spellings(self, run: Run, command: list[str], option: str) -> None:
        done = run(*command, option)
        assert done.code == 0
        assert f"Usage: {' '.join(['bottlenet', *command])}" in done.out

    @pytest.mark.parametrize(
        "arguments",
        [
            ["nothing"],
            ["classify"],
            ["encode"],
            ["serve", "--port", "70000", "demo"],
            ["evaluate", "x", "--limit", "a"],
        ],
    )
    def test_wrong_usage_is_2(self, run: Run, arguments: list[str]) -> None:
        done = run(*arguments)
        assert done.code == 2
        assert done.out == ""
        assert done.error.endswith(" --help\n")


class TestEncodeAndDecode:
    def test_there_and_back(self, run: Run, bundle: Bundle, photo_path: Path, tmp_path: Path) -> None:
        file = tmp_path / "photo.frame"
        done = run("encode", photo_path, "-o", file, "--bundle", bundle.path, "--json")
        assert done.code == 0
        assert done.err == ""
        frame = parse_frame(file.read_bytes(), bundle_tag=bundle.tag)
        assert frame == Encoder(bundle).encode(photo_path).frame
        assert done.json["payload_bytes"] == len(frame.payload)
        assert done.json["frame_bytes"] == file.stat().st_size == len(frame.payload) + 12
        assert done.json["codec"] == "jpeg"

        answer = run("decode", file, "--bundle", bundle.path, "--json").json
        assert len(answer["top"]) == 5
        assert answer["top"][0]["label"] in bundle.labels
        assert answer["bundle_tag"] == bundle.tag.hex()

    def test_tables(self, run: Run, bundle: Bundle, photo_path: Path, tmp_path: Path) -> None:
        file = tmp_path / "photo.frame"
        assert "12 bytes" not in run("encode", photo_path, "-o", file, "--bundle", bundle.path).out
        assert f"{file.stat().st_size:,} with header" in run("decode", file, "--bundle", bundle.path).out

    def test_a_frame_is_replaced_but_nothing_else(
        self, run: Run, bundle: Bundle, photo_path: Path, tmp_path: Path
    ) -> None:
        file = tmp_path / "photo.frame"
        arguments = ["encode", photo_path, "-o", file, "--bundle", bundle.path]
        assert run(*arguments).code == 0
        assert run(*arguments).code == 0
        file.write_text("my diary")
        assert "--force" in run(*arguments).error
        assert file.read_text() == "my diary"
        assert run(*arguments, "--force").code == 0
        assert parse_frame(file.read_bytes()).bundle_tag == bundle.tag
        assert list(tmp_path.iterdir()) == [file]

    def test_links_are_followed(self, run: Run, bundle: Bundle, photo_path: Path, tmp_path: Path) -> None:
        link = tmp_path / "link"
        link.symlink_to(tmp_path / "real")
        assert run("encode", photo_path, "-o", link, "--bundle", bundle.path).code == 0
        assert link.is_symlink()
        assert parse_frame((tmp_path / "real").read_bytes())

    def test_the_longest_name_that_the_system_takes(
        self, run: Run, bundle: Bundle, photo_path: Path, tmp_path: Path
    ) -> None:
        name = "图" * 85  # 255 bytes
        assert run("encode", photo_path, "-o", tmp_path / name, "--bundle", bundle.path).code == 0
        assert [entry.name for entry in tmp_path.iterdir()] == [name]

    @pytest.mark.parametrize("output", ["missing/photo.frame", ".", "x" * 300])
    def test_nowhere_to_write(self, run: Run, bundle: Bundle, photo_path: Path, tmp_path: Path, output: str) -> None:
        assert run("encode", photo_path, "-o", tmp_path / output, "--bundle", bundle.path).error
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"this is no photo at all", "no photo"),
            (png_header(20_000, 20_000), "20000x20000"),
            (png_header(1, 1), "1x1"),
            (png_header(64, 64), ""),
        ],
        ids=["text", "bomb", "1x1", "truncated"],
    )
    def test_a_photo_that_is_none(self, run: Run, bundle: Bundle, tmp_path: Path, content: bytes, words: str) -> None:
        (tmp_path / "bad.png").write_bytes(content)
        error = run("encode", tmp_path / "bad.png", "-o", tmp_path / "out", "--bundle", bundle.path).error
        assert "bad.png" in error
        assert words in error
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("mode", ["L", "CMYK", "I;16", "RGBA", "P"])
    def test_photos_of_every_kind(self, run: Run, bundle: Bundle, tmp_path: Path, mode: str) -> None:
        file = tmp_path / "photo.tif"
        Image.new(mode, (40, 30), 200 if mode in ("L", "I;16", "P") else None).save(file)
        assert run("encode", file, "-o", tmp_path / "out", "--bundle", bundle.path).code == 0

    def test_a_frame_of_another_bundle(
        self, run: Run, bundle: Bundle, make_bundle: Callable[..., Bundle], photo_path: Path, tmp_path: Path
    ) -> None:
        other = make_bundle(name="other")
        run("encode", photo_path, "-o", tmp_path / "frame", "--bundle", other.path)
        error = run("decode", tmp_path / "frame", "--bundle", bundle.path).error
        assert other.tag.hex() in error
        assert bundle.tag.hex() in error

    def test_a_damaged_frame(self, run: Run, bundle: Bundle, photo_path: Path, tmp_path: Path) -> None:
        file = tmp_path / "frame"
        run("encode", photo_path, "-o", file, "--bundle", bundle.path)
        file.write_bytes(file.read_bytes()[:-1] + b"?")
        assert "checksum" in run("decode", file, "--bundle", bundle.path).error
        assert "no such file" in run("decode", tmp_path / "missing", "--bundle", bundle.path).error.lower()

    def test_a_bundle_of_another_version(self, run: Run, bundle: Bundle, photo_path: Path, tmp_path: Path) -> None:
        shutil.copytree(bundle.path, tmp_path / "old")
        manifest = tmp_path / "old" / "manifest.json"
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format_version": 99}))
        error = run("encode", photo_path, "-o", tmp_path / "out", "--bundle", tmp_path / "old").error
        assert "version 99" in error
        assert not (tmp_path / "out").exists()


class TestClassify:
    def test_photos(self, run: Run, bundle: Bundle, serve: Callable, photo_path: Path) -> None:
        url = serve(create_app([bundle])).url
        done = run("classify", photo_path, photo_path, "--to", url, "--bundle", bundle.path, "--json")
        assert done.code == 0
        first, second = done.json["photos"]
        assert first["label"] == second["label"]
        assert done.json["bundle"] == bundle.id.hex()
        # A WebSocket message of up to 125 bytes has 6 of its own, a larger one 8; opening the connection doesn't count.
        assert first["socket_bytes"] == second["socket_bytes"]
        assert first["socket_bytes"] - first["frame_bytes"] in (6, 8)
        assert first["frame_bytes"] == first["payload_bytes"] + 4

    def test_a_table_and_an_http_url(self, run: Run, bundle: Bundle, serve: Callable, photo_path: Path) -> None:
        url = serve(create_app([bundle])).http_url
        done = run("classify", photo_path, "--to", url, "--bundle", bundle.path)
        assert done.code == 0
        assert photo_path.name in done.out

    def test_names_are_no_markup(
        self, run: Run, bundle: Bundle, serve: Callable, photo_path: Path, tmp_path: Path
    ) -> None:
        name = "[red]a\x1b[31m.png"
        shutil.copy(photo_path, tmp_path / name)
        url = serve(create_app([bundle])).url
        out = run("classify", tmp_path / name, "--to", url, "--bundle", bundle.path).out
        assert "[red]a" in out
        assert "\x1b" not in out

    def test_one_photo_is_bad(
        self, run: Run, bundle: Bundle, serve: Callable, photo_path: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "bad.jpg").write_text("no")
        url = serve(create_app([bundle])).url
        done = run("classify", tmp_path / "bad.jpg", photo_path, "--to", url, "--bundle", bundle.path, "--json")
        assert done.code == 2
        assert [photo["photo"] for photo in done.json["photos"]] == [str(photo_path)]
        assert done.err.startswith("error: ")
        assert "bad.jpg" in done.err

    def test_nobody_is_there(self, run: Run, bundle: Bundle, photo_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        error = run("classify", photo_path, "--to", f"ws://127.0.0.1:{port}", "--bundle", bundle.path).error
        assert str(port) in error

    def test_no_url(self, run: Run, bundle: Bundle, photo_path: Path) -> None:
        assert "ws://" in run("classify", photo_path, "--to", "server", "--bundle", bundle.path).error

    def test_another_bundle(
        self, run: Run, bundle: Bundle, make_bundle: Callable[..., Bundle], serve: Callable, photo_path: Path
    ) -> None:
        url = serve(create_app([make_bundle(name="other")])).url
        assert "other" in run("classify", photo_path, "--to", url, "--bundle", bundle.path).error

    @pytest.mark.parametrize("url", ["ws://camera:se-cret@host:1", "mqtts://camera:se-cret@host", "x://:se@cret@host"])
    def test_a_password_in_an_address_is_not_printed(
        self, run: Run, bundle: Bundle, photo_path: Path, url: str
    ) -> None:
        error = run("classify", photo_path, "--to", url, "--bundle", bundle.path).error
        assert "cret" not in error
        assert "host" in error


class TestEvaluate:
    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        rng = np.random.default_rng(3)
        for number in range(12):
            pixels = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{number:02}.png")
        rows = "".join(f"{number:02}.png,{number % 10}\n" for number in range(12))
        (tmp_path / "labels.csv").write_text("file,class_index\n" + rows)
        return tmp_path

    def test_json(self, run: Run, bundle: Bundle, data: Path) -> None:
        done = run("evaluate", bundle.path, "--data", data, "--json")
        assert done.code == 0
        assert done.err == ""
        keys = {"top1", "top5", "agreement", "top1_uncut", "top1_drop", "payload_bytes", "frame_bytes"}
        assert keys | {"head_flops_share", "photos"} <= set(done.json)
        assert set(done.json["payload_bytes"]) == set(done.json["frame_bytes"]) == {"mean", "p95", "max"}
        assert done.json["photos"] == 12
        assert run("evaluate", bundle.path, "--data", data, "--json", "--limit", 5).json["photos"] == 5

    def test_table(self, run: Run, bundle: Bundle, data: Path) -> None:
        assert "top-1" in run("evaluate", bundle.path, "--data", data).out
        (data / "labels.csv").unlink()
        assert "not known" in run("evaluate", bundle.path, "--data", data).out

    def test_no_folder(self, run: Run, bundle: Bundle, data: Path) -> None:
        assert "nothere" in run("evaluate", bundle.path, "--data", data / "nothere").error
        assert "nothere" in run("evaluate", data / "nothere", "--data", data).error


@pytest.mark.parametrize("there", [True, False])
def test_serve_says_if_the_page_lacks_its_runtime(
    run: Run, bundle: Bundle, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(loaded: object, announce: Callable[[str], None], *arguments: object, **options: object) -> None:
        announce("127.0.0.1:8000")

    monkeypatch.setattr("bottlenet.cloud.run.serve", serve)
    monkeypatch.setattr("bottlenet.cloud.run.set_up_logging", lambda *arguments, **options: None)
    monkeypatch.setattr("bottlenet.cloud.vendor.installed", lambda runtime: there)
    done = run("serve", bundle.path)
    assert done.code == 0
    assert ("run python -m bottlenet.cloud.vendor, which needs npm" in done.out) != there


class TestFailing:
    def test_ctrl_c_is_130(self, run: Run, photo_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(path: str) -> Bundle:
            raise KeyboardInterrupt

        monkeypatch.setattr(Bundle, "load", interrupted)
        done = run("encode", photo_path, "-o", tmp_path / "out")
        assert done.code == 130
        assert "Traceback" not in done.err

    @pytest.mark.parametrize(
        ("package", "extra", "arguments"),
        [
            ("torch", "train", ["cuts", "efficientnet_lite0"]),
            ("torch", "train", ["train", "--model", "x", "--data", "x", "--out", "x", "--cut", "x"]),
            ("torch", "train", ["sweep", "x", "--data", "x", "--out", "x", "--cuts", "x"]),
            ("torch", "train", ["privacy", "demo", "--data", "x", "--out", "x"]),
            ("onnxscript", "train", ["export", "run", "-o", "bundle"]),
            ("uvicorn", "cloud", ["serve", "demo"]),
            ("uvicorn", "cloud", ["bench", "demo", "--data", "x"]),
            ("starlette", "cloud", ["demo"]),
            ("paho", "mqtt", ["serve", "demo", "--mqtt", "mqtt://host"]),
            ("ray", "ray", ["serve", "demo", "--engine", "ray"]),
        ],
    )
    def test_a_missing_extra_says_how_to_get_it(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, package: str, extra: str, arguments: list[str]
    ) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        error = run(*arguments).error
        assert f'pip install ".[{extra}]" in a checkout of BottleNet' in error
        assert "B)" in error or "torch" in error  # how much that brings
        if arguments[0] != "serve":
            help_text = " ".join(run(arguments[0], "--help").out.split())
            assert f'Needs pip install ".[{extra}]" in a checkout of BottleNet' in help_text

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="asks Linux for a full disk")
    @pytest.mark.parametrize("json_", [["--json"], []])
    def test_no_room_for_the_output(self, bundle: Bundle, photo_path: Path, tmp_path: Path, json_: list[str]) -> None:
        command = [sys.executable, "-m", "bottlenet.cli", "encode", photo_path, "-o", tmp_path / "out", *json_]
        with open("/dev/full", "wb") as full:
            done = subprocess.run([*command, "-b", bundle.path], stdout=full, stderr=subprocess.PIPE, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith(b"error: No space left")
        assert done.stderr.count(b"\n") == 1

    def test_a_name_that_is_no_text(self, capsys: pytest.CaptureFixture[str]) -> None:
        cli.prepare_streams()
        say("To look at: caf\udce9.html, 图")
        assert capsys.readouterr().out == "To look at: caf\\udce9.html, 图\n"

    @pytest.mark.parametrize("json_", [["--json"], []])
    def test_a_terminal_that_can_not_spell_a_name(
        self, make_bundle: Callable[..., Bundle], photo_path: Path, tmp_path: Path, json_: list[str]
    ) -> None:
        shutil.copy(photo_path, tmp_path / "图é.png")
        bundle = make_bundle(name="réseau")
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii"}
        for arguments in (["encode", "图é.png", "-o", "frame"], ["decode", "frame"], ["show"]):
            option = [] if arguments[0] == "show" else ["-b"]
            command = [sys.executable, "-m", "bottlenet.cli", *arguments, *option, bundle.path, *json_]
            done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment, check=False, timeout=600)
            assert (done.returncode, done.stderr) == (0, b"")
            name = {"encode": rb"\u56fe\xe9.png", "decode": b"class", "show": rb"r\xe9seau"}[arguments[0]]
            assert (name if not json_ else name.replace(rb"\x", rb"\u00")) in done.stdout

    @pytest.mark.skipif(os.name != "posix", reason="closes streams in a shell")
    @pytest.mark.parametrize(
        ("closing", "code", "error"), [(">&-", 2, "error: standard output is closed"), ("<&-", 0, ""), ("2>&-", 0, "")]
    )
    def test_a_closed_stream(
        self, bundle: Bundle, photo_path: Path, tmp_path: Path, closing: str, code: int, error: str
    ) -> None:
        command = [
            sys.executable,
            "-m",
            "bottlenet.cli",
            "encode",
            photo_path,
            "-o",
            tmp_path / "out",
            "-b",
            bundle.path,
        ]
        shell = ["sh", "-c", f'exec "$@" {closing}', "sh", *map(str, command)]
        done = subprocess.run(shell, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == code
        assert done.stderr.startswith(error)
        assert done.stderr.count("\n") == bool(code)
        assert (tmp_path / "out").exists() == (code == 0)

    def test_whoever_read_the_output_is_gone(self, bundle: Bundle, photo_path: Path, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "bottlenet.cli", "encode", photo_path, "-o", tmp_path / "out", "--json"]
        with subprocess.Popen(
            [*command, "--bundle", bundle.path], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.close()
            assert process.stderr is not None
            assert process.stderr.read() == b""
        assert process.returncode == 1
