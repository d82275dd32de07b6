"""Other tasks than one label: in the manifest, and from a photo through a server to what is in it."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bottlenet import photo as decode
from bottlenet.bundle import Bundle
from bottlenet.bundle.manifest import parse_manifest
from bottlenet.cloud import Decoder, create_app
from bottlenet.edge import Answered, Edge, Encoder, Prediction, Sender, Spool, photo_to_pixels
from bottlenet.edge.prediction import read_answer
from bottlenet.errors import BundleError, InputError, WireError
from bottlenet.measure.bench import bench
from bottlenet.measure.evaluate import evaluate
from bottlenet.measure.profile import profile
from bottlenet.photo import TURNS, Square, photo_to_crop
from bottlenet.runtime import open_uncut, run_graph
from bottlenet.task import (
    Classification,
    Detection,
    Multilabel,
    Segmentation,
    Task,
    answer_of,
    most_answer_bytes,
    task_values,
)
from bottlenet.wire.answer import MAX_ANSWER_BYTES, Answer, Box, Boxes, Classes, ClassMap, Result, parse_answer
from conftest import CLASSES, Server, tiny_manifest
from other_tasks import COLOURS, EDGES, TASKS, other_bundle
from test_end_to_end import bottlenet, serving, url_of

Make = Callable[[str], Bundle]
QUARTERS = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270)
BACK = dict(zip(QUARTERS, QUARTERS[::-1], strict=True))  # the others undo themselves


@pytest.fixture(scope="module")
def of_task(tmp_path_factory: pytest.TempPathFactory) -> Make:
    made: dict[str, Bundle] = {}

    def make(name: str) -> Bundle:
        if name not in made:
            made[name] = other_bundle(tmp_path_factory.mktemp("tasks") / name, name)
        return made[name]

    return make


def uncut(bundle: Bundle, photo: np.ndarray) -> np.ndarray:
    """What the whole network gives for a photo, run alone."""
    pixels = photo_to_pixels(photo, bundle.manifest.uncut_preprocess)
    return run_graph(open_uncut(bundle), pixels=pixels[None])[0]


class TestManifest:
    def test_one_label_goes_without_saying(self) -> None:
        manifest = tiny_manifest()
        assert manifest.task == Classification()
        assert b"task" not in manifest.to_json()
        assert parse_manifest(manifest.to_json()) == manifest

    @pytest.mark.parametrize("name", TASKS)
    def test_others_come_back(self, name: str, of_task: Make) -> None:
        bundle = of_task(name)
        assert Bundle.load(bundle.path).manifest.task == TASKS[name]
        assert json.loads((bundle.path / "manifest.json").read_bytes())["task"]["name"] == name
        assert b"task" in bundle.manifest.to_json()

    @pytest.mark.parametrize(
        ("values", "says"),
        [
            ("segmentation", "its task is 'segmentation'; give an object with a name"),
            (
                {"name": "classification"},
                "task.name is 'classification'; choose one of multilabel, segmentation, detection",
            ),
            ({"name": "segmentation", "rows": 8}, "it lacks columns"),
            ({"name": "segmentation", "rows": 8, "columns": 8, "more": 1}, "it has an unknown field 'more'"),
            ({"name": "segmentation", "rows": 0, "columns": 8}, "rows is 0; give a number of 1 or more"),
            ({"name": "segmentation", "rows": 2048, "columns": 2048}, "a map of 2048 x 2048; it can have 1 to 1048576"),
            ({"name": "detection", "boxes": 1001, "threshold": 0.5}, "boxes is 1001; give a number of 1000 or less"),
            ({"name": "detection", "boxes": 5, "threshold": 2}, "threshold is 2; give a number of 1 or less"),
            ({"name": "multilabel", "thresholds": [0.5]}, "1 thresholds for 10 classes; give one each"),
            ({"name": "multilabel", "thresholds": ["high"] * 10}, "thresholds.0 is 'high'; give a finite number"),
            ({"name": "multilabel", "thresholds": 0.5}, "thresholds is 0.5; give a list"),
        ],
    )
    def test_what_can_not_be(self, values: object, says: str) -> None:
        document = {**json.loads(tiny_manifest().to_json()), "task": values}
        with pytest.raises(InputError, match=says):
            parse_manifest(json.dumps(document).encode())

    def test_too_many_classes_for_a_map(self) -> None:
        with pytest.raises(InputError, match="a segmentation has 257 classes; give 256 or fewer"):
            tiny_manifest(task=Segmentation(8, 8), num_classes=257)

    def test_a_tail_of_another_task(self, tmp_path: Path) -> None:
        bundle = other_bundle(tmp_path / "bundle", "segmentation", task=Segmentation(8, 9))
        with pytest.raises(BundleError, match=r"its output has shape .*, not output map tensor\(uint8\) of shape"):
            Decoder(bundle)


class TestThroughAServer:
    """With the raw codec, so that nothing is lost: as the whole network, to the digits that travel."""

    @pytest.fixture(params=TASKS)
    def bundle(self, request: pytest.FixtureRequest, of_task: Make) -> Bundle:
        return of_task(request.param)

    def check(self, bundle: Bundle, photo: np.ndarray, found: Prediction) -> None:
        expected = uncut(bundle, photo)
        task = bundle.manifest.task
        if isinstance(task, Segmentation):
            assert found.segments is not None
            assert np.array_equal(found.segments.classes, expected)
            assert sum(each.score for each in found.segments.shares) == pytest.approx(1)
            assert found.label == COLOURS[np.bincount(expected.ravel()).argmax()] == found.top[0].label
            assert found.segments.square == Square(14, 4, 52)
        elif isinstance(task, Detection):
            rows = expected[expected[:, 4] >= 0.2]
            order = rows[np.argsort(-rows[:, 4])]
            assert [each.label for each in found.objects] == [COLOURS[int(row[5])] for row in order] != []
            assert [each.score for each in found.objects] == pytest.approx(order[:, 4], abs=1e-4)
            edges = [(each.left, each.top, each.right, each.bottom) for each in found.objects]
            assert np.array(edges) == pytest.approx(order[:, :4] * 52 + [14, 4, 14, 4], abs=0.01)
        else:
            assert isinstance(task, Multilabel)
            probabilities = 1 / (1 + np.exp(-expected.astype(np.float64)))
            there = {index for index in range(CLASSES) if probabilities[index] >= task.thresholds[index]}
            assert {each.class_index for each in found.top} == there
            assert [each.score for each in found.top] == pytest.approx(
                sorted(probabilities[list(there)])[::-1], abs=1e-4
            )

    def test_a_stream(self, bundle: Bundle, photo: np.ndarray, serve: Callable[..., Server]) -> None:
        with Edge(bundle, serve(create_app([bundle])).url) as edge:
            self.check(bundle, photo, edge.classify(photo))
            for found in edge.classify_many([photo] * 3):
                self.check(bundle, photo, found)

    def test_here(self, bundle: Bundle, photo: np.ndarray) -> None:
        with Edge(bundle, "ws://127.0.0.1:1", fallback="local") as edge:
            self.check(bundle, photo, edge.classify(photo))

    def test_a_frame_and_a_photo_by_http(self, bundle: Bundle, photo_path: Path, serve: Callable[..., Server]) -> None:
        server = serve(create_app([bundle]))
        frame = Encoder(bundle).encode(photo_path).frame.to_bytes()
        replies = []
        for path, body in (("/v1/classify", frame), ("/v1/photo", photo_path.read_bytes())):
            with urllib.request.urlopen(server.http_url + path, data=body, timeout=30) as reply:
                replies.append(parse_answer(reply.read()).result)
        assert replies[0] == replies[1]
        assert replies[0] is not None

    def test_a_spool(
        self, bundle: Bundle, photo: np.ndarray, photo_path: Path, tmp_path: Path, serve: Callable[..., Server]
    ) -> None:
        server = serve(create_app([bundle]))
        for again in (False, True):
            with Edge(bundle, server.url) as edge, Spool(tmp_path / "spool", bundle) as spool:
                direct = edge.classify(photo)
                (answered,) = Sender(edge, spool).send([photo_path])
            assert isinstance(answered, Answered)
            assert (answered.again, answered.top) == (again, direct.top)
            assert len(answered.objects) == len(direct.objects)
            for one, other in zip(answered.objects, direct.objects, strict=True):
                assert one.left * 52 + 14 == pytest.approx(other.left)

    def test_one_bad_frame_costs_nobody_else_the_answer(self, bundle: Bundle, photo: np.ndarray) -> None:
        frame = Encoder(bundle).encode(photo).frame
        bad = frame.__class__(frame.codec, frame.setting, frame.bundle_tag, 1, b"short")
        first, refused, last = Decoder(bundle).answers([frame, bad, frame])
        assert isinstance(refused, WireError)
        assert isinstance(first, Answer)
        assert isinstance(last, Answer)
        assert first.result == last.result

    def test_other_protocols_say_that_they_are_not_for_it(self, bundle: Bundle, serve: Callable[..., Server]) -> None:
        server = serve(create_app([bundle]))
        with urllib.request.urlopen(f"{server.http_url}/v1/bundles", timeout=30) as reply:
            assert json.load(reply)[0]["task"] == bundle.manifest.task.name
        for path, data in (("/v2/models/tiny", None), ("/v2/models/tiny/infer", b"{}")):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(server.http_url + path, data=data, timeout=30)
            with refused.value:
                assert refused.value.code == 400
                assert f"of task {bundle.manifest.task.name}" in json.load(refused.value)["error"]

    def test_what_compares_labels_refuses(self, bundle: Bundle, photo_path: Path) -> None:
        says = f"is for networks that give one label, and this one's task is {bundle.manifest.task.name}"
        for refuse in (
            lambda: evaluate(bundle, photo_path.parent),
            lambda: profile(bundle, photo_path.parent),
            lambda: bench([bundle], photo_path.parent, []),
        ):
            with pytest.raises(InputError, match=says):
                refuse()


class TestCommands:
    @pytest.mark.parametrize("name", TASKS)
    def test_classify_and_decode(self, name: str, of_task: Make, photo_path: Path, tmp_path: Path) -> None:
        bundle = of_task(name)
        maps = ["--maps", tmp_path] if name == "segmentation" else []
        with serving(bundle.path) as process:
            common = ["classify", photo_path, "--to", url_of(process), "--bundle", bundle.path]
            shown, machine = bottlenet(*common), bottlenet(*common, *maps, "--json")
            sent = bottlenet("send", photo_path, "--to", common[3], "--bundle", bundle.path, "--spool", tmp_path / "s")
        for done in (shown, machine, sent):
            assert (done.returncode, done.stderr) == (0, "")
        document = json.loads(machine.stdout)
        (found,) = document["photos"]
        assert document["task"] == name
        assert found["label"] in shown.stdout
        assert f"photo.png: {found['label']}," in sent.stdout
        assert ("objects" in found, "segments" in found) == (name == "detection", name == "segmentation")
        assert bottlenet("encode", photo_path, "-o", tmp_path / "frame", "--bundle", bundle.path).returncode == 0
        map_file = ["--map", tmp_path / "decoded.png"] if name == "segmentation" else []
        decode = ["decode", tmp_path / "frame", "--bundle", bundle.path, *map_file]
        assert found["label"] in bottlenet(*decode).stdout
        decoded = json.loads(bottlenet(*decode, "--json").stdout)
        for one, other in zip(decoded["top"], found["top"], strict=True):
            assert one == {**other, "score": pytest.approx(other["score"], abs=1e-4)}
        if name == "segmentation":
            assert decoded["segments"]["shares"] == found["segments"]["shares"]
            first, second = ((tmp_path / file).read_bytes() for file in ("photo.png.png", "decoded.png"))
            assert first == second
            with Image.open(io.BytesIO(first)) as image:
                assert (image.mode, image.size) == ("P", (8, 8))
                places = np.asarray(image)
            shares = {each["class_index"]: each["score"] for each in found["segments"]["shares"]}
            assert {index: np.mean(places == index) for index in np.unique(places)} == pytest.approx(shares)

    def test_no_map_of_boxes(self, of_task: Make, photo_path: Path, tmp_path: Path) -> None:
        bundle = of_task("detection")
        with serving(bundle.path) as process:
            to = url_of(process)
            done = bottlenet("classify", photo_path, "--to", to, "--bundle", bundle.path, "--maps", tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "error: this bundle's task is detection, which gives no map; give one of a segmentation\n"

    @pytest.mark.parametrize("command", ["evaluate", "profile", "bench"])
    def test_refusals(self, command: str, of_task: Make, photo_path: Path, tmp_path: Path) -> None:
        output = ["-o", tmp_path / "profile"] if command == "profile" else []
        done = bottlenet(command, of_task("detection").path, "--data", photo_path.parent, *output)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: `bottlenet {command}` is for networks that give one label")
        assert done.stderr.count("\n") == 1

    def test_demo_refuses(self, of_task: Make, photo_path: Path, tmp_path: Path) -> None:
        bundle = of_task("segmentation").path
        done = bottlenet("demo", photo_path, "--bundle", bundle, "-o", tmp_path / "page.html")
        assert done.returncode == 2
        assert done.stderr.startswith("error: `bottlenet demo` is for networks that give one label")

    def test_show_names_it(self, of_task: Make) -> None:
        assert "segmentation" in bottlenet("show", of_task("segmentation").path).stdout


class TestResults:
    def test_no_numbers(self) -> None:
        assert Detection(2, 0.1).results(np.full((1, 2, 6), np.nan, np.float32)) == [None]
        assert Multilabel((0.5,)).results(np.full((1, 1), np.nan, np.float32)) == [None]

    def test_boxes_are_put_in_order_and_kept_inside(self) -> None:
        rows = np.array([[[-0.1, 0.2, 1.5, 0.1, 0.3, 2], [0, 0, 1, 1, 0.9, 7], [0, 0, 1, 1, 0.05, 1]]], np.float32)
        (found,) = Detection(3, 0.1).results(rows)
        assert found is not None
        assert [(box.class_index, box.left, box.right) for box in found.boxes] == [(7, 0, 1), (2, 0, 1)]
        assert found.boxes[1].bottom == found.boxes[1].top == pytest.approx(0.2)

    def test_large_logits(self) -> None:
        (found,) = Multilabel((0.5, 0.5)).results(np.array([[-1e30, 1e30]], np.float32))
        assert found == Classes(((1, 1.0),))

    def test_a_class_that_no_answer_holds_costs_one_photo(self) -> None:
        rows = np.zeros((3, 1, 6), np.float32)
        rows[:, 0, 4], rows[:, 0, 5] = 0.9, (-1, 7, 65536)
        assert [found is not None for found in Detection(1, 0.1).results(rows)] == [False, True, False]

    def test_nothing_there(self, of_task: Make) -> None:
        found = read_answer(Answer(0, 0, 0, (), result=Boxes(())), of_task("detection"))
        assert (found.top, found.objects) == ((), ())

    @pytest.mark.parametrize(
        ("name", "result"),
        [
            ("multilabel", Classes(((CLASSES, 0.5),))),
            ("segmentation", ClassMap(1, 2, bytes([0, 4]))),
            ("detection", Boxes((Box(4, 0.5, 0, 0, 1, 1),))),
        ],
    )
    def test_an_answer_that_does_not_fit_the_classes(self, name: str, result: Result, of_task: Make) -> None:
        bundle = of_task(name)
        with pytest.raises(WireError, match=f"does not fit the {len(bundle.labels)} classes"):
            read_answer(Answer(0, 0, 0, (), result=result), bundle)

    @pytest.mark.parametrize("name", TASKS)
    def test_an_answer_of_another_task(self, name: str, of_task: Make) -> None:
        bundle = of_task(name)
        others = [None, Classes(()), ClassMap(1, 1, bytes(1)), Boxes(())]
        for result in others:
            top = ((0, 0.5),) if result is None else ()
            if isinstance(result, TASKS[name].gives):
                read_answer(Answer(0, 0, 0, top, result=result), bundle)
                continue
            with pytest.raises(WireError, match=f"does not fit the task of this bundle, {name}"):
                read_answer(Answer(0, 0, 0, top, result=result), bundle)

    def test_nothing_where_one_label_should_be(self, bundle: Bundle) -> None:
        for answer in (Answer(0, 0, 0, ()), Answer(0, 0, 0, (), result=Classes(()))):
            with pytest.raises(WireError, match="does not fit"):
                read_answer(answer, bundle)

    def test_edges_stay_as_they_are_without_a_photo(self, of_task: Make) -> None:
        boxes = Boxes((Box(0, 1.0, *EDGES[0].tolist()),))
        (one,) = read_answer(Answer(0, 0, 0, (), result=boxes), of_task("detection")).objects
        assert (one.left, one.top, one.right, one.bottom) == tuple(EDGES[0])

    @pytest.mark.parametrize(
        "task", [Classification(), Multilabel((0.0,) * 300), Segmentation(1024, 1024), Detection(9, 0)]
    )
    def test_no_answer_is_larger(self, task: Task) -> None:
        rng = np.random.default_rng(3)
        port = task.output(300)
        if isinstance(task, Segmentation):
            output = rng.integers(0, 256, (1, *port.shape), dtype=np.uint8)
        else:
            output = rng.random((1, *port.shape), dtype=np.float32)
        (found,) = task.results(output)
        assert found is not None
        size = len(answer_of(0, 0, 0, found).to_bytes())
        assert size <= most_answer_bytes(task) <= min(size + 4096, MAX_ANSWER_BYTES)

    def test_values(self) -> None:
        assert task_values(Detection(5, 0.25)) == {"name": "detection", "boxes": 5, "threshold": 0.25}


class TestSquare:
    def test_of_a_turned_photo(self, photo: np.ndarray, tmp_path: Path) -> None:
        preprocess = tiny_manifest().preprocess
        exif = Image.Exif()
        exif[0x0112] = 6  # turned by a quarter
        Image.fromarray(photo).save(tmp_path / "turned.jpg", exif=exif)
        for source, square in (
            (photo, Square(14, 4, 52)),
            (tmp_path / "turned.jpg", Square(4, 14, 52)),
            (Image.fromarray(photo), Square(14, 4, 52)),
        ):
            assert photo_to_crop(source, preprocess)[1] == square

    def test_is_what_the_pixels_show(self, tmp_path: Path) -> None:
        """However a file is turned, and though libjpeg decodes it at an eighth of its sides."""
        preprocess = tiny_manifest().preprocess
        upright = np.zeros((1203, 1610, 3), np.uint8)
        upright[301:601, 403:803] = 255  # top and left edge, and others
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = orientation
            image = Image.fromarray(upright)
            if orientation in TURNS:
                image = image.transpose(BACK.get(TURNS[orientation], TURNS[orientation]))
            image.save(tmp_path / "turned.jpg", exif=exif)
            pixels, square = photo_to_crop(tmp_path / "turned.jpg", preprocess)
            bright = pixels[..., 0] / 255
            size = square.side / preprocess.size  # of a pixel of the result
            height, width = bright.sum(0).max() * size, bright.sum(1).max() * size
            middle = np.argwhere(bright > 0.5).mean(0) + 0.5
            assert (width, height) == (pytest.approx(400, abs=size / 2), pytest.approx(300, abs=size / 2))
            assert square.top + middle[0] * size == pytest.approx(451, abs=size)
            assert square.left + middle[1] * size == pytest.approx(603, abs=size)

    def test_the_file_is_read_once(self, photo_path: Path, of_task: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        encoder, reads = Encoder(of_task("detection")), []
        read = decode.open_source
        monkeypatch.setattr(decode, "open_source", lambda *given: reads.append(given) or read(*given))
        assert encoder.encode(photo_path).square == Square(14, 4, 52)
        assert len(reads) == 1
