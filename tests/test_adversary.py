"""A unit that learns to give less away, and the gradient that teaches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.progress import Progress
from torch.nn import functional as F

from bottlenet.errors import InputError
from bottlenet.net.model import BottleNet
from bottlenet.privacy.attacker import as_pixels, fit
from bottlenet.train.adversary import Adversary
from bottlenet.train.config import TrainConfig
from bottlenet.train.runs import CHECKPOINT, export_run, read_tensors, save_checkpoint
from bottlenet.train.train import train
from small import config_of, pixels, save_photos

LATENT = (6, 8, 8)
pytestmark = pytest.mark.slow  # each trains a unit and an attacker


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("adversary")
    save_photos(folder / "photos", 70)
    told = config_of(folder, epochs=20, model="small:telling")
    told = replace(told, unit="paper", quality=90, target_bytes=0.0, lr=1e-2)
    return replace(told, no_cache=True, workers=0, adversarial=3.0)


def run(config: TrainConfig) -> BottleNet:
    with Progress(disable=True) as progress:
        return train(config, progress)


@pytest.fixture(scope="module")
def guarded(base: TrainConfig) -> BottleNet:
    return run(base)


def stopping_after_the_first() -> Callable[..., None]:
    """A `save_checkpoint` that saves, and then stops the run."""

    def save(*arguments: Any) -> None:
        save_checkpoint(*arguments)
        raise KeyboardInterrupt

    return save


def leaked(net: BottleNet) -> float:
    """Share of the photos' variance that a fitted linear map finds in what is sent."""
    photos = torch.from_numpy(pixels(160))
    with torch.no_grad():
        sent = net.forward_features(net.head(photos)).latent_hat
    batches = [(a / sent.std(), b) for a, b in zip(sent.split(40), as_pixels(photos.numpy()).split(40), strict=True)]
    known, wanted = batches[3]
    made = fit(batches[:3], batches[3:]).around(known)
    return 1 - (F.mse_loss(made, wanted) / wanted.var()).item()


@pytest.mark.parametrize("loud", [0.1, 1.0, 50.0])
def test_there_is_a_gradient_from_the_first_step_on_and_it_hides(loud: float) -> None:
    """Against a map that is fitted, and may be far off; a step along it makes photos harder to rebuild."""
    photos = torch.from_numpy(pixels(8))
    latent = (loud * torch.randn(8, *LATENT, generator=torch.manual_seed(0))).requires_grad_()
    losses = []
    for _ in range(2):
        adversary = Adversary(LATENT, 1.0)
        loss = adversary(latent, photos)
        loss.backward()
        losses.append(loss.item())
        assert latent.grad is not None
        assert latent.grad.isfinite().all()
        assert latent.grad.abs().max() * loud > 1e-6
        with torch.no_grad():
            latent -= loud * latent.grad / latent.grad.abs().max()
        latent.grad = None
    assert losses[1] < losses[0]


def test_what_is_known_leaves_little_to_gain() -> None:
    """A latent that is the photos, made smaller; one that is the same everywhere; and a weight."""
    photos = torch.from_numpy(pixels(40))
    small = F.avg_pool2d(as_pixels(photos.numpy()), 4)
    telling, silent = (Adversary((3, 8, 8), 2.0)(one, photos).item() for one in (small, torch.ones_like(small)))
    assert -0.4 < telling < 0
    assert silent == pytest.approx(-1, abs=0.05)  # the mean photo: e is 1


def test_it_lowers_what_a_linear_map_finds(base: TrainConfig, guarded: BottleNet, tmp_path: Path) -> None:
    open_ = run(replace(base, out=str(tmp_path / "run"), adversarial=0.0))
    assert leaked(guarded) < leaked(open_) - 0.05


def test_nothing_of_it_is_in_a_bundle(base: TrainConfig, guarded: BottleNet, tmp_path: Path) -> None:
    assert guarded.adversary is None
    assert any(name.startswith("net.adversary.") for name in read_tensors(Path(base.out))[0])
    bundle, _ = export_run(base.out, tmp_path / "guarded.bundle")
    assert bundle.manifest.latent[0] == LATENT[0]


def test_a_run_that_was_stopped_goes_on_exactly(base: TrainConfig, tmp_path: Path) -> None:
    whole = replace(base, out=str(tmp_path / "whole"), epochs=2)
    run(whole)
    first = replace(whole, out=str(tmp_path / "stopped"))
    with Progress(disable=True) as progress, pytest.MonkeyPatch.context() as patch:
        patch.setattr("bottlenet.train.runs.save_checkpoint", stopping_after_the_first())
        with pytest.raises(KeyboardInterrupt):
            train(first, progress)
    run(first)
    expected, found = (read_tensors(tmp_path / name)[0] for name in ("whole", "stopped"))
    assert (tmp_path / "stopped" / CHECKPOINT).exists()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_it_needs_photos(base: TrainConfig) -> None:
    with pytest.raises(InputError, match="give no_cache"):
        replace(base, no_cache=False)
    with pytest.raises(InputError, match="adversarial is -1"):
        replace(base, adversarial=-1.0)
