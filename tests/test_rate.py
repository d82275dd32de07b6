"""The estimate of JPEG's bytes against JPEG."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from bottlenet.net.unit import JpegRate, block_transform, dct_matrix, joined_bytes, quantization_table
from bottlenet.wire.codecs import Jpeg
from bottlenet.wire.mosaic import Mosaic


@pytest.mark.parametrize("quality", [1, 5, 20, 49, 50, 75, 95, 100])
def test_steps_are_those_in_libjpegs_files(quality, tmp_path):
    path = tmp_path / "grey.jpg"
    Image.new("L", (8, 8)).save(path, quality=quality)
    with Image.open(path) as image:
        table = np.array(image.quantization[0]).reshape(8, 8)
    np.testing.assert_array_equal(quantization_table(quality), table)


def test_cosines_are_orthonormal():
    np.testing.assert_allclose(dct_matrix() @ dct_matrix().T, np.eye(8), atol=1e-12)


def test_a_flat_block_is_its_mean_alone():
    z = block_transform(50) @ np.full(64, 16.0)
    assert z[0] == pytest.approx(8 * 16 / 16)  # a step of 16 at quality 50
    np.testing.assert_allclose(z[1:], 0, atol=1e-12)


def latents(scale: float, count: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return (128 + scale * torch.randn(count, 6, 14, 14, generator=generator)).clamp(0, 255)


def test_estimate_orders_latents_as_jpeg_does():
    mosaic = Mosaic(6, 14, 14)
    codec, rate = Jpeg(mosaic, 50), JpegRate(mosaic, 50)
    symbols = torch.cat([latents(scale) for scale in (2, 5, 10, 20, 40)])
    _, payload_bytes = codec.round_trip(symbols.round().byte().numpy())
    correlation = np.corrcoef(rate(symbols).numpy(), payload_bytes)[0, 1]
    assert correlation > 0.98


def test_silence_costs_nothing():
    assert JpegRate(Mosaic(6, 14, 14), 50)(torch.full((1, 6, 14, 14), 128.0)).item() == 0


def test_joined_bytes_have_the_codecs_value_and_the_estimates_slope():
    symbols = latents(20).requires_grad_()
    estimate = JpegRate(Mosaic(6, 14, 14), 50)(symbols)
    joined = joined_bytes(torch.tensor([100, 200, 300, 400, 100, 200, 300, 400]), estimate)
    assert joined.item() == pytest.approx(250)
    joined.backward()
    louder = symbols + (symbols - 128) * 0.01
    assert ((louder - symbols) * symbols.grad).sum() > 0  # louder costs more
