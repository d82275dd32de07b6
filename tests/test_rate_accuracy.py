"""benchmarks/rate_accuracy.py: what others send, how rows are counted, and one small comparison from end to end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from bottlenet.bundle import Bundle
from bottlenet.errors import InputError, PayloadError
from bottlenet.measure.evaluate import evaluate
from bottlenet.net.build import insert, start_from_components
from bottlenet.train.config import TrainConfig
from bottlenet.train.runs import Position
from bottlenet.wire.codecs import CODECS, Deflate
from bottlenet.wire.entropy import Entropy
from bottlenet.wire.mosaic import Mosaic
from bottlenet.wire.tables import fit_tables
from small import classifier, pixels, save_photos
from test_benchmarks import BENCHMARKS, photos, record

__all__ = ["photos"]  # a fixture

LABELS = ("a", "b", "c", "d")


@pytest.fixture(scope="module", autouse=True)
def _known_here_alone() -> Iterator[None]:
    """baselines.py adds a codec to CODECS, which other tests must not see."""
    yield
    CODECS.pop("packed", None)


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def baselines(_benchmarks: None) -> ModuleType:
    import baselines

    return baselines


@pytest.fixture
def rows(_benchmarks: None) -> ModuleType:
    import rate_accuracy_rows

    return rate_accuracy_rows


@pytest.fixture
def compare(_benchmarks: None) -> ModuleType:
    import rate_accuracy_compare

    return rate_accuracy_compare


def config(**changes: object) -> TrainConfig:
    base = TrainConfig("small:classifier", ("photos",), "run", "second", learn_from="first", channels=5, stride=2)
    return replace(base, **changes)


@pytest.mark.parametrize("bits", range(1, 9))
def test_packed_bits_are_what_a_latent_has_and_come_back(baselines: ModuleType, bits: int) -> None:
    codec = baselines.Packed(Mosaic(3, 5, 7), bits)
    symbols = np.random.default_rng(bits).integers(0, 2**bits, (3, 5, 7), dtype=np.uint8)
    payload = codec.encode(symbols)
    assert len(payload) == -(-3 * 5 * 7 * bits // 8)
    assert (codec.decode(payload) == symbols).all()
    decoded, sizes = codec.round_trip(symbols[None])
    assert (decoded[0] == symbols).all()
    assert sizes.tolist() == [len(payload)]
    for wrong in (payload[:-1], payload + b"\0"):
        with pytest.raises(PayloadError, match=str(len(payload))):
            codec.decode(wrong)
    if bits < 8:
        with pytest.raises(InputError, match=f"{bits} bits hold up to {2**bits - 1}"):
            codec.encode(symbols | np.uint8(128))


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_coarse_symbols_are_the_middle_of_what_is_left_open(baselines: ModuleType, bits: int) -> None:
    codec = baselines.Coarse(Deflate(Mosaic(4, 8, 8, align=1)), bits)
    symbols = np.random.default_rng(0).integers(0, 256, (4, 8, 8), dtype=np.uint8)
    decoded = codec.decode(codec.encode(symbols))
    assert np.abs(decoded.astype(int) - symbols).max() <= 2 ** (7 - bits)
    assert (decoded >> (8 - bits) == symbols >> (8 - bits)).all()
    batch, sizes = codec.round_trip(symbols[None])
    assert (batch[0] == decoded).all()
    assert sizes.tolist() == [len(codec.encode(symbols))]


def test_each_channel_is_quantised_over_its_own_range(baselines: ModuleType) -> None:
    quantizer = baselines.ChannelQuantizer(4, 3)
    spread = torch.tensor([0.01, 1.0, 100.0])[:, None, None]
    latent = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * spread + 5
    symbols = quantizer.train().quantize(latent)
    assert symbols.min() == 0
    assert symbols.max() == 15
    error = (quantizer.dequantize(symbols) - latent) / spread
    assert (error.square().mean((0, 2, 3)) < 0.02).all()  # 0.0115 is what 16 levels can do at best for a normal one
    before = quantizer.low.clone()
    quantizer.eval().quantize(latent * 2)
    assert (quantizer.low == before).all()


def step_of(baselines: ModuleType, name: str, share: float, **changes: object) -> tuple:
    """A network of the kind, after one backward pass: what it learned from, and the step."""
    torch.manual_seed(0)
    told = config(codec="raw" if name == "Reduced" else "entropy", quality=0, **changes)
    net = baselines.cr_bq(classifier(), told, 4) if name == "Reduced" else insert(classifier(), **told.unit_numbers())
    features = net.head(torch.from_numpy(pixels(8)))
    uncut = classifier().module(net.head[0](torch.from_numpy(pixels(8)))).detach()
    start_from_components(net, [features])
    at = Position(lmbda=told.lmbda)
    objective = getattr(baselines, name)(net, told, at)
    step = objective.step(features, uncut, [None] * 8, share)
    step.loss.backward()
    objective.after(step.distillation, step.payload_bytes, share)
    return net, step, at


def test_what_cr_bq_minimises(baselines: ModuleType) -> None:
    net, step, _ = step_of(baselines, "Reduced", 0.5)
    assert (step.payload_bytes == -(-int(np.prod(net.codec.mosaic.symbols_shape)) * 4 // 8)).all()
    assert step.loss.item() > step.distillation.mean() > 0  # the features' error comes on top
    assert net.reduction.reduction.linear.weight.grad.abs().sum() > 0


def test_entropic_learns_under_noise_and_then_keeps_its_encoder(baselines: ModuleType) -> None:
    net, noisy, _ = step_of(baselines, "Entropic", 0.1, lmbda=0.001, largest_bytes=0.0)
    assert net.reduction.reduction.linear.weight.grad.abs().sum() > 0
    assert net.prior.mean.grad.abs().sum() > 0
    net, rounded, _ = step_of(baselines, "Entropic", 0.9, lmbda=0.001, largest_bytes=0.0)
    assert net.reduction.reduction.linear.weight.grad is None
    assert net.prior.mean.grad is None
    assert net.restoration.linear.weight.grad.abs().sum() > 0
    assert (noisy.payload_bytes > 0).all()
    assert torch.equal(rounded.payload_bytes, noisy.payload_bytes)  # both count rounded symbols
    assert noisy.loss.item() > rounded.loss.item()  # it pays for its bytes


def test_entropic_is_steered_while_its_encoder_learns(baselines: ModuleType) -> None:
    for share, moves in ((0.1, True), (0.9, False)):
        _, _, at = step_of(baselines, "Entropic", share, target_bytes=1.0, lmbda=0.001)
        assert (at.lmbda > 0.001) is moves


def test_the_factorised_tables_need_what_the_symbols_own_entropy_says(baselines: ModuleType) -> None:
    rng = np.random.default_rng(3)
    latents = np.round(rng.laplace(0, 6, (64, 2, 16, 16))).clip(-121, 121)
    symbols = (latents + 128).astype(np.uint8)
    passes = [(channel, plane) for plane in range(5) for channel in range(2)]
    codec = Entropy(Mosaic(2, 16, 16), fit_tables([symbols], passes, bins=baselines.FACTORISED))
    size = np.mean([len(codec.encode(one)) for one in symbols])
    shares = [np.bincount(symbols[:, channel].ravel()) / symbols[:, channel].size for channel in range(2)]
    entropy = sum(-256 * (p[p > 0] * np.log2(p[p > 0])).sum() / 8 for p in shares)
    assert size == pytest.approx(entropy, rel=0.02)


def test_raw_features_lose_nothing_that_matters(baselines: ModuleType, rows: ModuleType) -> None:
    model = classifier()
    batches = [torch.from_numpy(pixels(6))]
    net = baselines.raw_features(model, "first", batches)
    halves = rows.of_net(net, model)
    symbols = halves.symbols(pixels(6))
    decoded = np.stack([net.codec.decode(net.codec.encode(one)) for one in symbols])
    uncut = model.module(net.head[0](batches[0])).detach().numpy()
    assert np.abs(halves.scores(decoded) - uncut).max() < 0.05 * np.abs(uncut).max()
    assert net.codec.mosaic.symbols_shape == (12, 16, 16)


def test_a_payload_that_is_cut_is_what_its_budget_makes(rows: ModuleType) -> None:
    symbols = (np.random.default_rng(0).laplace(0, 9, (3, 4, 7, 7)).round().clip(-121, 121) + 128).astype(np.uint8)
    codec = Entropy(Mosaic(4, 7, 7), fit_tables([symbols], [(c, p) for p in range(5) for c in range(4)]))
    coding = rows.Coding("whole", codec, (8, 40, None))
    assert coding.names() == ["8 bytes", "40 bytes", "whole"]
    assert list(coding.payloads(symbols)) == [
        [codec.encode(one, budget) for one in symbols] for budget in (8, 40, None)
    ]


def test_bytes_at_the_same_accuracy(compare: ModuleType) -> None:
    from bottlenet.report.sources import Point

    ours = compare.Curve("ours", (Point(100, 60, "a"), Point(1000, 80, "b")), ours=True)
    codecs = compare.Curve("codecs", (Point(800, 60, "c"), Point(8000, 80, "d")))
    table = {row.drop: row for row in compare.against_input_codecs([ours], codecs, 80.0)}
    assert list(table) == [10, 9, 8, 7, 6, 5, 4, 3]
    assert table[10].bytes == pytest.approx(1000**0.5 * 100**0.5)
    assert all(row.ratio == pytest.approx(8) for row in table.values())
    assert table[3].between == ("c", "d")
    inside, above = compare.against_others([ours], [compare.Curve("x", (Point(632, 70, "e"), Point(999, 81, "f")))])
    assert inside.share == pytest.approx((100 * 1000) ** 0.5 / 632)
    assert (above.bytes, above.share) == (None, None)


@pytest.mark.slow
def test_a_comparison_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    for label in LABELS:
        save_photos(tmp_path / "photos" / label, 12)
    given = (
        "--data", tmp_path / "photos", "--train", tmp_path / "photos", "--limit", "12", "--model", "small:classifier",
        "--work", tmp_path / "work", "--cache", tmp_path / "cache", "--cut", "second", "--learn-from", "first",
        "--channels", "6", "--jpeg-channels", "6", "--jpeg-stride", "1", "--batch", "8", "--photos-per-run", "24",
        "--table-photos", "8", "--targets", "40", "--cr-bq", "5x3",
    )  # fmt: skip

    def go(*more: str | Path) -> dict:
        return record("rate_accuracy.py", *given, *more, out=tmp_path / "out", path=Path(__file__).parent)

    got = go()
    assert (got["photos"], got["photos_per_run"]) == (12, 24)
    methods = {one["name"]: one for one in got["methods"]}
    assert set(methods) == {
        "raw", "embedded", "fixed-40", "jpeg-aware", "jpeg-naive", "crbq-5x3", "entropic-40"
    }  # fmt: skip
    for one in methods.values():
        assert 0 < one["head_flops_share"] < 2
        assert one["trained_photos"] == (0 if one["name"] == "raw" else 24)
        for each in one["rows"]:
            assert 0 < each["payload_bytes"] <= each["largest_bytes"]
            assert each["drop"] == pytest.approx(got["top1_uncut"] - each["top1"])
    budgets = methods["embedded"]["rows"]
    assert budgets[0]["setting"] == "32 bytes"
    assert budgets[0]["largest_bytes"] <= 32
    assert [each["payload_bytes"] for each in budgets] == sorted(each["payload_bytes"] for each in budgets)
    assert methods["crbq-5x3"]["rows"][0]["largest_bytes"] == -(-5 * 8 * 8 * 3 // 8)
    assert {row["other"] for row in got["same_top1_as_others"]} >= {"CR+BQ", "Entropic-Student-like"}
    assert "Entropic-Student-like" in (tmp_path / "out" / "rate_accuracy.svg").read_text(encoding="utf-8")

    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*.json")}
    (tmp_path / "work" / "crbq-5x3.json").unlink()
    again = go("--input-rows", write_input_rows(tmp_path, got))
    assert again["methods"] == got["methods"]  # what was missing came out as before
    assert again["same_top1_as_input_codecs"]
    unchanged = [path for path, changed in kept.items() if path.stat().st_mtime_ns == changed]
    assert len(unchanged) == len(kept) - 1

    # A head for smaller photos: the untrained features of those fit no tail.
    only = ("--only", "embedded", "crbq-5x3", "entropic-40")
    small = go("--head-size", "16", "--work", tmp_path / "work16", "--photos", "20", *only)
    assert small["config"]["photos"] == 20
    assert [one["name"] for one in small["methods"]] == ["embedded", "crbq-5x3", "entropic-40"]
    shares = {one["name"]: one["head_flops_share"] for one in small["methods"]}
    assert all(shares[name] < 0.5 * methods[name]["head_flops_share"] for name in shares)


def write_input_rows(folder: Path, got: dict) -> Path:
    """As input_codecs.py would."""
    coded = [
        {"codec": "webp", "quality": q, "side": 32, "file_bytes": q + 20, "bare_bytes": q, "top1": float(q)}
        for q in (0.5, 99.5)
    ]
    results = {"evaluation": {"photos": got["photos"], "top1_uncut": got["top1_uncut"]}, "input_codecs": coded}
    path = folder / "input_codecs.json"
    path.write_text(json.dumps({"results": results}))
    return path


def test_a_bundle_is_measured_as_evaluate_does(bundle: Bundle, photos: Path, tmp_path: Path, rows: ModuleType) -> None:
    from rich.progress import Progress

    from bottlenet.photos.folders import photos_for

    labels = [photo.label for photo in photos_for(bundle, photos, None)]
    expected = evaluate(bundle, photos)
    coding = rows.Coding("whole", bundle.codec)
    with Progress(disable=True) as progress:
        uncut = rows.Uncut(labels, labels)
        (got,) = rows.measure(
            rows.of_bundle(bundle), [coding], photos_for(bundle, photos, None), uncut, progress, "tiny"
        )
    assert (got.top1, got.payload_bytes) == (expected.top1, expected.payload_bytes.mean)
    assert got.largest_bytes == expected.payload_bytes.max
    with pytest.raises(InputError, match="12 photos can be read, 3 could before"):
        rows.row("x", [1] * 12, [0] * 12, rows.Uncut([0] * 3, [0] * 3))


def test_other_settings_need_another_folder(tmp_path: Path) -> None:
    from argparse import Namespace

    from rich.progress import Progress

    import rate_accuracy

    save_photos(tmp_path / "photos" / "a", 2)
    save_photos(tmp_path / "photos" / "b", 2)
    given = Namespace(
        work=tmp_path / "work", batch=8, table_photos=8, model="small:classifier", data=str(tmp_path / "photos"),
        limit=None, photos_per_run=16,
    )  # fmt: skip
    with Progress(disable=True) as progress:
        rate_accuracy.Comparison(given, progress)
        given.limit = 3
        with pytest.raises(InputError, match="other settings"):
            rate_accuracy.Comparison(given, progress)
        given.photos_per_run = 7
        with pytest.raises(InputError, match="less than one batch of 8"):
            rate_accuracy.Comparison(given, progress)
