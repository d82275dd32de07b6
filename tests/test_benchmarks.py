"""Every script in benchmarks/ runs on little input, and records what it should and nothing about this machine."""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import bottlenet
from bottlenet.bundle import Bundle, write_bundle
from bottlenet.bundle.manifest import Exit
from bottlenet.edge.prediction import Object
from bottlenet.measure.evaluate import evaluate
from bottlenet.net.export import to_onnx
from bottlenet.report import sources as curve
from brokers import broker, needs_mosquitto
from conftest import CLASSES, needs_ray
from small import save_photos, telling

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

# 64 channels at the cut: no fewer than a unit keeps.
TINY_CLASSIFIER = """
from torch import nn
from bottlenet.bundle import Preprocess

def build():
    module = nn.Sequential(
        nn.Conv2d(3, 64, 3, stride=4, padding=1), nn.ReLU6(), nn.Conv2d(64, 16, 3, padding=1), nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )
    return module, Preprocess(32, 0.875, "bicubic"), (127.0,) * 3, (128.0,) * 3, [str(n) for n in range(10)]
"""


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Path:
    """12 photos, labelled."""
    folder = tmp_path_factory.mktemp("labelled photos")
    rng = np.random.default_rng(5)
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "class_index"])
        for number in range(12):
            small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
            small.resize((64, 48), Image.Resampling.BICUBIC).save(folder / f"{number:02}.jpg")
            rows.writerow([f"{number:02}.jpg", number % CLASSES])
    return folder


def launch(script: str, *arguments: str | Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    python_path = [str(path)] if path else []
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([*python_path, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]),
        },
        timeout=300,
    )


def record(script: str, *arguments: str | Path, out: Path, path: Path | None = None) -> dict:
    """The results of a run that went well."""
    done = launch(script, *arguments, "--out", out, path=path)
    assert done.returncode == 0, done.stderr
    text = (out / script).with_suffix(".json").read_text(encoding="utf-8")
    for secret in {str(Path.home()), str(out), str(out.parent), str(BENCHMARKS.parent), platform.node()}:
        assert len(secret) < 4 or secret not in text
    values = json.loads(text)
    assert set(values) == {"command", "commit", "date", "machine", "results"}
    assert values["command"].startswith(f"python benchmarks/{script} ")
    assert set(values["machine"]) == {"cpu", "cores", "system", "python", "libraries"}
    assert values["machine"]["libraries"]["numpy"] == np.__version__
    assert not list(out.glob(".*"))
    return values["results"]


