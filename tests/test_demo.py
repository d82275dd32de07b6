"""`bottlenet demo`: the comparison, the tables and the page."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import bottlenet
from bottlenet.bundle import Bundle
from bottlenet.cli.demo import PAGE, document, renderables, summary
from bottlenet.demo.run import (
    INPUT_CODECS,
    DemoResult,
    PhotoResult,
    byte_scale,
    code_input,
    in_words,
    page,
    run_demo,
    shipped_photos,
    ticks,
)
from bottlenet.edge import Choice, Edge, Prediction, Times
from bottlenet.errors import InputError, LinkError, PhotoError
from bottlenet.measure import bench as servers
from bottlenet.photo import photo_to_crop
from bottlenet.plan.link import Link
from bottlenet.report.sections import stretched
from other_tasks import other_bundle

BOTTLENET = [sys.executable, "-W", "error", "-m", "bottlenet.cli"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(bottlenet.__file__).parents[1])}  # wherever a test runs it
NASTY = "<script>\"&'[red]\x1b[31m"
RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
VOID = {"meta", "link", "img", "br"}


class Reader(HTMLParser):
    """What a page holds, and whether its elements nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture
def sources(photo: np.ndarray, tmp_path: Path) -> list[Path]:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(2):
        Image.fromarray(np.roll(photo, 10 * number, axis=1)).save(folder / f"photo {number}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def result(bundle: Bundle) -> DemoResult:
    """Made up, with names and labels that are out to break things."""
    top = tuple(Choice(NASTY if number == 0 else f"class {number}", number, 0.9 / 4**number) for number in range(5))
    times = Times(1.0, 2.0, 0.5, round_trip_ms=9.0, decode_ms=0.25, tail_ms=4.0)
    prediction = Prediction(NASTY, 0, 0.9, top, 100, 104, 110, 34, times)
    pixels = np.full((32, 32, 3), 77, np.uint8)
    picture = np.arange(16 * 24, dtype=np.uint16).reshape(16, 24).astype(np.uint8)
    inputs = {name: code_input(pixels, codec) for name, codec in INPUT_CODECS.items()}
    photo = PhotoResult(NASTY, pixels, picture, prediction, top, 6.0, inputs)
    other = dataclasses.replace(photo, name="b.jpg", uncut=top[1:])
    return DemoResult(bundle, (photo, other))


class TestRun:
    def test_over_a_real_socket(self, bundle: Bundle, sources: list[Path]) -> None:
        steps: list[tuple[int, int]] = []
        result = run_demo(bundle, sources, lambda done, total: steps.append((done, total)))
        assert steps == [(0, 2), (1, 2), (2, 2)]
        assert [photo.name for photo in result.photos] == ["photo 0.png", "photo 1.png"]
        for photo in result.photos:
            assert photo.pixels.shape == (32, 32, 3)
            assert photo.picture.shape == bundle.mosaic.picture_shape
            assert photo.prediction.payload_bytes < photo.prediction.frame_bytes < photo.prediction.socket_bytes
            assert photo.uncut[0].label in bundle.labels
            assert min(photo.device_ms, photo.server_ms, photo.uncut_ms) > 0
        assert 0 <= result.same_answers <= 2

    def test_boxes(self, sources: list[Path], tmp_path: Path) -> None:
        """Those of the server's answer, at their places of the square, in words, in tables and over the photo."""
        bundle = other_bundle(tmp_path / "bundle", "detection")
        result = run_demo(bundle, sources)
        for photo, source in zip(result.photos, sources, strict=True):
            assert photo.boxes
            assert photo.same_answer
            square = photo_to_crop(source, bundle.manifest.preprocess)[1]
            there = photo.prediction.objects[: len(photo.boxes)]
            assert [box.label for box in photo.boxes] == [box.label for box in there]
            assert photo.boxes[0].left == pytest.approx((there[0].left - square.left) / square.side)
            assert {round(4 * edge) / 4 for box in photo.boxes for edge in (box.left, box.bottom)} <= {
                0,
                0.25,
                0.5,
                0.75,
                1,
            }
        made = Reader(page(result))
        assert len(made.all("svg")) == len(sources)
        assert len(made.all("rect")) == sum(len(photo.boxes or ()) + len(photo.uncut_boxes) for photo in result.photos)
        assert "boxes around things of 4 classes" in made.words
        assert in_words(result.photos[0].boxes or ()) in made.words
        assert "benchmarks/detector.py" in summary(result)
        assert len(document(result)["photos"][0]["uncut_boxes"]) == len(result.photos[0].uncut_boxes)  # type: ignore[index]
        console = Console(file=io.StringIO(), width=200)
        for each in renderables(result):
            console.print(each)
        assert result.photos[0].answer in console.file.getvalue()  # type: ignore[attr-defined]

    def test_nothing_found_is_an_answer(self, result: DemoResult) -> None:
        none = dataclasses.replace(result.photos[0], boxes=(), uncut=())
        none = dataclasses.replace(none, prediction=dataclasses.replace(none.prediction, label="", top=(), score=0.0))
        assert (none.answer, none.uncut_answer, none.same_answer) == ("nothing", "nothing", True)
        assert "0 found" in page(dataclasses.replace(result, photos=(none,)))
        assert list(renderables(dataclasses.replace(result, photos=(none,))))

    def test_a_map_has_no_demo(self, sources: list[Path], tmp_path: Path) -> None:
        with pytest.raises(InputError, match="for networks that give one label"):
            run_demo(other_bundle(tmp_path / "bundle", "segmentation"), sources)

    def test_a_bad_photo_shows_before_anything_starts(
        self, bundle: Bundle, sources: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("bottlenet.demo.run.split_server", None)
        sources[1].write_text("no photo")
        with pytest.raises(PhotoError, match=re.escape("photo 1.png")):
            run_demo(bundle, sources)

    def test_a_bundle_without_the_uncut_network(self, bundle: Bundle, sources: list[Path]) -> None:
        files = {name: digest for name, digest in bundle.manifest.files.items() if name != "uncut.onnx"}
        lacking = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, files=files))
        with pytest.raises(InputError, match=re.escape("no uncut.onnx")):
            run_demo(lacking, sources)

    def test_times_on_a_link(self, result: DemoResult) -> None:
        (photo, _) = result.photos
        link = Link("test", uplink_bps=8000, round_trip_s=0.05)  # a byte a millisecond
        assert photo.device_ms == 3.5
        assert photo.server_ms == 4.25
        assert photo.with_split(link) == pytest.approx(50 + 110 + 3.5 + 4.25)
        coded = photo.inputs["jpeg75"]
        expected = 50 + coded.size_bytes + 10 + 1.0 + coded.code_ms + 6.0
        assert photo.without_split(link, "jpeg75") == pytest.approx(expected)

    def test_sizes_are_those_of_files(self, photo: np.ndarray) -> None:
        photo = photo[:, : len(photo)]
        sizes = {name: code_input(photo, codec).size_bytes for name, codec in INPUT_CODECS.items()}
        assert sizes["jpeg75"] < sizes["jpeg95"]
        file = io.BytesIO()
        Image.fromarray(photo).save(file, "JPEG", quality=75)
        assert sizes["jpeg75"] == len(file.getvalue())

    def test_there_are_photos_in_the_package(self) -> None:
        assert len(shipped_photos()) >= 6
        licences = (shipped_photos()[0].parent / "LICENSES.md").read_text(encoding="utf-8")
        assert all(photo.name in licences for photo in shipped_photos())


