"""tables.bin: what is written is read, what is damaged is refused; and tables that are counted."""

from __future__ import annotations

import itertools
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bottlenet.errors import BundleError, InputError
from bottlenet.wire import tables as tables_module
from bottlenet.wire.entropy import Entropy
from bottlenet.wire.mosaic import Mosaic
from bottlenet.wire.tables import Bins, Tables, fit_tables, parse_tables
from latents import flat_tables, golden_tables, random_tables, realistic_latents

quick = settings(max_examples=100, deadline=None)

SMALL_BINS = Bins((1,), (), (), ())
PASSES = [(channel, plane) for plane in range(5) for channel in range(6)]


def small(**changes: object) -> Tables:
    """2 x 3 x 3, three passes, two rows each."""
    values: dict[str, object] = {
        "channels": 2,
        "height": 3,
        "width": 3,
        "passes": ((1, 0), (0, 0), (1, 1)),
        "bins": SMALL_BINS,
        "flags": np.full((3, 2), 2**15, np.uint16),
        "frequencies": np.tile(np.array([16384, 32768, 16384], np.uint16), (3, 4, 1)),
    }
    return Tables(**{**values, **changes})  # type: ignore[arg-type]


def put(data: bytes, start: int, content: bytes) -> bytes:
    return data[:start] + content + data[start + len(content) :]


class TestFile:
    @quick
    @given(st.integers(0, 2**32 - 1))
    def test_what_is_written_is_read(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        tables = random_tables(generator, *(int(each) for each in generator.integers(1, 5, 3)))
        back = parse_tables(tables.to_bytes())
        assert back == tables
        assert back.passes == tables.passes
        assert back.bins == tables.bins
        np.testing.assert_array_equal(back.flags, tables.flags)
        np.testing.assert_array_equal(back.frequencies, tables.frequencies)
        assert back.frequencies.dtype == np.uint16

    def test_depths(self) -> None:
        assert small().depths.tolist() == [1, 2]

    def test_arrays_are_its_own(self) -> None:
        flags = np.full((3, 2), 2**15, np.uint16)
        tables = small(flags=flags)
        flags[:] = 0
        assert tables.flags.all()
        with pytest.raises(ValueError):
            tables.flags[0, 0] = 1

    def test_truncated_at_every_byte(self) -> None:
        data = small().to_bytes()
        for length in range(len(data)):
            with pytest.raises(BundleError) as error:
                parse_tables(data[:length])
            assert "\n" not in str(error.value)
        with pytest.raises(BundleError, match="but their header says"):
            parse_tables(data + b"\0")

    def test_every_changed_byte_is_refused_or_says_something_else(self) -> None:
        original = small()
        data = original.to_bytes()
        for place, change in itertools.product(range(len(data)), (1, 0x80)):
            try:
                assert parse_tables(put(data, place, bytes((data[place] ^ change,)))) != original
            except BundleError as error:
                assert "\n" not in str(error)

    @pytest.mark.parametrize(
        ("start", "content", "says"),
        [
            (0, b"BNTC", "no tables of BottleNet"),
            (4, b"\2", "version 2, this program reads 1"),
            (5, b"\0\0", "for 0 x 3 x 3 symbols"),
            (5, b"\xff" * 6, "for 65535 x 65535 x 65535 symbols"),
            (11, b"\0\0", "their header says"),
            (13, b"\x10", "give a tuple of at most 15"),
            (17, b"\0\0", "state thresholds are"),
            (19, b"\0\2", "pass 0 is channel 2, plane 0"),
            (21, b"\5", "pass 0 is channel 1, plane 5"),
            (21, b"\1", "plane 0 is due"),
            (27, b"\0", "plane 1 is due"),  # twice
            (27, b"\2", "plane 1 is due"),  # a gap
            (28, b"\0\0", "flags hold a 0"),
            (28, b"\0\1", "tables don't sum up: flags add up to 32769"),
            (40, b"\0\0", "frequencies hold a 0"),
            (40, b"\0\1", "tables don't sum up: frequencies add up to 49153; each must give 65536"),
        ],
    )
    def test_tables_that_are_none(self, start: int, content: bytes, says: str) -> None:
        data = put(small().to_bytes(), start, content)
        if content == b"\x10":  # so many that they are all there
            data += bytes(1000)
        with pytest.raises(BundleError, match=says) as error:
            parse_tables(data)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 300

    def test_two_that_sum_up_only_together(self) -> None:
        data = small().to_bytes()
        first, second = struct.unpack_from(">HH", data, 40)
        assert parse_tables(put(data, 40, struct.pack(">HH", first - 1, second + 1))) != small()
        data = put(put(data, 40, struct.pack(">H", first - 1)), 46, struct.pack(">H", first + 1))
        with pytest.raises(BundleError, match="don't sum up"):
            parse_tables(data)

    def test_a_header_that_promises_much_costs_nothing(self) -> None:
        header = struct.pack(">4sB4H4B", b"BNTB", 1, 4000, 64, 64, 65535, 0, 0, 0, 0)
        tracemalloc.start()
        try:
            with pytest.raises(BundleError, match="but their header says"):
                parse_tables(header + bytes(100))
            assert tracemalloc.get_traced_memory()[1] < 100_000
        finally:
            tracemalloc.stop()

    @quick
    @given(st.binary(max_size=300))
    def test_garbage(self, data: bytes) -> None:
        for start in (b"", b"BNTB\1", small().to_bytes()[:17]):
            with pytest.raises(BundleError):
                parse_tables(start + data)


class TestValues:
    @pytest.mark.parametrize("kind", ["state", "even", "odd", "energy"])
    @pytest.mark.parametrize("values", [[1], (0,), (65536,), (2, 2), (3, 1), (1.0,), (True, 2), tuple(range(1, 17))])
    def test_thresholds(self, kind: str, values: object) -> None:
        with pytest.raises(InputError, match=f"{kind} thresholds are .*; give a tuple of at most 15 rising integers"):
            Bins(**{kind: values})  # type: ignore[arg-type]

    def test_rows(self) -> None:
        assert Bins((), (), (), ()).rows == 2
        assert Bins((1,), (1, 2), (1, 2, 3), (1,)).rows == 2 * (3 + 4) * 2

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"channels": 0}, "for 0 x 3 x 3 symbols"),
            ({"height": 3.0}, "for 2 x 3.0 x 3 symbols"),
            ({"height": 5000, "width": 5000}, "at most 16777216 together"),
            ({"passes": ()}, "tables list 0 passes"),
            ({"flags": np.full((3, 2), 2**15)}, "flags are int64"),
            ({"flags": np.full((2, 2), 2**15, np.uint16)}, r"give uint16 of shape \(3, 2\)"),
            ({"frequencies": np.ones((3, 5, 3), np.uint16)}, r"give uint16 of shape \(3, 4, 3\)"),
        ],
    )
    def test_others(self, changes: dict[str, object], says: str) -> None:
        with pytest.raises(InputError, match=says):
            small(**changes)

    def test_too_large_for_its_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tables_module, "MAX_TABLES_BYTES", 100)
        with pytest.raises(InputError, match="take more than 100 bytes; list fewer"):
            small()


