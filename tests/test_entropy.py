"""The codec `entropy`: exact when whole, as exact as can be when cut, and never worse with more bytes.

Every test runs twice: compiled, and in Python.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bottlenet.errors import InputError, PayloadError
from bottlenet.wire import entropy
from bottlenet.wire.entropy import Entropy
from bottlenet.wire.mosaic import Mosaic
from bottlenet.wire.range_coder import Interval, RangeEncoder
from bottlenet.wire.tables import STEPS, Bins, Tables, fit_tables
from latents import (
    GOLDEN_SYMBOLS,
    decisions,
    flat_tables,
    golden_tables,
    random_entropy,
    realistic_latents,
)

SPEC = "".join((Path(__file__).parent.parent / "docs" / "wire.md").read_text(encoding="utf-8").split())
GOLDEN = Entropy(Mosaic(*GOLDEN_SYMBOLS.shape), golden_tables())
GOLDEN_PAYLOAD = "98cd0004cec5c0075ded9379d886d807c4d0d8c861c70ed3618ac58fa9c4"
GOLDEN_CUT = 8

quick = settings(max_examples=100, deadline=None)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def realistic() -> tuple[Entropy, np.ndarray]:
    """16 x 6 x 6, and tables that were counted on others of its kind, the strongest channels first."""
    latents = realistic_latents(0, 40, 16, 6, 6)
    passes = sorted(((c, p) for c in range(16) for p in range(5)), key=lambda each: each[1] + each[0] / 4)
    return Entropy(Mosaic(16, 6, 6), fit_tables([latents[1:]], passes)), latents[0]


@pytest.fixture(params=["compiled", "python"], autouse=True, scope="module")
def coder(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "compiled" and entropy.LIBRARY is None:
        pytest.skip("the codec is not compiled: python hatch_build.py")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "python":
            patch.setattr(entropy, "LIBRARY", None)
        yield request.param


def errors(symbols_hat: np.ndarray, symbols: np.ndarray) -> np.ndarray:
    return np.abs(symbols_hat.astype(int) - symbols)


class TestGolden:
    def test_tables(self) -> None:
        assert hashlib.sha256(golden_tables().to_bytes()).hexdigest() in SPEC
        assert golden_tables().to_bytes()[:67].hex() in SPEC

    def test_payload(self) -> None:
        assert GOLDEN.encode(GOLDEN_SYMBOLS).hex() == GOLDEN_PAYLOAD
        assert GOLDEN_PAYLOAD in SPEC
        assert GOLDEN_SYMBOLS.tobytes().hex() in SPEC
        np.testing.assert_array_equal(GOLDEN.decode(bytes.fromhex(GOLDEN_PAYLOAD)), GOLDEN_SYMBOLS)

    def test_first_bytes(self) -> None:
        cut = GOLDEN.decode(bytes.fromhex(GOLDEN_PAYLOAD)[:GOLDEN_CUT])
        assert cut.tobytes().hex() in SPEC
        assert 0 < errors(cut, GOLDEN_SYMBOLS).max() < errors(np.full_like(cut, 128), GOLDEN_SYMBOLS).max()


class TestWhole:
    @quick
    @given(seeds)
    def test_what_was_listed_comes_back(self, seed: int) -> None:
        codec, symbols = random_entropy(seed)
        back = codec.decode(codec.encode(symbols))
        np.testing.assert_array_equal(back, codec.quantized(symbols))
        for channel, depth in enumerate(codec.tables.depths):
            step = 3 * STEPS[0] if depth == 0 else STEPS[depth - 1]
            assert errors(back[channel], symbols[channel]).max() <= step // 2

    @quick
    @given(seeds)
    def test_the_contexts_are_those_of_the_specification(self, seed: int) -> None:
        """Row by row, against the plain loops in latents.py."""
        codec, symbols = random_entropy(seed)
        encoder = RangeEncoder()
        expected = [(row, outcome) for row, outcome, _, _ in decisions(symbols, codec.tables)]
        rows, outcomes = np.array(expected).T
        encoder.encode(codec._cuts.reshape(-1, 2)[rows], outcomes)
        assert codec.encode(symbols) == encoder.interval().shortest()

    def test_chunks_of_passes_leave_no_trace(
        self, realistic: tuple[Entropy, np.ndarray], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        codec, symbols = realistic
        payload = codec.encode(symbols)
        for passes in (1, 7, 1000):
            monkeypatch.setattr(entropy, "CHUNK_PASSES", passes)
            assert codec.encode(symbols) == payload

    def test_every_symbol_there_is(self) -> None:
        symbols = np.arange(7, 250, dtype=np.uint8).reshape(3, 9, 9)
        codec = Entropy(Mosaic(3, 9, 9), flat_tables(3, 9, 9))
        np.testing.assert_array_equal(codec.decode(codec.encode(symbols)), symbols)

    def test_many_channels(self) -> None:
        """So many passes that the rows of their tables take more than 16 bits to count."""
        tables = flat_tables(200, 2, 3, Bins())
        codec = Entropy(Mosaic(200, 2, 3), tables)
        assert len(tables.passes) * tables.bins.rows > 2**16
        symbols = np.random.default_rng(0).integers(7, 250, (200, 2, 3), dtype=np.uint8)
        np.testing.assert_array_equal(codec.decode(codec.encode(symbols)), symbols)

    def test_silence_is_one_byte_where_it_was_expected(self) -> None:
        silence = np.full((40, 3, 12, 12), 128, np.uint8)
        passes = [(channel, plane) for plane in range(5) for channel in range(3)]
        codec = Entropy(Mosaic(3, 12, 12), fit_tables([silence], passes))
        assert len(codec.encode(silence[0])) == 1
        np.testing.assert_array_equal(codec.decode(codec.encode(silence[0])), silence[0])

    def test_batch(self, realistic: tuple[Entropy, np.ndarray]) -> None:
        codec, _ = realistic
        latents = realistic_latents(1, 3, 16, 6, 6)
        symbols_hat, payload_bytes = codec.round_trip(latents)
        np.testing.assert_array_equal(symbols_hat, latents)
        assert payload_bytes.tolist() == [len(codec.encode(one)) for one in latents]


class TestCut:
    @quick
    @given(seeds, st.integers(1, 80))
    def test_a_budget_gives_the_first_bytes(self, seed: int, budget: int) -> None:
        codec, symbols = random_entropy(seed)
        assert codec.encode(symbols, budget) == codec.encode(symbols)[:budget]

    def test_every_budget(self, realistic: tuple[Entropy, np.ndarray]) -> None:
        codec, symbols = realistic
        payload = codec.encode(symbols)
        for budget in range(1, len(payload) + 3):
            assert codec.encode(symbols, budget=budget) == payload[:budget]

    @pytest.mark.parametrize("budget", [2**31, 2**40, 2**63, 10**30])
    def test_a_budget_beyond_all_payloads(self, coder: str, budget: int, realistic: tuple[Entropy, np.ndarray]) -> None:
        codec, symbols = realistic
        encode = codec._compiled.encode if coder == "compiled" else codec._encode
        assert encode(symbols, budget).shortest()[:budget] == codec.encode(symbols)

    def test_a_budget_saves_work(self, coder: str, realistic: tuple[Entropy, np.ndarray]) -> None:
        codec, symbols = realistic
        encode = codec._compiled.encode if coder == "compiled" else codec._encode
        assert encode(symbols, 30).size < encode(symbols, None).size / 2

    @pytest.mark.parametrize("seed", range(100))
    def test_at_every_byte_all_that_is_certain_is_there(self, seed: int) -> None:
        """A decision is certain if its interval holds all that the first bytes may go on with."""
        codec, symbols = random_entropy(seed, 4)
        encoder = RangeEncoder()
        values = np.full(symbols.shape, 128, np.uint8)
        known = []
        for row, outcome, number, at in decisions(symbols, codec.tables):
            encoder.encode(codec._cuts.reshape(-1, 2)[[row]], np.array([outcome]))
            if number is not None:
                step = STEPS[codec.tables.passes[number][1]]
                values[at] = 128 + round((int(symbols[at]) - 128) / step) * step
            known.append((encoder.interval(), values.copy()))
        payload = codec.encode(symbols)
        for length in range(1, len(payload) + 1):
            certain = [values for interval, values in known if inside(payload[:length], interval)]
            expected = certain[-1] if certain else np.full(symbols.shape, 128, np.uint8)
            np.testing.assert_array_equal(codec.decode(payload[:length]), expected)

    @pytest.mark.parametrize("seed", range(200))
    def test_more_bytes_never_make_a_symbol_worse_than_its_step(self, seed: int) -> None:
        codec, symbols = random_entropy(10_000 + seed, 6)
        check_every_cut(codec, symbols)

    def test_a_realistic_latent_at_every_byte(self, realistic: tuple[Entropy, np.ndarray]) -> None:
        check_every_cut(*realistic)


def inside(data: bytes, interval: Interval) -> bool:
    """Whether every number that begins with `data` lies in the interval."""
    bits, shift = 8 * interval.size, 8 * len(data)
    value = int.from_bytes(data, "big")
    return value << bits >= interval.low << shift and value + 1 << bits <= interval.low + interval.width << shift


def check_every_cut(codec: Entropy, symbols: np.ndarray) -> None:
    """What is known only gets finer, each symbol is the true one rounded to one of the steps, and the end is exact."""
    payload = codec.encode(symbols)
    ladder = np.stack([np.full(symbols.shape, 128), *(rounded(symbols, step) for step in STEPS)])
    before = np.zeros(symbols.shape, int)
    for length in range(1, len(payload) + 1):
        symbols_hat = codec.decode(payload[:length])
        matches = ladder == symbols_hat
        assert matches.any(axis=0).all()
        finest = len(STEPS) - matches[::-1].argmax(axis=0)
        assert (finest >= before).all()
        before = finest
    np.testing.assert_array_equal(symbols_hat, codec.quantized(symbols))


def rounded(symbols: np.ndarray, step: int) -> np.ndarray:
    return (128 + np.round((symbols.astype(int) - 128) / step) * step).astype(np.uint8)


@quick
@given(seeds)
def test_compiling_changes_nothing(seed: int) -> None:
    """benchmarks/entropy_identity.py does the same 10,000 times."""
    codec, symbols = random_entropy(seed)
    payload = codec.encode(symbols)
    cut = payload[: 1 + seed % len(payload)]
    back = codec.decode(cut)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entropy, "LIBRARY", None)
        assert codec.encode(symbols) == payload
        np.testing.assert_array_equal(codec.decode(cut), back)


@quick
@given(seeds, st.binary(min_size=1, max_size=100))
def test_garbage_is_the_same_to_both(seed: int, payload: bytes) -> None:
    codec, _ = random_entropy(seed)
    found = []
    for library in (entropy.LIBRARY, None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(entropy, "LIBRARY", library)
            try:
                found.append(codec.decode(payload).tolist())
            except PayloadError as error:
                found.append(str(error))
    assert found[0] == found[1]


def test_a_carry_runs_through_many_words() -> None:
    """Stay just below 1/2 for long, so that the words are 7f ff ff ... ff, then step over it."""
    channels = 300
    passes = tuple((channel, 0) for channel in range(channels))
    flags = np.full((channels, 2), (50000, 15536), np.uint16)
    frequencies = np.full((channels, 2, 3), (30000, 1, 35535), np.uint16)
    codec = Entropy(Mosaic(channels, 1, 1), Tables(channels, 1, 1, passes, Bins((), (), (), ()), flags, frequencies))
    interval, symbols = Interval(0, 2**64 - 1, 8), []
    for channel in range(channels):  # one position each: a flag, and where it is 1, a trit
        flag, trit, _ = codec._cuts[channel].tolist()
        live = narrowed(interval, flag, 1)
        ends = {128: narrowed(interval, flag, 0), 47: narrowed(live, trit, 0), 209: narrowed(live, trit, 2)}
        around = [symbol for symbol, end in ends.items() if end.low < half(end) < end.low + end.width]
        symbols.append(around[0] if around and channel < channels - 10 else 209)
        interval = ends[symbols[-1]]
    assert interval.low >= half(interval)
    latent = np.array(symbols, np.uint8).reshape(channels, 1, 1)
    payload = codec.encode(latent)
    assert payload == interval.shortest()
    assert payload.startswith(b"\x80" + bytes(20))
    np.testing.assert_array_equal(codec.decode(payload), latent)


def narrowed(interval: Interval, cuts: list[int], outcome: int) -> Interval:
    """By one decision."""
    edges, unit = [0, *cuts, 2**24], interval.width >> 24
    low, width = interval.low + unit * edges[outcome], unit * (edges[outcome + 1] - edges[outcome])
    return (
        Interval(low, width, interval.size) if width >= 2**32 else Interval(low << 32, width << 32, interval.size + 4)
    )


def half(interval: Interval) -> int:
    return 1 << 8 * interval.size - 1


class TestRefused:
    @quick
    @given(seeds, st.binary(max_size=100))
    def test_garbage_is_an_error_or_symbols(self, seed: int, payload: bytes) -> None:
        codec, _ = random_entropy(seed)
        try:
            symbols = codec.decode(payload)
        except PayloadError as error:
            assert "\n" not in str(error)
            return
        assert symbols.shape == codec.mosaic.symbols_shape
        assert symbols.dtype == np.uint8
        assert 7 <= symbols.min() <= symbols.max() <= 249

    def test_a_long_payload_of_a_small_latent(self) -> None:
        codec = Entropy(Mosaic(1, 2, 2), flat_tables(1, 2, 2))
        with pytest.raises(PayloadError, match=r"has \d+ bytes after its end; send none"):
            codec.decode(b"\x55" * 2**20)

    @quick
    @given(seeds, st.binary(min_size=1, max_size=20))
    def test_bytes_after_the_end(self, seed: int, more: bytes) -> None:
        codec, symbols = random_entropy(seed)
        with pytest.raises(PayloadError, match=f"{len(more)} bytes after its end"):
            codec.decode(codec.encode(symbols) + more)

    def test_no_bytes(self) -> None:
        with pytest.raises(PayloadError, match="0 bytes; the smallest has 1"):
            GOLDEN.decode(b"")

    def test_a_reserved_flag(self) -> None:
        with pytest.raises(PayloadError, match="reserved flag in pass 0"):
            GOLDEN.decode(b"\xff\xff\xff\x00\x00\x00\x00\x00\x00")

    @pytest.mark.parametrize(("symbol", "says"), [(6, "from 6 to 128"), (250, "from 128 to 250")])
    def test_symbols_out_of_range(self, symbol: int, says: str) -> None:
        symbols = np.full(GOLDEN_SYMBOLS.shape, 128, np.uint8)
        symbols[1, 2, 3] = symbol
        for action in (GOLDEN.encode, lambda symbols: GOLDEN.round_trip(symbols[None])):
            with pytest.raises(InputError, match=f"{says}; give 7 to 249"):
                action(symbols)

    @pytest.mark.parametrize("budget", [0, -1, 2.0, True])
    def test_budgets(self, budget: int) -> None:
        with pytest.raises(InputError, match="the smallest payload has 1"):
            GOLDEN.encode(GOLDEN_SYMBOLS, budget)

    def test_tables_of_another_latent(self) -> None:
        with pytest.raises(InputError, match=r"of shape \(2, 4, 4\), the latent has \(2, 4, 5\)"):
            Entropy(Mosaic(2, 4, 5), golden_tables())


def test_equal_tables_make_equal_codecs() -> None:
    assert Entropy(GOLDEN.mosaic, golden_tables()) == GOLDEN
    assert hash(Entropy(GOLDEN.mosaic, golden_tables())) == hash(GOLDEN)
    other: Tables = flat_tables(*GOLDEN_SYMBOLS.shape)
    assert Entropy(GOLDEN.mosaic, other) != GOLDEN


def test_a_copy_codes_as_well(realistic: tuple[Entropy, np.ndarray]) -> None:
    """What the compiled codec points to belongs to each codec alone."""
    codec, symbols = realistic
    payload = codec.encode(symbols)
    other = copy.deepcopy(codec)
    assert other.encode(symbols) == payload
    np.testing.assert_array_equal(other.decode(payload), symbols)


def test_symbols_with_gaps_between_them(realistic: tuple[Entropy, np.ndarray]) -> None:
    codec, symbols = realistic
    spread = np.repeat(symbols, 2, axis=2)[..., ::2]
    assert not spread.flags.c_contiguous
    assert codec.encode(spread) == codec.encode(symbols)