class TestServerProcess:
    @pytest.fixture
    def started(self, monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[str]]:
        """The processes that were started, to see that they are gone."""
        started: list[subprocess.Popen[str]] = []

        class Popen(subprocess.Popen[str]):
            def __init__(self, *arguments: object, **options: object) -> None:
                super().__init__(*arguments, **options)  # type: ignore[arg-type, call-overload]
                started.append(self)

        monkeypatch.setattr(servers.subprocess, "Popen", Popen)
        return started

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_it_ends_with_the_block(
        self, bundle: Bundle, started: list[subprocess.Popen[str]], error: type[BaseException]
    ) -> None:
        with pytest.raises(error), servers.split_server([bundle.path]):
            raise error
        (process,) = started
        assert process.returncode == 0

    def test_it_says_why_it_does_not_start(self, tmp_path: Path, started: list[subprocess.Popen[str]]) -> None:
        with (
            pytest.raises(LinkError, match="did not start: bundle .* no such folder"),
            servers.split_server([tmp_path / "no"]),
        ):
            pass
        assert started[0].returncode == 2

    def test_it_has_a_deadline(self, bundle: Bundle, started: list[subprocess.Popen[str]]) -> None:
        with pytest.raises(LinkError, match="within"), servers.split_server([bundle.path], start_s=0.001):
            pass
        assert started[0].returncode is not None

    @pytest.mark.slow
    def test_it_does_not_outlive_a_demo_that_was_killed(self, bundle: Bundle) -> None:
        code = f"""
import subprocess, time
from pathlib import Path
from bottlenet.measure import bench as servers
real = subprocess.Popen.__init__
def noted(self, *arguments, **options):
    real(self, *arguments, **options)
    print(self.pid, flush=True)
subprocess.Popen.__init__ = noted
with servers.split_server([Path({str(bundle.path)!r})]) as port:
    print(port, flush=True)
    time.sleep(600)
"""
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as demo:
            assert demo.stdout is not None
            pid = int(demo.stdout.readline())
            port = demo.stdout.readline().strip()
            demo.kill()
        assert port.isdecimal()
        assert gone(pid)


