"""Which trials a sweep needs and which it keeps, without any training."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bottlenet.errors import InputError
from bottlenet.records import Sizes
from bottlenet.train.sweep import (
    Figures,
    Search,
    SweepConfig,
    Trial,
    beaten,
    next_trial,
    open_trials,
    ruled_out,
    winners,
)

CHANNELS, STRIDES, QUALITIES = (1, 2, 4, 8), (1, 2), (10, 20)
CUTS = {"a": 8, "b": 8}  # channels of each


def grid(
    cuts: dict[str, int], channels: Any, strides: tuple[int, ...], qualities: tuple[int, ...]
) -> tuple[Trial, ...]:
    search = Search(tuple(cuts), tuple(map(Fraction, channels)), strides, qualities)
    return search.trials({cut: (count, 7, 7) for cut, count in cuts.items()})


def figures(size: float, drop: float) -> Figures:
    return Figures(100, 0, Sizes(size, int(size), int(size)), max(0, 100 - drop), None, None, drop, "agreement", 0.1)


def world(trial: Trial, loss: float) -> Figures:
    """Bytes and accuracy go one way with c', s and quality."""
    symbols = trial.channels / trial.stride**2 * trial.quality
    return figures(10 * symbols, loss / symbols)


worlds = st.builds(
    lambda loss, cuts: {cut: loss * (1 + i) for i, cut in enumerate(cuts)}, st.floats(1, 2000), st.just("ab")
)


def searched(trials: tuple[Trial, ...], losses: dict[str, float], max_drop: float) -> dict[Trial, Figures]:
    """One after the other, as a sweep does it."""
    results: dict[Trial, Figures] = {}
    while (trial := next_trial(open_trials(trials, results, max_drop))) is not None:
        assert trial not in results
        results[trial] = world(trial, losses[trial.cut])
    return results


@given(worlds, st.floats(0, 100))
def test_what_is_skipped_could_not_win(losses: dict[str, float], max_drop: float) -> None:
    trials = grid(CUTS, CHANNELS, STRIDES, QUALITIES)
    everything = {trial: world(trial, losses[trial.cut]) for trial in trials}
    found = searched(trials, losses, max_drop)
    best, wanted = winners(trials, found, max_drop), winners(trials, everything, max_drop)
    assert best.keys() == wanted.keys()
    for cut, trial in best.items():
        assert everything[trial].payload_bytes == everything[wanted[cut]].payload_bytes
    assert all(ruled_out(trial, found, max_drop) for trial in trials if trial not in found)


@given(worlds, st.floats(0, 100))
def test_it_takes_few_trials(losses: dict[str, float], max_drop: float) -> None:
    """A chain of n is searched in log n; these are sixteen trials a cut, none of them far from a chain."""
    trials = grid(CUTS, CHANNELS, STRIDES, QUALITIES)
    assert len(searched(trials, losses, max_drop)) <= 2 * 9


def test_reasons_name_the_trial_they_rest_on() -> None:
    good, bad = Trial("a", 4, 1, 20), Trial("a", 2, 2, 20)
    results = {good: figures(1234, 1.5), bad: figures(100, 30)}
    assert ruled_out(Trial("a", 8, 1, 20), results, 2) == (
        "more than a-c4-s1-q20, which is within the bound with 1,234 bytes"
    )
    assert ruled_out(Trial("a", 1, 2, 20), results, 2) == "less than a-c2-s2-q20, which loses 30.0 points"
    assert ruled_out(Trial("a", 2, 1, 20), results, 2) is None  # more than the bad, less than the good
    assert ruled_out(Trial("b", 8, 1, 20), results, 2) is None
    assert ruled_out(Trial("a", 8, 2, 10), results, 2) is None  # more channels, but a lower quality


def test_each_value_once_and_cut_by_cut() -> None:
    trials = grid({"b": 8, "a": 8}, (1, 1), (2,), (20,))
    assert [trial.name for trial in trials] == ["b-c1-s2-q20", "a-c1-s2-q20"]


