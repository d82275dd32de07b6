"""A payload within a budget is the best there is, or there is an error that says what would do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bottlenet.errors import InputError
from bottlenet.wire.codecs import CODES, Codec, Deflate, Jpeg, Raw, WebP, encode_within, make_codec
from bottlenet.wire.entropy import Entropy
from bottlenet.wire.mosaic import Mosaic
from latents import flat_tables, realistic_latents

MOSAIC = Mosaic(6, 8, 8)
TABLES = flat_tables(6, 8, 8)
SYMBOLS = realistic_latents(0, 1, 6, 8, 8)[0]
CODECS = [Raw(MOSAIC), Deflate(MOSAIC, 6), Jpeg(MOSAIC, 40), WebP(MOSAIC, 30), Entropy(MOSAIC, TABLES)]
BY_NAME = {codec.name: codec for codec in CODECS}


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(CODECS), st.integers(1, 600))
def test_fits_and_a_receiver_can_read_it(codec: Codec, budget: int) -> None:
    try:
        within = encode_within(codec, SYMBOLS, budget)
    except InputError as error:
        smallest = int(str(error).split(" has ")[1].split(":")[0])
        assert smallest > budget
        assert len(encode_within(codec, SYMBOLS, smallest).payload) == smallest
        return
    assert len(within.payload) <= budget
    assert within.codec == codec.code
    receiver = make_codec(CODES[within.codec], MOSAIC, within.setting, TABLES)
    assert receiver.decode(within.payload).shape == SYMBOLS.shape


@pytest.mark.parametrize("codec", CODECS)
def test_with_room_for_all_nothing_changes(codec: Codec) -> None:
    within = encode_within(codec, SYMBOLS, 10_000)
    assert within.payload == codec.encode(SYMBOLS)
    assert within.setting == codec.setting


@pytest.mark.parametrize(("name", "kind", "own"), [("jpeg", Jpeg, 40), ("webp", WebP, 30)])
def test_the_finest_quality_that_fits(name: str, kind: type[Jpeg] | type[WebP], own: int) -> None:
    sizes = {quality: len(kind(MOSAIC, quality).encode(SYMBOLS)) for quality in range(kind.settings[1], own + 1)}
    assert len(set(sizes.values())) > 5
    for budget in range(min(sizes.values()), max(sizes.values()) + 5):
        within = encode_within(BY_NAME[name], SYMBOLS, budget)
        assert within.setting == max(quality for quality, size in sizes.items() if size <= budget)
        assert len(within.payload) == sizes[within.setting]


def test_an_embedded_payload_is_cut() -> None:
    codec = BY_NAME["entropy"]
    for budget in (1, 17, 100):
        assert encode_within(codec, SYMBOLS, budget).payload == codec.encode(SYMBOLS)[:budget]


@pytest.mark.parametrize(
    ("name", "budget", "smallest"),
    [("raw", 383, 384), ("entropy", 0, 1), ("jpeg", 1, None), ("webp", 1, None), ("deflate", 1, None)],
)
def test_nothing_fits(name: str, budget: int, smallest: int | None) -> None:
    number = r"\d+" if smallest is None else smallest
    text = f"budget is {budget} bytes; the smallest payload of this photo has {number}: give more"
    with pytest.raises(InputError, match=text):
        encode_within(BY_NAME[name], SYMBOLS, budget)


@pytest.mark.parametrize("codec", CODECS)
def test_symbols_of_another_shape(codec: Codec) -> None:
    with pytest.raises(InputError, match="give uint8 of shape"):
        encode_within(codec, np.zeros((6, 8, 9), np.uint8), 600)