class TestFit:
    def test_counted_tables_pay(self) -> None:
        """Others of the same kind take far fewer bytes than with flat tables, and contexts have their part in it."""
        latents = realistic_latents(0, 60, 6, 8, 8)
        sizes = []
        for tables in (
            flat_tables(6, 8, 8),
            fit_tables([latents[20:]], PASSES, bins=Bins((), (), (), ())),
            fit_tables([latents[20:]], PASSES),
        ):
            sizes.append(Entropy(Mosaic(6, 8, 8), tables).round_trip(latents[:20])[1].mean())
        assert sizes[1] < 0.8 * sizes[0]
        assert sizes[2] < 0.97 * sizes[1]

    def test_batches_add_up(self) -> None:
        latents = realistic_latents(0, 12, 6, 4, 5)
        whole = fit_tables([latents], PASSES)
        assert fit_tables(iter([latents[:1], latents[1:5], latents[5:5], latents[5:]]), PASSES) == whole

    def test_the_counts_are_the_shares(self) -> None:
        """One channel, one position: plane 0 is 0, +, +, - in 4 photos of which the first has an empty pass."""
        symbols = np.array([128, 209, 209, 47], np.uint8).reshape(4, 1, 1, 1)
        tables = fit_tables([symbols], [(0, 0)], bins=Bins((), (), (), ()), pull=1e-6)
        np.testing.assert_allclose(tables.flags[0] / 65536, [1.5 / 5, 3.5 / 5], atol=1e-4)
        np.testing.assert_allclose(tables.frequencies[0, 0] / 65536, [1 / 3, 0, 2 / 3], atol=1e-4)

    def test_where_nothing_was_counted_the_pass_and_its_plane_are_the_guess(self) -> None:
        """A channel that copies another's context but was seen once takes after its plane; `pull` says how much."""
        latents = realistic_latents(0, 40, 6, 8, 8)
        latents[1:, 5] = 128
        shy, bold = (fit_tables([latents], PASSES, pull=pull) for pull in (1e4, 1e-3))
        plane = PASSES.index((4, 2)), PASSES.index((5, 2))
        far = [np.abs(np.diff(tables.frequencies[list(plane)].astype(int), axis=0)).mean() for tables in (shy, bold)]
        assert far[0] < far[1] / 2

    def test_symbols_that_never_came_can_be_sent(self) -> None:
        silence = np.full((3, 6, 4, 4), 128, np.uint8)
        codec = Entropy(Mosaic(6, 4, 4), fit_tables([silence], PASSES))
        loud = realistic_latents(0, 1, 6, 4, 4)[0]
        np.testing.assert_array_equal(codec.decode(codec.encode(loud)), loud)

    @pytest.mark.parametrize(
        ("batches", "says"),
        [
            ([], "no symbols"),
            ([np.full((0, 6, 4, 4), 128, np.uint8)], "no symbols"),
            ([np.full((6, 4, 4), 128, np.uint8)], "give uint8"),
            ([np.full((1, 6, 4, 4), 128)], "give uint8"),
            ([np.full((1, 6, 4, 4), 128, np.uint8), np.full((1, 6, 4, 5), 128, np.uint8)], "all alike"),
            ([np.full((1, 6, 4, 4), 6, np.uint8)], "give 7 to 249"),
            ([np.full((1, 5, 4, 4), 128, np.uint8)], "channels are 0 to 4"),
        ],
    )
    def test_what_can_not_be_counted(self, batches: list[np.ndarray], says: str) -> None:
        with pytest.raises(InputError, match=says):
            fit_tables(batches, PASSES)

    def test_pull(self) -> None:
        with pytest.raises(InputError, match="pull is 0; give a number above 0"):
            fit_tables([np.full((1, 6, 4, 4), 128, np.uint8)], PASSES, pull=0)

    def test_golden_tables_are_valid(self) -> None:
        assert parse_tables(golden_tables().to_bytes()) == golden_tables()