@pytest.mark.slow
def test_input_codecs(bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    got = record("input_codecs.py", "--data", photos, "--bundle", bundle.path, "--limit", "6", out=tmp_path / "out")
    assert got["evaluation"]["photos"] == 6
    assert got["evaluation"]["top1"] == evaluate(bundle, photos, limit=6).top1
    assert got["bundle_id"] == bundle.id.hex()
    assert got["data"] == photos.name
    coded = got["input_codecs"]
    assert [c["quality"] for c in coded if c["codec"] == "jpeg"] == [2, 5, 10, 20, 50, 75, 95]
    for c in coded:
        assert 0 < c["bare_bytes"] < c["file_bytes"]
        assert 0 <= c["top1"] <= 100
    assert set(got["same_top1"]) == {"file", "bare"}
    drawing = (tmp_path / "out" / "input_codecs.svg").read_text(encoding="utf-8")
    assert "BottleNet" in drawing
    assert "WebP of the input" in drawing


@pytest.mark.slow
def test_pareto(photos: Path, tmp_path: Path) -> None:
    demo = Bundle.load("demo")
    entry = Exit(demo.manifest.uncut_preprocess, 1.0, None, 0.5)
    files = {name: demo.path / name for name in demo.manifest.files}
    own = write_bundle(
        tmp_path / "own", replace(demo.manifest, exit=entry), {**files, "exit.onnx": files["uncut.onnx"]}
    )
    got = record("pareto.py", "--data", photos, "--bundle", f"own={own.path}", "--limit", "4", out=tmp_path / "out")
    rows = {(row["kind"], row["name"]): row for row in got["rows"]}
    assert rows["whole", "224 px"]["flops_share"] == 1
    assert rows["whole", "128 px"]["flops_share"] == pytest.approx(0.33, abs=0.01)
    assert rows["distilled", "own"]["agreement"] == 100  # it is the uncut network
    for budget in (200, 600):
        always = evaluate(own, photos, limit=4, budget=budget, sure=1.0)
        sent = rows["sent", f"own, {budget} bytes"]
        assert (sent["top1"], sent["bytes"]) == (always.top1, always.payload_bytes.mean)
        some = evaluate(own, photos, limit=4, budget=budget, sure=0.4)
        bundle = rows["bundle", f"own, {budget} bytes, sure from 0.40"]
        assert bundle["bytes"] == some.decision_bytes.mean
        assert bundle["flops_share"] == pytest.approx(some.mean_flops_share)
        assert (bundle["sent_share"], bundle["top1"]) == (some.sent_share, some.top1)
    assert [each["most_flops"] for each in got["panels"]] == [0.15, 0.35, 0.5]
    drawing = (tmp_path / "out" / "pareto.svg").read_text(encoding="utf-8")  # few of these photos are named right
    assert "device up to 15% of the FLOPs" in drawing


def test_input_codecs_needs_labels(bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "unlabelled").mkdir()
    (tmp_path / "unlabelled" / "a.jpg").symlink_to(photos / "00.jpg")
    done = launch("input_codecs.py", "--data", tmp_path / "unlabelled", "--bundle", bundle.path, "--out", tmp_path)
    assert done.returncode == 2
    assert "no label" in done.stderr
    assert not (tmp_path / "input_codecs.json").exists()


def test_encode_overhead(bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    got = record(
        "encode_overhead.py", "--data", photos, "--bundle", bundle.path, "--repeats", "5", out=tmp_path / "out"
    )
    assert got["head_to_frame_ms"] > 0
    assert got["ratio"] == got["head_to_frame_ms"] / got["head_ms"]
    assert got["encode_share"] == got["encode_ms"] / got["head_ms"]
    assert got["decode_of_8_share"] == got["decode_of_8_ms"] / got["tail_of_8_ms"]
    assert got["decode_in_python_ms"] > 0
    assert got["frame_bytes"] == evaluate(bundle, photos).frame_bytes.mean


@pytest.mark.slow
def test_changes(bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    small = ["--scenes", "1", "--calibration", "1", "--seconds", "60", "--decoded", "1"]
    places = ["--backgrounds", photos, "--photos", photos, "--bundle", bundle.path]
    got = record("changes.py", *places, *small, out=tmp_path / "out")
    assert got["looks"] == 60
    first, *_, last = got["curve"]
    assert first["sent_frames"] > last["sent_frames"]
    assert first["missed_events"] <= last["missed_events"] <= got["events"]
    assert 0 < got["decoding_1080p"]["key_frames_s"] < got["decoding_1080p"]["all_s"]


@pytest.mark.slow
def test_socket_bytes(bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    got = record("socket_bytes.py", "--data", photos, "--bundle", bundle.path, out=tmp_path / "out")
    assert got["agree"]
    assert got["met"]
    assert got["stream_overhead_bytes"] in (10, 12)
    assert {row["photos"] for row in got["rows"]} == {12}
    assert {row["budget_bytes"] for row in got["rows"]} == {51, 222, 340, None}


@needs_mosquitto
@pytest.mark.slow
def test_mqtt_bytes(bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    with broker(tmp_path / "broker") as at:
        arguments = ("--broker", at.url(), "--data", photos, "--bundle", bundle.path)
        got = record("mqtt_bytes.py", *arguments, out=tmp_path / "out")
    assert got["agree"]
    assert got["met"]
    assert got["overhead_bytes"] in (14, 15)
    assert {row["budget_bytes"] for row in got["rows"]} == {51, 222, 340, None}
    assert got["first_with_opening"]["own"]["up"] > got["rows"][-1]["carried_up_bytes"]


@pytest.mark.slow
def test_load(bundle: Bundle, tmp_path: Path) -> None:
    """How fast it is here and now says nothing."""
    got = record(
        "load.py", "--bundle", bundle.path, "--rounds", "1", "--requests", "400", "--seconds", "0.3",
        "--memory-requests", "2000", "--streams", "20", "--photos", "64", "--latency-rounds", "2", out=tmp_path / "out",
    )  # fmt: skip
    assert [one["what"] for one in got["rates"]] == ["trivial tail, post", "trivial tail, stream", "real tail, stream"]
    for one in got["rates"]:
        assert one["share"] == one["per_s"][0] / one["beside_per_s"][0] > 0
        assert one["met"] == (one["share"] >= one["target"])
    assert set(got["decoder_per_s"]) == {"1", "2", "4", "8", "16"}
    assert [one["arrivals"] for one in got["latency"]] == ["even", "regular", "random"]
    for one in got["latency"]:
        assert one["p99_ms"] >= one["p50_ms"] > 0
        assert one["ideal_p99_ms"] >= one["ideal_p50_ms"] > 0
        assert (len(one["ratios"]), one["photos"]) == (2, 128)
    assert [one["requests"] for one in got["memory"]] == list(range(200, 4001, 200))
    assert got["idle"]["resident_bytes"] > got["idle"]["streams"] == 20


@pytest.mark.slow
def test_server_rate(bundle: Bundle, tmp_path: Path) -> None:
    got = record(
        "server_rate.py", "--bundle", bundle.path, "--before", BENCHMARKS.parent / "src", "--rounds", "1",
        "--photos", "500", out=tmp_path / "out",
    )  # fmt: skip
    assert [row["beside"] for row in got["rows"]] == ["tail", "before"]
    assert all(row["share"] > 0 for row in got["rows"])
    assert {len(rates) for rates in got["photos_per_processor_s"].values()} == {1}
    ways = {row["what"]: row for row in got["ways"]}
    assert set(ways) == {
        "encoder",
        *(f"{tail} tail, {way}" for tail in ("real", "trivial") for way in ("post", "stream")),
    }
    assert all(row["share"] > 0 for row in ways.values())


@pytest.fixture(scope="session")
def tiny_classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the module `tiny_classifier`."""
    folder = tmp_path_factory.mktemp("classifier")
    (folder / "tiny_classifier.py").write_text(TINY_CLASSIFIER)
    return folder


@pytest.mark.slow
def test_codec_in_loop(photos: Path, tiny_classifier: Path, tmp_path: Path) -> None:
    got = record(
        "codec_in_loop.py", "--data", photos, "--model", "tiny_classifier:build", "--cut", "1", "--batch", "4",
        "--steps", "2", out=tmp_path / "out", path=tiny_classifier,
    )  # fmt: skip
    assert (got["cut"], got["batch"], got["pairs_of_steps"]) == ("1", 4, 2)
    assert got["step_ms"] > 0
    assert got["codec_share_alone"] == got["round_trip_ms"] / got["step_ms"]


def test_codec_rate(tmp_path: Path) -> None:
    results = record("codec_rate.py", "--batch", "4", "--rounds", "1", "--threads", "1", out=tmp_path)
    assert [row["latent"] for row in results["rows"]] == [[1, 28, 28], [48, 14, 14]]
    for row in results["rows"]:
        assert 0 < row["codec_share_of_stub_step"] < 1
        assert row["payload_bytes"] > 0
    assert results["met"] == (results["rows"][0]["photos_per_s"] >= results["target_photos_per_s"])


def test_loader_rate(photos: Path, tmp_path: Path) -> None:
    little = ("--size", "32", "--batch", "5", "--batches", "3")  # more than there are: from the first again
    results = record("loader_rate.py", "--data", photos, *little, out=tmp_path / "out")
    assert results["photos"] == 12
    assert results["photos_per_s_per_worker"] > 0


def test_rates_stand_in_the_table_once_they_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import rate_rows

    monkeypatch.setattr(rate_rows, "RESULTS", tmp_path)
    assert rate_rows.rate_figures() == []
    rows = [{"latent": [1, 28, 28], "batch": 256, "photos_per_s": 40_000, "codec_share_at_5000_photos_per_s": 0.125}]
    loader = {"size": 224, "photos_per_s_per_worker": 99}
    for name, results in (("codec_rate", {"rows": rows}), ("loader_rate", loader)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"command": name, "results": results}))
    assert [row[1:] for row in rate_rows.rate_figures()] == [["40,000; 12 %", "codec_rate"], ["99", "loader_rate"]]


@pytest.mark.slow
def test_memory_of_device_and_evaluation(bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    got = record(
        "memory.py", "--data", photos, "--bundle", bundle.path, "--photos", "5", "15", "--jobs", "device", "evaluate",
        out=tmp_path / "out",
    )  # fmt: skip
    assert [one["photos"] for one in got["evaluate"]["runs"]] == [5, 15]
    assert [round(one["megapixels"], 3) for one in got["device"]["runs"]] == [0.003, 12]
    for one in (*got["evaluate"]["runs"], *got["device"]["runs"]):
        assert 10e6 < one["resident_bytes"] <= one["peak_bytes"]
    assert got["device"]["met"]
    assert got["evaluate"]["met"]


@pytest.mark.slow
def test_memory_of_training(photos: Path, tiny_classifier: Path, tmp_path: Path) -> None:
    got = record(
        "memory.py", "--data", photos, "--photos", "720", "--jobs", "train", "--train-steps", "20",
        "--model", "tiny_classifier:build", "--cut", "1", out=tmp_path / "out", path=tiny_classifier,
    )  # fmt: skip
    assert got["train"]["runs"][0]["photos"] == 720
    assert got["train"]["met"]


def test_memory_of_an_installation(bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    packages = tmp_path / "venv" / "lib" / "python3.11" / "site-packages"
    (packages / "large").mkdir(parents=True)
    (packages / "large" / "code.py").write_bytes(bytes(2**20))
    (packages / "small.py").write_bytes(bytes(2**13))
    arguments = ("--data", photos, "--bundle", bundle.path, "--jobs", "device")
    got = record("memory.py", *arguments, "--venv", tmp_path / "venv", out=tmp_path / "out")["install"]
    assert list(got["largest"])[:2] == ["large", "small.py"]
    assert 2**20 <= got["largest"]["large"] < got["bytes"] < 2**21
    done = launch("memory.py", *arguments, "--venv", tmp_path, "--out", tmp_path)
    assert done.returncode == 2
    assert "no site-packages" in done.stderr


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = __import__(name)
    monkeypatch.delitem(sys.modules, name)  # so that no other test meets it
    return module


def test_the_front_and_what_lies_between(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = load("input_codecs", monkeypatch)
    point = curve.Point
    points = [
        point(4000, 80, "d"),
        point(100, 20, "a"),
        point(1000, 60, "c"),
        point(900, 60, "b"),
        point(2000, 40, "x"),
    ]
    assert [p.name for p in curve.front(points)] == ["a", "b", "d"]
    assert measured.bytes_needed(points, 20).bytes == pytest.approx(100)
    assert measured.bytes_needed(points, 60).bytes == pytest.approx(900)
    half_way = measured.bytes_needed(points, 40)
    assert half_way.bytes == pytest.approx((100 * 900) ** 0.5)
    assert half_way.between == ("a", "b")
    for outside in (19.9, 80.1):
        assert measured.bytes_needed(points, outside) == measured.Needed(None, ())


@pytest.mark.parametrize(
    ("codec", "options"), [("jpeg", {"optimize": True}), ("webp", {"method": 6}), ("avif", {"speed": 9})]
)
def test_bare_bytes(codec: str, options: dict, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = load("bare", monkeypatch)
    sizes = []
    for quality in (10, 90):
        file = io.BytesIO()
        Image.fromarray(photo).save(file, codec, quality=quality, **options)
        data = file.getvalue()
        sizes.append(len(data) - bare.bare_bytes(codec, data))
    assert 20 <= sizes[0] < 700
    assert sizes[0] == sizes[1]  # what is left out says nothing about the photo
    with pytest.raises((ValueError, IndexError)):
        bare.bare_bytes(codec, b"\0" * 40)


def test_commands_name_no_place_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("record", monkeypatch)
    monkeypatch.setenv("HOME", "/home/somebody")
    got = module.command(["/x/y/z.py", "--data", "/data/of/me", "--out=/tmp/o", "--n", "3", "../eval", "~/secret"])
    assert got == "python benchmarks/z.py --data me --out=o --n 3 ../eval secret"


@pytest.mark.slow
def test_quick(tmp_path: Path) -> None:
    photos = save_photos(tmp_path / "photos", 24)
    got = record(
        "quick.py", "--train", photos, "--eval", photos, "--model", "small:telling", "--cut", "first", "--fit", "20",
        out=tmp_path / "out", path=Path(__file__).parent,
    )  # fmt: skip
    assert (got["photos_fitted"], got["photos_measured"]) == (15, 5)
    assert got["cpu_s"] > 0
    (curve,) = got["curves"].values()
    assert [row["budget"] for row in curve][-1] == 0
    assert {row["photos"] for row in curve} == {24}


@pytest.mark.slow
def test_onnx_files_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One goes from its cuts to an answer, and one that is not that of the table is named with the reason."""
    script = load("onnx_files", monkeypatch)
    classifier = telling()
    example = torch.zeros(2, *classifier.input_size)
    file = tmp_path / "good.onnx"
    file.write_bytes(to_onnx(classifier.module, example, inputs=["photo"], outputs=["scores"]))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    columns = "name,source,version,path,sha256,classes,settings\n"
    rows = [f'{name},pypi:nets,1,{name}.onnx,{digest},4,"mean=0.5,std=0.25"\n' for name in ("good", "missing")]
    (tmp_path / "table.csv").write_text(columns + "".join(rows))
    monkeypatch.setattr(script, "PUBLIC", tmp_path / "table.csv")
    photos = save_photos(tmp_path / "photos", 24)
    script.public(argparse.Namespace(public=tmp_path, data=str(photos), only="", out=tmp_path))
    good, missing = json.loads((tmp_path / "onnx_public.json").read_text())["results"]["files"]
    assert good["cuts"] >= 3
    assert good["difference"] < 1e-5
    assert good["answer"] in [f"class {number}" for number in range(4)]
    assert good["answer_bytes"] > 0
    assert missing["failed"] == "missing.onnx: it is not there, or not the file of the table; get it from pypi:nets"


@pytest.mark.slow
def test_naive_aware(tmp_path: Path) -> None:
    for label in ("a", "b", "c", "d"):
        save_photos(tmp_path / "photos" / label, 12)
    got = record(
        "naive_aware.py", "--data", tmp_path / "photos", "--eval", tmp_path / "photos", "--runs", tmp_path / "runs",
        "--model", "small:classifier", "--cut", "first", "--channels", "6", "--epochs", "1", "--batch", "8",
        out=tmp_path / "out", path=Path(__file__).parent,
    )  # fmt: skip
    assert got["photos"] == 48
    assert {(row["training"], row["quality"]) for row in got["rows"]} == {
        (training, quality) for training in ("naive", "aware") for quality in (5, 10, 20, 30, 50, 70, 90, 95)
    }
    sizes = [row["payload_bytes"] for row in got["rows"] if row["training"] == "aware"]
    assert sizes == sorted(sizes)  # more bytes at a higher quality
    at = {row["training"]: row["top1"] for row in got["rows"] if row["quality"] == 20}
    assert got["gap_at_training_quality"] == at["aware"] - at["naive"]
    assert "aware" in (tmp_path / "out" / "naive_aware.svg").read_text(encoding="utf-8")
    runs = record("training.py", tmp_path / "runs" / "aware", "--trained-at", "a1b2c3", out=tmp_path / "out")
    assert runs["train_command"].startswith("bottlenet train --model small:classifier --data photos --out aware")
    assert [each["epoch"] for each in runs["passes"]] == [1]


@pytest.mark.slow
def test_privacy(tmp_path: Path) -> None:
    """A bundle that is trained here; a second time nothing is trained again, and the record is the same."""
    save_photos(tmp_path / "photos", 60)
    save_photos(tmp_path / "test", 10)

    def run() -> dict:
        return record(
            "privacy.py", "--data", tmp_path / "test", "--train", tmp_path / "photos", "--work", tmp_path / "work",
            "--no-shipped", "--cut", "first:2", "--channels", "6",
            "--model", "small:classifier", "--budgets", "30", "90",
            "--bundle-epochs", "1", "--crops", "1", "--epochs", "1", "--side", "32", "--width", "8", "--blocks", "1",
            out=tmp_path / "out", path=Path(__file__).parent,
        )  # fmt: skip

    (attacked,) = run()["bundles"]
    assert (attacked["cut"], attacked["learned_from"], attacked["left_out"]) == ("first", 50, 10)
    assert [row["budget"] for row in attacked["rows"]] == [30] * 4 + [90] * 4
    psnr = {row["what"]: row["quality"]["psnr"] for row in attacked["rows"][4:]}
    assert attacked["gain_db"][1]["linear"] == psnr["attacker"] - psnr["linear"]
    with Image.open(tmp_path / "out" / "privacy_first.webp") as picture:
        assert picture.format == "WEBP"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.safetensors")}
    assert run()["bundles"] == [attacked]
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_adversarial(tmp_path: Path) -> None:
    """Two weights; the curve is drawn."""
    save_photos(tmp_path / "photos", 60)
    save_photos(tmp_path / "test", 10)
    got = record(
        "adversarial.py", "--data", tmp_path / "test", "--train", tmp_path / "photos", "--work", tmp_path / "work",
        "--model", "small:telling", "--cut", "first", "--channels", "6", "--budget", "60", "--weights", "0", "1",
        "--epochs", "1", "--batch", "16", "--attack-epochs", "1", "--side", "32", "--width", "8",
        out=tmp_path / "out", path=Path(__file__).parent,
    )  # fmt: skip
    assert [row["weight"] for row in got["rows"]] == [0, 1]
    assert got["rows"][0]["bundle_id"] != got["rows"][1]["bundle_id"]
    assert all(set(row["psnr"]) == {"attacker", "linear, tile by tile", "linear"} for row in got["rows"])
    assert "mean photo" in (tmp_path / "out" / "adversarial.svg").read_text(encoding="utf-8")


@pytest.mark.slow
def test_page(tmp_path: Path) -> None:
    pytest.importorskip("playwright")
    if not shutil.which("chromium"):
        pytest.skip("chromium is not installed")
    if not any((Path(bottlenet.__file__).parent / "cloud" / "page" / "vendor").glob("*.wasm.gz")):
        pytest.skip("npm has not fetched onnxruntime-web: make page")
    out = tmp_path / "out"
    got = record("page.py", "--photos", "2", "--pictures", out, out=out)
    assert got["photos"] == got["same_top1"] == got["pixels_equal"] == got["payload_equal_given_symbols"] == 2
    assert (got["complaints"], got["hosts"]) == (0, 1)
    assert 0 < got["ms"]["head"]["median"] < got["ms"]["head_encode_answer"]["median"]
    for name, width in (("page-desktop", 1180), ("page-phone", 360)):
        assert (out / f"{name}.webp").stat().st_size < 200_000
        with Image.open(out / f"{name}.webp") as picture:
            assert picture.width == width


def test_entropy_identity(tmp_path: Path) -> None:
    got = record("entropy_identity.py", "--latents", "50", out=tmp_path / "out")
    assert got["different"] == 0
    assert got["latents"] == 50
    assert got["digest"] == "c11547d3567ca0bca7c6e1d22d2e79deb4071834745d6b86109672a2338a4476"


def test_entropy_identity_is_that_of_another_numpy() -> None:
    records = [
        json.loads((BENCHMARKS / "results" / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("entropy_identity", "entropy_identity_numpy22")
    ]
    assert len({one["machine"]["libraries"]["numpy"] for one in records}) == 2
    assert len({one["results"]["digest"] for one in records}) == 1
    assert {one["results"]["latents"] for one in records} == {10_000}


def test_tile_padding(bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    got = record("tile_padding.py", "--data", photos, "--bundle", bundle.path, "--limit", "4", out=tmp_path / "out")
    assert got["photos"] == 4
    assert {row["align"] for row in got["rows"]} == {1, 8}
    assert all(row["payload_bytes"] > 0 for row in got["rows"])


@needs_ray
@pytest.mark.slow
def test_engines(bundle: Bundle, tmp_path: Path) -> None:
    """Both engines as commands of their own."""
    little = ("--replicas", "1", "--way", "stream", "--way", "post", "--connections", "2", "--seconds", "0.3")
    results = record("engines.py", "--bundle", bundle.path, *little, "--rounds", "1", out=tmp_path)
    kinds = [(row["engine"], row["way"], row["connections"]) for row in results["rows"]]
    engines = ("embedded", "ray, 1 replica")
    assert kinds == [(engine, way, count) for engine in engines for way in ("stream", "post") for count in (1, 2)]
    for row in results["rows"]:
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["per_s"] > 0
    assert [one["engine"] for one in results["overhead"]] == ["ray, 1 replica"] * 4
    alone = [row for row in results["rows"] if row["way"] == "stream" and row["connections"] == 1]
    (over,) = (one for one in results["overhead"] if one["way"] == "stream" and one["connections"] == 1)
    assert over["added_p50_ms"] == pytest.approx(alone[1]["p50_ms"] - alone[0]["p50_ms"])
    assert over["share_of_rate"] == pytest.approx(alone[1]["per_s"] / alone[0]["per_s"])
    assert 20e6 < results["memory_bytes"]["embedded"] < results["memory_bytes"]["ray, 1 replica"]


@pytest.mark.slow
def test_sweep(tmp_path: Path) -> None:
    save_photos(tmp_path / "photos", 100)
    for label in ("a", "b", "c", "d"):
        save_photos(tmp_path / "eval" / label, 25)
    arguments = (
        "--data", tmp_path / "photos", "--eval", tmp_path / "eval", "--work", tmp_path / "work", "--photos", "100",
        "--model", "small:telling", "--cuts", "stem", "--channels", "1/6", "1/2", "--strides", "1", "2",
        "--epochs", "1", "--batch", "8", "--held-out", "4", "--max-drop", "60",
    )  # fmt: skip
    got = record("sweep.py", *arguments, out=tmp_path / "out", path=Path(__file__).parent)
    rows = {(row["channels"], row["stride"]): row for row in got["rows"]}
    assert set(rows) == {(2, 1), (2, 2), (6, 1), (6, 2)}
    assert rows[6, 1]["payload_bytes"] > rows[2, 2]["payload_bytes"]
    for row in rows.values():
        assert row["top1_drop"] == pytest.approx(row["top1_uncut"] - row["top1"])
        assert row["held_out_photos"] >= 20
    kept = [row for row in rows.values() if row["status"] == "kept"]
    assert [row["cut"] for row in kept] == list(got["kept"])
    assert got["skipping"]["trained"] + got["skipping"]["skipped"] == 4
    assert got["ladder"]["bytes"] > 0


class TestDetector:
    """What needs no pycocotools, which only this benchmark needs."""

    IMAGE = MappingProxyType({"id": 7, "width": 640, "height": 480, "file_name": "a.jpg"})

    @pytest.fixture
    def script(self, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
        return load("detector", monkeypatch)

    def test_labels_are_cut_at_the_square(self, script: ModuleType) -> None:
        def cut(*box: float, crowd: int = 0) -> tuple[list[float], int] | None:
            label = {"image_id": 7, "category_id": 1, "bbox": box, "iscrowd": crowd}
            made = script.square_box(label, self.IMAGE)
            return None if made is None else (made["bbox"], made["iscrowd"])

        assert cut(100, 10, 50, 60) == ([20, 10, 50, 60], 0)
        assert cut(60, 0, 100, 480) == ([0, 0, 80, 480], 0)
        assert cut(0, 0, 120, 10) == ([0, 0, 40, 10], 1)  # a third of it: neither found nor missed
        assert cut(0, 0, 80, 480) is None
        assert cut(100, 10, 50, 60, crowd=1) == ([20, 10, 50, 60], 1)

    def test_boxes_are_shares_of_the_square(self, script: ModuleType) -> None:
        answer = SimpleNamespace(objects=(Object("dog", 1, 0.5, 80.0, 0.0, 320.0, 480.0),))
        np.testing.assert_allclose(script.rows_of(answer, self.IMAGE), [[0, 0, 0.5, 1, 0.5, 1]])

    def test_the_best_pictures_are_compared(self, script: ModuleType) -> None:
        def row(name: str, size: float, value: float) -> object:
            return script.Row(name, size, size - 100, value, value, (value, value), (0.0, 0.0))

        pictures = [row("avif", 1000.0, 20.0), row("jpeg", 5000.0, 25.0), row("webp", 4000.0, 30.0)]
        same = script.compared(row("500 bytes", 500.0, 25.0), pictures, "payload_bytes")
        assert same["between"] == ["avif", "webp"]
        assert same["ratio"] == pytest.approx(4)
        assert script.compared(row("500 bytes", 500.0, 35.0), pictures, "payload_bytes")["ratio"] is None

    def test_another_task_is_refused(self, bundle: Bundle, tmp_path: Path) -> None:
        done = launch("detector.py", "--bundle", bundle.path, "--data", tmp_path, "--out", tmp_path)
        assert done.returncode == 2
        assert "its task is classification; give the bundle of a detector" in done.stderr
