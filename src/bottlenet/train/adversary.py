"""An adversary that rebuilds photos while a unit learns, so that the unit learns to give less away.

    latent_hat, photos of this step and those before -> moments -> the best linear map, of 3 x 3 places
    latent_hat of this step -> that map -> photos_hat, small -> e -> -weight * e / (1 + e)

e is the squared error as a share of the photos' variance: 0 is the photos, 1 as good as their mean. The map is fitted
anew at each step, so that it is never behind; a unit that has just learned to hide a thing has hidden it. The bound is
smooth: there is always a gradient, and never more to gain than the weight. Nothing of it is in a bundle.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bottlenet.net.model import BottleNet, in_float32
from bottlenet.privacy.attacker import REACH, Linear, patches, solve, tiles
from bottlenet.train.objective import Step

SIDE = 28  # of a rebuilt photo, pixels, or as large as the latent
MOMENTS_DECAY = 0.98  # of the moments, when those of a step come
PENALTY = 1e-3  # of the map, where the latent's values are about 1


class Adversary(nn.Module):
    """See the drawing above. For latents of (channels, height, width)."""

    products: Tensor  # moving means of x x', where x is what is known of 3 x 3 places, and 1
    outputs: Tensor  # and of x y', where y is a tile of a photo
    seen: Tensor  # how much of a mean they are, 0..1

    def __init__(self, latent: tuple[int, int, int], weight: float) -> None:
        super().__init__()
        channels, height, _ = latent
        self.weight = weight
        self.tile = max(1, SIDE // height)
        inputs = channels * REACH**2 + 1
        self.register_buffer("products", torch.zeros(inputs, inputs, dtype=torch.float64))
        self.register_buffer("outputs", torch.zeros(inputs, 3 * self.tile**2, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))

    def forward(self, latent_hat: Tensor, pixels: Tensor) -> Tensor:
        """Return the adversary's share of the loss, for (B, C, h, w) and the photos (B, S, S, 3) uint8."""
        with in_float32(latent_hat):
            known = latent_hat.float() / loudness(latent_hat)
            size = [self.tile * side for side in known.shape[2:]]
            target = F.interpolate(pixels.permute(0, 3, 1, 2).float() / 255, size, mode="area")
            photos_hat = self.fitted(known.detach(), target)(known)
            share = F.mse_loss(photos_hat, target) / target.var().clamp_min(1e-6)
            return -self.weight * share / (1 + share)

    @torch.no_grad()
    def fitted(self, known: Tensor, target: Tensor) -> Linear:
        """Fit the best map up to now."""
        x, y = patches(known), tiles(target, self.tile)
        self.products.lerp_((x.T @ x).double() / len(x), 1 - MOMENTS_DECAY)
        self.outputs.lerp_((x.T @ y).double() / len(x), 1 - MOMENTS_DECAY)
        self.seen.lerp_(torch.ones_like(self.seen), 1 - MOMENTS_DECAY)
        every = torch.arange(len(self.products), device=x.device)
        return solve(self.products / self.seen, self.outputs / self.seen, PENALTY, every)


def loudness(latent_hat: Tensor) -> Tensor:
    """Measure the latent as a whole, so that one channel may become quiet, as a constant."""
    return latent_hat.detach().float().square().mean().sqrt().clamp_min(1e-3)


def with_adversary(net: BottleNet, step: Step, pixels: Tensor | None) -> Tensor:
    """Add the adversary's share, if there is one, to the loss."""
    if net.adversary is None:
        return step.loss
    assert step.latent_hat is not None
    assert pixels is not None
    return cast(Tensor, step.loss + net.adversary(step.latent_hat, pixels.to(step.latent_hat.device)))