def test_channels_may_be_shares_of_the_cuts() -> None:
    trials = grid({"a": 24, "b": 112}, (Fraction(1, 8), Fraction(1, 100), Fraction(4)), (2,), (20,))
    assert [(trial.cut, trial.channels) for trial in trials] == [
        ("a", 3),
        ("a", 1),
        ("a", 4),
        ("b", 14),
        ("b", 1),
        ("b", 4),
    ]


def test_another_cut_goes_before_one_that_is_busy() -> None:
    trials = grid(CUTS, CHANNELS, (1,), (20,))
    first = next_trial(trials)
    assert first is not None
    assert first.cut == "a"
    second = next_trial(trials, [first])
    assert second is not None
    assert second.cut == "b"
    third = next_trial(trials, [first, second])
    assert third not in (None, first, second)
    assert next_trial(trials, trials) is None
    assert next_trial([]) is None


def test_everything() -> None:
    trials = grid({"a": 8}, CHANNELS, STRIDES, (20,))
    results = {trials[0]: figures(10, 50), trials[1]: figures(5, 60)}
    assert open_trials(trials, results, 2, everything=True) == list(trials[2:])


def test_the_smallest_within_the_bound_is_kept() -> None:
    trials = grid(CUTS, (1, 2, 3), (1,), (20,))
    drops = {trials[0]: (10, 5.0), trials[1]: (20, 2.0), trials[2]: (15, 1.0), trials[3]: (1, 2.1)}
    results = {trial: figures(*values) for trial, values in drops.items()}
    assert winners(trials, results, 2) == {"a": trials[2]}
    assert winners(trials, results, 0.5) == {}


def test_only_what_can_not_be_kept_is_beaten() -> None:
    trials = grid(CUTS, (1, 2, 3, 4), (1,), (20,))
    values = [(10, 5.0), (20, 2.0), (20, 2.0), (30, 3.0), (30, 3.0)]
    results = {trial: figures(*each) for trial, each in zip(trials, values, strict=False)}
    assert beaten(results) == {trials[2], trials[3]}  # of two that are equal one stays; another cut is another race


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4)), min_size=1, max_size=8), st.integers(0, 4))
def test_what_is_kept_is_never_beaten(values: list[tuple[int, int]], max_drop: int) -> None:
    trials = grid({"a": 8}, tuple(range(1, 9)), (1,), (20,))
    results = {trial: figures(*each) for trial, each in zip(trials, values, strict=False)}
    best = winners(trials, results, max_drop)
    left = {trial: each for trial, each in results.items() if trial not in beaten(results)}
    again = winners(trials, left, max_drop)
    assert {cut: results[trial].payload_bytes for cut, trial in best.items()} == {
        cut: results[trial].payload_bytes for cut, trial in again.items()
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cuts": ()}, "no cuts; give one at least"),
        ({"channels": ()}, "no channels"),
        ({"max_drop": 101.0}, "max_drop is 101.0; give points"),
        ({"max_drop": float("nan")}, "max_drop"),
        ({"minutes": 0.0}, "minutes is 0.0; give a time above 0"),
        ({"weights": "int4"}, "float32, int8"),
        ({"threads": 0}, "threads is 0"),
        ({"channels": tuple(range(1, 6000))}, "11998 trials are more than 10000"),
        ({"channels": (Fraction(3, 2),)}, "channels 3/2; give whole numbers, or shares"),
        ({"channels": (0,)}, "channels 0; give whole numbers"),
    ],
)
def test_impossible_searches(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Search(**{"cuts": ("a",), **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": ()}, "no folder of photos"),
        ({"unit": "linear"}, "paper, residual"),
        ({"photos": 0}, "photos is 0; give 1 or more"),
        ({"measured": 0}, "measured is 0"),
    ],
)
def test_impossible_sweeps(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SweepConfig(**{"model": "m", "data": ("d",), **values})  # type: ignore[arg-type]
