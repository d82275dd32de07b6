"""A paper's unit that starts as a projection to principal components and back, as nearly as its shape allows.

    convolution -> norm -> ReLU6 -> 1x1 -> norm -> ReLU6 ~~~ 1x1 -> norm -> ReLU6 -> transposed convolution
    components     to 3 +- 1        pass   3 +- share        pass   to 3 +- 1        components, as loud as they were

A norm that gives 3 +- 1 puts three standard deviations on either side inside ReLU6's 0 to 6, where it is linear. The
paper starts from random weights, and trains 90 epochs on 51,000 photos; so does anybody who has the time. On a few
thousand photos such a unit learns next to nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bottlenet.net.unit import PaperReduction, PaperRestoration

MIDDLE = 3.0  # of ReLU6
Components = tuple[Tensor, Tensor, Tensor]
"""mean (d,), variances (n,), directions (d, n) of patches, d = c * s * s."""


@torch.no_grad()
def start_paper_unit(reduction: PaperReduction, restoration: PaperRestoration, found: Components) -> None:
    """`found` are the components of the features' patches of the unit's stride, c' of them or fewer, largest first."""
    s = reduction.stride
    parts: list[Any] = [*reduction, *restoration]  # the drawing above, from left to right
    spatial, norm, _, channel, latent_norm, _, back_channel, back_norm, _, back_spatial = parts
    c = spatial.in_channels
    # The convolutions have c channels in the middle; of patches one of them has to hold what all places have in common.
    count = min(found[1].numel(), c if s == 1 else c - 1)
    mean = found[0].float().reshape(c, s, s)
    scales = found[1][:count].clamp_min(1e-12).sqrt().float()
    patches = found[2][:, :count].T.float().reshape(count, c, s, s)
    middle = slice(spatial.padding[0], spatial.padding[0] + s)

    spatial.weight[:count] = 0
    spatial.weight[:count, :, middle, middle] = patches
    pass_through(channel, count)
    for each in (norm, latent_norm, back_norm):
        each.weight.fill_(1)
        each.bias.fill_(MIDDLE)
    latent_norm.weight[:count] = scales / scales[0]  # what is loud stays loud, so the codec hears it

    pass_through(back_channel, count)
    loud = scales[:, None, None, None] * patches
    offset = mean - MIDDLE * loud.sum(0)  # (c, s, s): what is there where every component is silent
    back_spatial.weight.zero_()
    back_spatial.bias.zero_()
    back_spatial.weight[:count, :, middle, middle] = loud
    if s > 1:  # a channel that hears nothing is 3 behind its norm
        back_channel.weight[count] = 0
        back_spatial.weight[count, :, middle, middle] = offset / MIDDLE
    else:
        back_spatial.bias.copy_(offset[:, 0, 0])


def pass_through(convolution: nn.Conv2d, count: int) -> None:
    """Make the first `count` outputs of a 1x1 convolution its first `count` inputs."""
    convolution.weight[:count] = 0
    index = torch.arange(count)
    convolution.weight[index, index] = 1