def gone(pid: int) -> bool:
    """Whether a process that is not our child ends soon."""
    import time

    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat")
            if state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z":
                return True  # ended; nobody has asked for its exit status yet
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


class TestTables:
    @pytest.mark.parametrize("width", [80, 100])
    def test_they_fit(self, result: DemoResult, width: int) -> None:
        console = Console(file=io.StringIO(), width=width, highlight=False)
        for part in renderables(result):
            console.print(part)
        assert isinstance(console.file, io.StringIO)
        out = console.file.getvalue()
        assert max(map(len, out.splitlines())) <= width
        assert "\x1b" not in out
        assert "[red]" in out  # a name, not markup
        for word in ("payload", "socket", "JPEG 95", "WebP 75", "device", "server", "Wi-Fi", "mean", "assumed"):
            assert word in out
        assert "2 photos: the uncut network's answer for 1; on average a payload of 100 bytes" in " ".join(out.split())

    def test_one_figure_of_bytes_everywhere_and_the_accuracy_beside_it(self, result: DemoResult) -> None:
        """Fewer bytes than a JPEG that loses nothing is no comparison: at the same accuracy it is one."""
        shipped = DemoResult(Bundle.load("demo"), result.photos)
        record = json.loads((RESULTS / "input_codecs.json").read_text(encoding="utf-8"))["results"]
        measured, needed = record["evaluation"], record["same_top1"]["file"]
        known = shipped.accuracy
        assert known is not None, "the shipped bundle has changed: measure it with benchmarks/input_codecs.py"
        assert record["bundle_id"] == shipped.bundle.id.hex()
        assert (known.photos, known.frame_bytes) == (measured["photos"], measured["frame_bytes"]["mean"])
        assert (known.top1, known.top1_uncut) == pytest.approx((measured["top1"], measured["top1_uncut"]), abs=0.01)
        assert known.input_codec_bytes == pytest.approx(needed["best_input_codec_bytes"], abs=1)
        times = f"{needed['ratio']:.1f} times"
        text = " ".join(summary(shipped).split())
        html = " ".join(Reader(page(shipped)).words.split())
        for where in (text, html, (RESULTS.parents[1] / "README.md").read_text(encoding="utf-8")):
            assert times in where
        for where in (text, html):
            assert "1,300" in where
            assert "77.8 %" in where
            assert "5.7 points below the uncut network" in where
            assert re.search(r"[\d.]+x less|times\s+fewer", where) is None
        assert json.loads(json.dumps(document(shipped)))["accuracy"]["photos"] == 1300

    def test_accuracy_that_nobody_has_measured(self, result: DemoResult) -> None:
        assert result.accuracy is None
        assert "bottlenet evaluate measures" in summary(result)
        assert "bottlenet evaluate measures" in page(result)

    def test_document(self, result: DemoResult) -> None:
        made = json.loads(json.dumps(document(result)))
        assert made["same_answers"] == 1
        assert made["means"]["payload_bytes"] == 100
        assert made["photos"][0]["links"]["3g"]["split_ms"] > 100
        assert set(made["photos"][0]["links"]["3g"]["without_split_ms"]) == set(INPUT_CODECS)


