"""An attacker that rebuilds photos, on a network that learns in a second; and what it is measured with."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bottlenet import cli
from bottlenet.bundle import Bundle
from bottlenet.errors import InputError
from bottlenet.net.build import insert, start_from_components
from bottlenet.net.export import export
from bottlenet.privacy import PrivacyConfig
from bottlenet.privacy import attacker as attacks
from bottlenet.privacy.attacker import Inverter, as_input, as_pixels, fit, side_of
from bottlenet.privacy.measure import encoded, fitting_jpeg, nearest, psnr, scan_bytes, ssim, thumbnails
from bottlenet.privacy.run import TILE, Attack, PrivacyReport, run_attack, side_by_side
from bottlenet.privacy.samples import Samples, divided
from small import SIZE, photo, pixels, save_photos

BUDGETS = (20, 150)


@pytest.fixture(scope="module")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    net = insert("small:telling", cut="first", channels=6, stride=2, codec="entropy")
    start_from_components(net, [net.head(torch.from_numpy(pixels(32)))])
    bundle, _ = export(net.eval(), tmp_path_factory.mktemp("bundles") / "small", pixels=pixels(8))
    return bundle


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PrivacyConfig:
    folder = tmp_path_factory.mktemp("privacy")
    return PrivacyConfig(
        data=(str(save_photos(folder / "photos", 80)),),
        out=str(folder / "attack"),
        budgets=BUDGETS,
        model="small:telling",
        held_out=4,
        shown=2,
        side=SIZE,
        width=8,
        blocks=1,
        crops=4,
        epochs=6,
        lr=5e-3,
    )


@pytest.fixture(scope="module")
def report(small_bundle: Bundle, config: PrivacyConfig) -> PrivacyReport:
    return run_attack(Attack(small_bundle, config))


def test_the_attacker_beats_the_mean_photo(report: PrivacyReport) -> None:
    for budget in BUDGETS:
        assert report.row("attacker", budget).quality.psnr > report.mean_psnr + 1
        assert report.gain(budget, TILE) > -1  # a linear map is nearly the best for one convolution of photos


@pytest.mark.slow
def test_the_attacker_finds_what_no_linear_map_can(config: PrivacyConfig, tmp_path: Path) -> None:
    """Pixels are how far symbols are from 128, whichever way."""
    samples = Samples(tmp_path / "made.samples", (2, 4, 4), 16)
    records = np.zeros(400, samples.dtype)
    records["symbols"] = np.random.default_rng(0).integers(28, 229, (400, 2, 4, 4))
    records["symbols_hat"], records["payload_bytes"] = records["symbols"], 100
    far = np.abs(records["symbols"].astype(int) - 128).mean(1)
    records["pixels"] = np.repeat(np.repeat(2 * far[..., None], 4, 1), 4, 2)
    samples.make(iter([records]), 400, lambda done, total: None)
    made = attacks.train_attacker(samples, replace(config, width=16, epochs=12), None, lambda done, total: None)
    found, linear = (made.rebuilt(records, each) for each in (made.inverter, made.inverter.fitted))
    assert psnr(found, records["pixels"]) > psnr(linear, records["pixels"]) + 2


def test_more_bytes_give_more_away(report: PrivacyReport) -> None:
    few, many = (report.row("attacker", budget).quality for budget in BUDGETS)
    assert many.psnr > few.psnr
    assert many.ssim > few.ssim
    assert many.matched_by_pixels >= few.matched_by_pixels
    assert many.matched_by_pixels > 100 / report.originals.photos


def test_a_row_says_what_was_sent(report: PrivacyReport) -> None:
    for budget in BUDGETS:
        assert report.row("attacker", budget).sent_bytes <= budget
        jpeg = report.row("jpeg", budget)
        assert (jpeg.quality is None) == (jpeg.missing == report.originals.photos)
        assert jpeg.sent_bytes is None or jpeg.sent_bytes <= budget


def test_the_originals_are_what_nothing_beats(report: PrivacyReport) -> None:
    assert report.originals.psnr == 100
    assert report.originals.ssim == pytest.approx(1)
    assert report.originals.matched_by_pixels == 100
    assert report.originals.right_label is None  # the folder has no labels


@pytest.mark.slow
def test_the_same_seed_gives_the_same_attacker(small_bundle: Bundle, config: PrivacyConfig, tmp_path: Path) -> None:
    short = replace(config, epochs=1)
    first, again, other = (
        Attack(small_bundle, replace(short, out=str(tmp_path / name), seed=seed)).attacker.inverter.state_dict()
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_what_is_there_is_not_made_again(
    small_bundle: Bundle, config: PrivacyConfig, report: PrivacyReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("bottlenet.privacy.run.train_attacker", never)
    assert run_attack(Attack(small_bundle, config)) == report
    with pytest.raises(AssertionError, match="trained again"):
        _ = Attack(small_bundle, replace(config, width=4)).attacker


def test_a_damaged_attacker_is_one_line(small_bundle: Bundle, config: PrivacyConfig, tmp_path: Path) -> None:
    small = replace(config, out=str(tmp_path), epochs=1)
    _ = Attack(small_bundle, small).attacker
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="remove it"):
        _ = Attack(small_bundle, small).attacker


def test_photos_that_are_rebuilt_are_not_learned_from(
    small_bundle: Bundle, config: PrivacyConfig, tmp_path: Path
) -> None:
    test = save_photos(tmp_path / "test", 30)
    (test / "000.png").rename(test / "another name.png")
    found = divided(small_bundle, replace(config, test=str(test)))
    assert found.left_out == 30
    assert len(found.train) == 50
    own = divided(small_bundle, config)
    assert not {photo.path for photo in own.train} & {photo.path for photo in own.test}
    assert len(own.test) == len(own.train) // 3 or len(own.train) + len(own.test) == 80


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ()}, "no folder of photos"),
        ({"side": 8}, "side is 8; give 16 to 512"),
        ({"lr": 0.0}, "lr is 0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"perceptual": -1.0}, "perceptual is -1.0"),
        ({"budgets": (0,)}, "a budget of 0 bytes"),
        ({"budgets": tuple(range(1, 20))}, "19 budgets"),
    ],
)
def test_numbers_that_cannot_be(config: PrivacyConfig, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(config, **changes)


def test_folders_that_cannot_be(small_bundle: Bundle, config: PrivacyConfig, tmp_path: Path) -> None:
    few = save_photos(tmp_path / "few", 5)
    with pytest.raises(InputError, match="photos to learn from"):
        Attack(small_bundle, replace(config, data=(str(few),)))
    with pytest.raises(InputError, match="no such folder"):
        Attack(small_bundle, replace(config, test=str(tmp_path / "none")))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't make this folder"):
        Attack(small_bundle, replace(config, out=str(tmp_path / "file" / "out")))


def test_a_network_that_is_not_here(make_bundle, config: PrivacyConfig, tmp_path: Path) -> None:
    other = replace(config, budgets=(), model="", out=str(tmp_path))
    with pytest.raises(InputError, match="unknown model 'means'"):
        _ = Attack(make_bundle(codec="raw", setting=0), other).attacker


def test_pixels_alone_need_no_network(make_bundle, config: PrivacyConfig, tmp_path: Path) -> None:
    """And a bundle whose payload has one size is attacked at that."""
    alone = replace(config, budgets=(), out=str(tmp_path), perceptual=0.0, epochs=1)
    found = run_attack(Attack(make_bundle(codec="raw", setting=0), alone))
    row = found.row("attacker", None)
    assert row.sent_bytes == 4 * 8 * 8
    assert row.quality.psnr > found.mean_psnr + 1


class TestCommand:
    def run(self, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["bottlenet", "privacy", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    def options(self, config: PrivacyConfig) -> list[object]:
        names = ("model", "held_out", "shown", "side", "width", "blocks", "crops", "epochs", "lr")
        numbers = [(f"--{name.replace('_', '-')}", getattr(config, name)) for name in names]
        return ["--data", config.data[0], "--out", config.out, *(part for pair in numbers for part in pair)]

    def test_json_and_pictures(self, small_bundle, config, report, monkeypatch, capsys) -> None:
        given = [small_bundle.path, *self.options(config), "--budget", 20, "--budget", 150]
        assert self.run(monkeypatch, *given, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert [row["what"] for row in found["rows"]] == ["attacker", "linear, tile by tile", "linear", "jpeg"] * 2
        assert found["gain_db"][1]["linear"] == pytest.approx(report.gain(150))
        assert "Another one may do better" in found["measured_against"]
        with Image.open(found["pictures"]) as picture:
            assert picture.width > 5 * SIZE
        assert self.run(monkeypatch, *given) == 0
        shown = capsys.readouterr().out
        assert "this attacker" in shown
        assert f"{report.row('linear', 20).quality.psnr:.1f}" in shown

    def test_without_a_budget(self, small_bundle, config, tmp_path, monkeypatch, capsys) -> None:
        quick = replace(config, out=str(tmp_path), epochs=1, crops=1)
        assert self.run(monkeypatch, small_bundle.path, *self.options(quick), "--json") == 0
        assert json.loads(capsys.readouterr().out)["rows"][0]["budget"] is None

    def test_what_is_wrong_is_one_line(self, small_bundle, config, monkeypatch, capsys) -> None:
        assert self.run(monkeypatch, small_bundle.path, *self.options(config), "--limit", 1) == 2
        assert capsys.readouterr().err == "error: limit is 1; give 2 to 10000\n"


class TestLinear:
    def test_finds_a_linear_map(self) -> None:
        rng = np.random.default_rng(0)
        symbols = rng.integers(0, 256, (64, 3, 4, 4), dtype=np.uint8)
        sent = as_input(symbols, np.full(64, 100), torch.full((3,), 60.0))
        tiles = torch.nn.functional.conv2d(sent, torch.randn(12, 4, 1, 1, generator=torch.manual_seed(0)) * 0.05)
        photos = torch.nn.functional.pixel_shuffle(tiles, 2) + 0.5
        made = fit([(sent[:48], photos[:48])], [(sent[48:], photos[48:])])
        for each in (made.tile, made.around):
            assert torch.nn.functional.mse_loss(each(sent[48:]), photos[48:]) < 1e-4

    def test_what_is_around_helps(self) -> None:
        rng = np.random.default_rng(0)
        sent = as_input(rng.integers(0, 256, (64, 1, 4, 4), dtype=np.uint8), np.full(64, 100), torch.ones(1) * 60)
        photos = torch.roll(sent[:, :1], 1, 3).expand(-1, 3, -1, -1)
        made = fit([(sent, photos)], [(sent, photos)])
        tile, around = (torch.nn.functional.mse_loss(each(sent), photos) for each in (made.tile, made.around))
        assert around < 0.5 * tile

    def test_the_inverter_starts_from_it(self) -> None:
        symbols = np.random.default_rng(0).integers(0, 256, (8, 3, 4, 4), dtype=np.uint8)
        sent = as_input(symbols, np.full(8, 100), torch.full((3,), 60.0))
        wanted = as_pixels(np.random.default_rng(1).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8))
        linear = fit([(sent, wanted)], [(sent, wanted)]).around
        inverter = Inverter(linear, 4, 32, width=8, blocks=1)
        assert torch.allclose(inverter(sent), linear(sent), atol=0.2)
        assert inverter(sent).shape == (8, 3, 32, 32)


@pytest.mark.parametrize(
    ("grid", "most", "side"), [(7, 112, 112), (14, 112, 112), (7, 111, 56), (10, 112, 80), (9, 8, 9)]
)
def test_sides(grid: int, most: int, side: int) -> None:
    assert side_of(grid, most) == side


class TestMeasures:
    def test_psnr(self) -> None:
        one = pixels(1)[0]
        assert psnr(one, one) == 100
        assert psnr(np.full_like(one, 100), np.full_like(one, 110)) == pytest.approx(28.13, abs=0.01)

    @given(st.integers(0, 50), st.integers(1, 60))
    def test_noise_lowers_both(self, seed: int, noise: int) -> None:
        one = photo(seed)
        rng = np.random.default_rng(seed)
        less, more = (
            np.clip(one + rng.normal(0, level, one.shape), 0, 255).astype(np.uint8) for level in (noise, 3 * noise)
        )
        assert 100 > psnr(less, one) > psnr(more, one)
        assert 1 > ssim(less, one) > ssim(more, one)
        assert ssim(one, one) == pytest.approx(1)

    def test_ssim_is_that_of_its_paper(self) -> None:
        """Two flat photos: the luminance term alone is left."""
        dark, light = np.full((32, 32, 3), 100, np.uint8), np.full((32, 32, 3), 150, np.uint8)
        c1 = (0.01 * 255) ** 2
        assert ssim(dark, light) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1))

    def test_matching_finds_what_is_blurred(self) -> None:
        originals = pixels(20)
        blurred = np.stack(
            [
                np.asarray(Image.fromarray(one).resize((8, 8)).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
                for one in originals
            ]
        )
        assert nearest(thumbnails(blurred), thumbnails(originals)).tolist() == list(range(20))


class TestJpeg:
    @given(st.integers(0, 100), st.integers(40, 4000))
    def test_fits_and_decodes(self, seed: int, budget: int) -> None:
        large = np.asarray(Image.fromarray(photo(seed)).resize((64, 64)))
        found = fitting_jpeg(large, budget, 32)
        if found is not None:
            assert found.scan_bytes <= budget
            assert found.pixels.shape == (32, 32, 3)
            assert found.jpeg_side <= 64

    def test_more_bytes_come_nearer(self) -> None:
        large = np.asarray(Image.fromarray(photo(3)).resize((224, 224), Image.Resampling.BICUBIC))
        wanted = np.asarray(Image.fromarray(large).resize((112, 112), Image.Resampling.BICUBIC))
        near = [psnr(fitting_jpeg(large, budget, 112).pixels, wanted) for budget in (100, 400, 3000)]
        assert near == sorted(near)
        assert near[0] < near[2]

    def test_none_fits(self) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        assert fitting_jpeg(noise, 3, 32) is None

    def test_only_the_scan_counts(self) -> None:
        """Headers of two photos of one size and quality are the same."""
        first, second = (encoded(np.ascontiguousarray(one), 50) for one in pixels(2))
        header = len(first) - scan_bytes(first) - 2
        assert first[:header] == second[:header]
        assert first[header - 12 : header - 10] == b"\x00\x0c"  # a colour scan's own header: its length, 12


def test_pictures_say_where_none_fits() -> None:
    file = side_by_side([("original", list(pixels(2))), ("200 bytes,\nJPEG", [None, pixels(1)[0]])], SIZE)
    with Image.open(io.BytesIO(file)) as picture:
        assert picture.format == "WEBP"
        assert picture.size == (4 + 2 * 100, 34 + 2 * 100)


def test_a_head_that_takes_no_such_photos(small_bundle: Bundle) -> None:
    class Fixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Linear(3 * SIZE * SIZE, 8)
            self.last = torch.nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(x.flatten(1)))

    from small import classifier

    with pytest.raises(InputError, match="give --perceptual 0"):
        attacks.Perceived(replace(classifier(), module=Fixed().eval()), "first", SIZE // 2)
