from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bottlenet.bundle import Bundle, write_bundle
from bottlenet.cloud.decoder import Decoder, Scored
from bottlenet.edge.encoder import Encoder
from bottlenet.errors import InputError, PayloadError
from bottlenet.measure import evaluate as evaluate_module
from bottlenet.measure.evaluate import BATCH, Evaluation, evaluate
from bottlenet.photo import photo_to_pixels, prepare, read_photo
from bottlenet.photos.folders import Photo, choose, list_photos
from bottlenet.records import Sizes, sizes
from bottlenet.runtime import open_uncut, run_graph
from bottlenet.wire.frame import HEADER_BYTES
from conftest import CLASSES, MakeBundle, tiny_manifest

MakeFolder = Callable[..., Path]


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Smooth photos of several sizes and kinds, 2 batches and a rest."""
    folder = tmp_path_factory.mktemp("pool")
    rng = np.random.default_rng(3)
    made = []
    for number in range(2 * BATCH + 3):
        small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        photo = small.resize((40 + number, 60 - number), Image.Resampling.BICUBIC)
        made.append(folder / f"{number:02}.{'png' if number % 2 else 'jpg'}")
        (photo if number % 5 else photo.convert("L")).save(made[-1])
    return made


@pytest.fixture
def folder(photos: list[Path], tmp_path: Path) -> Path:
    """The photos without labels."""
    data = tmp_path / "data"
    data.mkdir()
    for photo in photos:
        (data / photo.name).symlink_to(photo)
    return data


def label(folder: Path, classes: Sequence[int]) -> None:
    names = [photo.path.name for photo in list_photos(folder)]
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "class_index"])
        rows.writerows(zip(names, classes, strict=False))


def one_by_one(bundle: Bundle, folder: Path) -> tuple[np.ndarray, np.ndarray, list[int], np.ndarray]:
    """Scores, uncut scores, payload bytes and symbols, the plain way."""
    encoder, decoder, uncut = Encoder(bundle), Decoder(bundle), open_uncut(bundle)
    encoded = [encoder.encode(photo.path) for photo in list_photos(folder)]
    pixels = [photo_to_pixels(photo.path, bundle.manifest.preprocess)[None] for photo in list_photos(folder)]
    return (
        np.concatenate([decoder.scores([one.frame]).scores for one in encoded]),
        np.concatenate([run_graph(uncut, pixels=one) for one in pixels]),
        [len(one.frame.payload) for one in encoded],
        np.stack([one.symbols for one in encoded]),
    )


def test_says_what_encoder_decoder_and_uncut_network_say(bundle: Bundle, folder: Path) -> None:
    scores, uncut, payload_bytes, _ = one_by_one(bundle, folder)
    best = np.argsort(-scores, axis=1)
    classes = [int(row[number % 7]) for number, row in enumerate(best)]  # places 1 to 7 in turn
    label(folder, classes)
    got = evaluate(bundle, folder)
    count = len(classes)
    assert got.photos == got.labelled == count
    assert got.top1 == pytest.approx(100 * np.mean(scores.argmax(1) == classes))
    assert got.top5 == pytest.approx(100 * sum(c in row[:5] for c, row in zip(classes, best, strict=True)) / count)
    assert got.top1_uncut == pytest.approx(100 * np.mean(uncut.argmax(1) == classes))
    assert got.top1_drop == pytest.approx(got.top1_uncut - got.top1)
    assert got.agreement == pytest.approx(100 * np.mean(uncut.argmax(1) == scores.argmax(1)))
    assert 0 < got.top1 < got.top5 < 100
    assert got.payload_bytes == sizes(np.array(payload_bytes))
    assert got.frame_bytes == sizes(np.array(payload_bytes) + HEADER_BYTES)
    assert got.head_flops_share == bundle.manifest.head_flops_share
    assert got.skipped == 0


def test_nothing_is_lost_without_a_lossy_codec(make_bundle: MakeBundle, folder: Path) -> None:
    got = evaluate(make_bundle(codec="raw", setting=0), folder)
    assert got.agreement == 100
    assert got.payload_bytes == Sizes(mean=256, p95=256, max=256)


def test_a_poor_codec_costs_agreement(make_bundle: MakeBundle, folder: Path) -> None:
    poor, good = (evaluate(make_bundle(setting=quality), folder) for quality in (1, 95))
    assert poor.agreement is not None
    assert good.agreement is not None
    assert poor.agreement < good.agreement
    assert poor.payload_bytes.mean < good.payload_bytes.mean


def test_unlabelled(bundle: Bundle, folder: Path) -> None:
    got = evaluate(bundle, folder)
    assert (got.top1, got.top5, got.top1_uncut, got.top1_drop) == (None, None, None, None)
    assert got.agreement is not None
    assert got.labelled == 0
    json.dumps(asdict(got), allow_nan=False)


def test_partly_labelled(bundle: Bundle, folder: Path) -> None:
    scores, _, _, _ = one_by_one(bundle, folder)
    label(folder, [int(scores[0].argmax()), int(scores[1].argmin())])
    got = evaluate(bundle, folder)
    assert (got.top1, got.labelled, got.photos) == (50, 2, len(scores))


def test_both_networks_see_the_pixels_of_the_device(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A JPEG so large that decoding scales it."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.jpg")
    fed: list[np.ndarray] = []

    def watched(session: object, pixels: np.ndarray) -> np.ndarray:
        fed.append(pixels)
        return run_graph(session, pixels=pixels)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluate_module, "run_graph", watched)
    got = evaluate(bundle, tmp_path)
    expected = photo_to_pixels(tmp_path / "large.jpg", bundle.manifest.preprocess)
    assert (expected != prepare(read_photo(tmp_path / "large.jpg"), bundle.manifest.preprocess)).any()
    np.testing.assert_array_equal(fed, [expected[None]])
    assert got.payload_bytes.mean == len(Encoder(bundle).encode(tmp_path / "large.jpg").frame.payload)


def test_bundle_without_the_uncut_network(files: dict[str, bytes], folder: Path, tmp_path: Path) -> None:
    less = {name: content for name, content in files.items() if name != "uncut.onnx"}
    bundle = write_bundle(tmp_path / "small", tiny_manifest(), less)
    label(folder, [0] * 50)
    got = evaluate(bundle, folder)
    assert (got.agreement, got.top1_uncut, got.top1_drop) == (None, None, None)
    assert got.top1 is not None
    with pytest.raises(InputError, match=r"no uncut\.onnx"):
        open_uncut(bundle)


def test_limit_takes_photos_from_all_over_the_folder() -> None:
    photos = [Photo(Path(str(number)), number) for number in range(10)]
    assert [photo.label for photo in choose(photos, 4)] == [0, 2, 5, 7]
    assert choose(photos, None) == choose(photos, 10) == choose(photos, 11) == photos
    for limit in (0, -1):
        with pytest.raises(InputError, match=f"limit is {limit}"):
            choose(photos, limit)


def test_limit(bundle: Bundle, folder: Path) -> None:
    assert evaluate(bundle, folder, limit=BATCH + 1).photos == BATCH + 1


def test_progress_and_memory_go_by_batches(bundle: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    scores = Decoder.scores

    def watched(self: Decoder, frames: Sequence[object]) -> object:
        nonlocal largest
        largest = max(largest, len(frames))
        return scores(self, frames)  # type: ignore[arg-type]

    monkeypatch.setattr(Decoder, "scores", watched)
    seen: list[tuple[int, int]] = []
    got = evaluate(bundle, folder, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(min(BATCH * n, got.photos), got.photos) for n in (1, 2, 3)]
    assert largest == BATCH


def test_same_result_with_more_threads(bundle: Bundle, folder: Path) -> None:
    assert evaluate(bundle, folder, threads=2) == evaluate(bundle, folder)


class TestDamagedPhotos:
    @pytest.fixture
    def many(self, photos: list[Path], tmp_path: Path) -> Path:
        data = tmp_path / "many"
        data.mkdir()
        for number in range(100):
            (data / f"{number:03}.jpg").symlink_to(photos[0])
        return data

    def test_one_in_a_hundred_is_skipped_counted_and_named(
        self, bundle: Bundle, many: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (many / "007.jpg").unlink()
        (many / "007.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
        got = evaluate(bundle, many)
        assert (got.photos, got.skipped) == (99, 1)
        assert "007.jpg" in caplog.text

    def test_one_in_eleven_is_skipped_too(self, bundle: Bundle, many: Path) -> None:
        for number in range(9):
            (many / f"{number:03}.jpg").unlink()
            (many / f"{number:03}.jpg").write_bytes(b"")
        got = evaluate(bundle, many)
        assert (got.photos, got.skipped) == (91, 9)

    def test_most_of_them_are_an_error(self, bundle: Bundle, many: Path) -> None:
        for number in range(51):
            (many / f"{number:03}.jpg").unlink()
            (many / f"{number:03}.jpg").write_bytes(b"")
        with pytest.raises(InputError, match=r"51 of 100 photos are damaged: .*000\.jpg.*001\.jpg"):
            evaluate(bundle, many)

    def test_a_whole_batch(self, bundle: Bundle, many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(evaluate_module, "BATCH", 1)
        (many / "000.jpg").unlink()
        (many / "000.jpg").write_bytes(b"")
        assert evaluate(bundle, many).photos == 99


class TestLabels:
    @pytest.mark.parametrize("number", [CLASSES, 999_999])
    def test_beyond_the_classes(self, bundle: Bundle, folder: Path, number: int) -> None:
        label(folder, [0, number])
        with pytest.raises(InputError, match=rf"class {number}, .* classes 0 to {CLASSES - 1}") as error:
            evaluate(bundle, folder)
        assert "\n" not in str(error.value)

    def test_sub_folders_that_are_the_classes(self, bundle: Bundle, photos: list[Path], tmp_path: Path) -> None:
        for number in range(CLASSES):
            (tmp_path / f"class{number}").mkdir()
            (tmp_path / f"class{number}" / photos[number].name).symlink_to(photos[number])
        assert evaluate(bundle, tmp_path).labelled == CLASSES

    def test_other_sub_folders_are_no_classes(
        self, bundle: Bundle, photos: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for name, photo in zip(("cats", "dogs"), photos, strict=False):
            (tmp_path / name).mkdir()
            (tmp_path / name / photo.name).symlink_to(photo)
        got = evaluate(bundle, tmp_path)
        assert (got.photos, got.labelled, got.top1) == (2, 0, None)
        assert "2 sub-folders are not the 10 classes" in caplog.text

    def test_limit_does_not_change_what_sub_folders_mean(
        self, bundle: Bundle, photos: list[Path], tmp_path: Path
    ) -> None:
        for number in range(CLASSES):
            (tmp_path / f"class{number}").mkdir()
            (tmp_path / f"class{number}" / photos[number].name).symlink_to(photos[number])
        assert evaluate(bundle, tmp_path, limit=3).labelled == 3


def test_missing_folder(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        evaluate(bundle, tmp_path / "nothing")


def test_a_bundle_that_can_not_decode_its_own_frames(
    bundle: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = Decoder.scores

    def wrong(self: Decoder, frames: Sequence[Any]) -> Scored:
        return replace(scores(self, frames), errors=(None, PayloadError("no picture"), *[None] * (len(frames) - 2)))

    monkeypatch.setattr(Decoder, "scores", wrong)
    with pytest.raises(PayloadError, match="no picture"):
        evaluate(bundle, folder)


def test_sizes() -> None:
    assert sizes(np.arange(1, 101)) == Sizes(mean=50.5, p95=95, max=100)
    assert sizes(np.array([7])) == Sizes(mean=7, p95=7, max=7)


def test_fields_that_the_command_line_promises() -> None:
    promised = {"top1", "top5", "agreement", "top1_uncut", "top1_drop", "payload_bytes", "frame_bytes"}
    assert promised | {"head_flops_share", "photos", "skipped"} <= set(Evaluation.__dataclass_fields__)


def test_needs_no_torch() -> None:
    code = "import sys, bottlenet.measure.evaluate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