class TestPage:
    def test_it_holds_together(self, result: DemoResult) -> None:
        read = Reader(page(result))
        assert len(read.all("article")) == 2
        assert len(read.all("img")) == 4
        assert all(image["alt"] for image in read.all("img"))
        assert all(cell.get("scope") for name, cell in read.found if name == "th" and cell)
        assert "no guarantee of privacy" in " ".join(read.words.split())
        assert "log scale" in read.words
        assert "$" not in read.words

    def test_everything_is_escaped(self, result: DemoResult) -> None:
        made = page(result)
        assert "<script" not in made
        assert "\x1b" not in made
        assert "<script>\"&'[red]" in Reader(made).words

    def test_nothing_is_loaded_from_elsewhere(self, result: DemoResult) -> None:
        made = page(result)
        addresses = re.findall(r"""(?:src|href|action|url)\s*[=(]\s*["']?([^"')\s>]+)""", made)
        assert addresses
        assert all(address.startswith("data:") for address in addresses)
        assert not re.search(r"@import|<script|<iframe|https?://", made)
        assert "default-src 'none'" in made

    def test_pictures_are_what_was_sent(self, result: DemoResult) -> None:
        photo, mosaic = Reader(page(result)).all("img")[:2]
        assert decoded(photo).size == (32, 32)
        assert decoded(mosaic).size == (24, 16)
        assert (mosaic["width"], mosaic["height"]) == ("24", "16")
        assert np.array_equal(np.asarray(decoded(mosaic)), stretched(result.photos[0].picture))

    def test_it_is_known_as_ours(self, result: DemoResult) -> None:
        PAGE.find(page(result).encode()[: PAGE.read_bytes])

    def test_light_dark_and_narrow(self, result: DemoResult) -> None:
        made = page(result)
        assert "prefers-color-scheme: dark" in made
        assert "width=device-width" in made

    def test_stretched(self) -> None:
        assert np.array_equal(stretched(np.full((4, 4), 9, np.uint8)), np.full((4, 4), 128, np.uint8))
        spread = stretched(np.linspace(100, 110, 400).astype(np.uint8).reshape(20, 20))
        assert (spread.min(), spread.max()) == (0, 255)

    def test_the_scale_holds_what_is_on_it(self) -> None:
        scale = byte_scale([300, 35_000])
        assert (scale.low, scale.high) == (100, 100_000)
        assert scale.share(100) == 0
        assert scale.share(1000) == pytest.approx(1 / 3)
        assert scale.share(10**6) == 1
        assert byte_scale([1]).share(1) == 0
        assert re.findall(">([^<]*)<", ticks(scale)) == ["100", "", "1k", "", "10k", "", "100k"]


def decoded(image: dict[str, str | None]) -> Image.Image:
    source = image["src"]
    assert source is not None
    return Image.open(io.BytesIO(base64.b64decode(source.partition("base64,")[2])))


class TestCommand:
    def demo(self, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*BOTTLENET, "demo", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=folder,
            env=ENVIRONMENT,
            timeout=120,
            check=False,
        )

    def test_it_prints_and_writes(self, bundle: Bundle, sources: list[Path], tmp_path: Path) -> None:
        done = self.demo(tmp_path, *sources, "--bundle", bundle.path)
        assert (done.returncode, done.stderr) == (0, "")
        assert "photo 0.png" in done.stdout
        assert Reader((tmp_path / "bottlenet-demo.html").read_text()).all("article")

        again = self.demo(tmp_path, sources[0], "--bundle", bundle.path, "--json")
        assert again.returncode == 0
        assert len(json.loads(again.stdout)["photos"]) == 1
        assert len(Reader((tmp_path / "bottlenet-demo.html").read_text()).all("article")) == 1

    def test_it_overwrites_no_other_file(self, bundle: Bundle, sources: list[Path], tmp_path: Path) -> None:
        (tmp_path / "diary.html").write_text("<p>Dear diary")
        done = self.demo(tmp_path, *sources, "--bundle", bundle.path, "-o", "diary.html")
        assert (done.returncode, done.stdout) == (2, "")
        assert "--force" in done.stderr
        assert (tmp_path / "diary.html").read_text() == "<p>Dear diary"

    def test_a_bad_photo_leaves_nothing(self, bundle: Bundle, sources: list[Path], tmp_path: Path) -> None:
        sources[1].write_text("no photo")
        done = self.demo(tmp_path, *sources, "--bundle", bundle.path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert [entry.name for entry in tmp_path.iterdir()] == ["photos"]

    @pytest.mark.slow
    def test_a_module_in_the_folder_is_not_taken_for_ours(
        self, bundle: Bundle, sources: list[Path], tmp_path: Path
    ) -> None:
        if sys.version_info < (3, 11):
            pytest.skip("PYTHONSAFEPATH is of Python 3.11")
        (tmp_path / "uvicorn.py").write_text("raise SystemExit('not this one')")
        code = "from bottlenet.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, "demo", sources[0], "--bundle", bundle.path, "--json"],
            capture_output=True,
            cwd=tmp_path,
            env=ENVIRONMENT,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0


def test_the_edge_of_the_demo_is_the_real_one(
    bundle: Bundle, sources: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []
    real: Callable[..., Prediction] = Edge.classify

    def noted(self: Edge, photo: Path) -> Prediction:
        calls.append(photo)
        return real(self, photo)

    monkeypatch.setattr(Edge, "classify", noted)
    run_demo(bundle, sources[:1])
    assert calls == sources[:1] * 4  # one to warm up, three that are measured
