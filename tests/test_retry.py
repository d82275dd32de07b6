"""When to try again, on a clock that the test moves."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bottlenet.edge import Backoff
from bottlenet.errors import InputError

shares = st.floats(0, 1, exclude_max=True)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def made(clock: Clock, share: float = 0.999999, **limits: float) -> Backoff:
    return Backoff(clock=clock, rng=lambda: share, **limits)


def test_it_doubles_up_to_the_cap() -> None:
    backoff = made(Clock(), first_s=1, cap_s=10)
    assert backoff.wait_s == 0
    assert [round(backoff.failed(), 3) for _ in range(6)] == [1, 2, 4, 8, 10, 10]
    assert backoff.wait_s == pytest.approx(10, abs=1e-3)


def test_the_clock_brings_the_next_try_nearer() -> None:
    clock = Clock()
    backoff = made(clock, first_s=4)
    backoff.failed()
    clock.now += 3
    assert backoff.wait_s == pytest.approx(1, abs=1e-3)
    clock.now += 2
    assert backoff.wait_s == 0


def test_success_starts_again() -> None:
    backoff = made(Clock(), first_s=1)
    backoff.failed()
    backoff.failed()
    backoff.worked()
    assert backoff.failed() == pytest.approx(1, abs=1e-3)


@given(st.lists(shares, min_size=1, max_size=40), st.floats(0.01, 5), st.floats(1, 100))
def test_each_wait_is_between_half_of_its_step_and_all_of_it(draws: list[float], first_s: float, factor: float) -> None:
    numbers = iter(draws * 2)  # two for each wait
    cap_s = first_s * factor
    backoff = Backoff(first_s=first_s, cap_s=cap_s, clock=Clock(), rng=lambda: next(numbers))
    for failures in range(len(draws)):
        step_s = min(cap_s, first_s * 2**failures)
        assert step_s / 2 * 0.999 <= backoff.failed() <= step_s * 1.001


@given(shares, st.floats(0, 3600))
def test_the_servers_hint_is_a_floor_and_a_fleet_is_spread_over_a_quarter_more(share: float, hint_s: float) -> None:
    wait_s = made(Clock(), share, first_s=0.5).failed(hint_s)
    assert wait_s >= hint_s * 0.999
    assert wait_s <= max(0.5, hint_s * 1.25) * 1.001


def test_what_the_server_asked_for_holds_although_another_frame_was_answered() -> None:
    backoff = made(Clock())
    backoff.failed(30)
    backoff.worked()
    assert backoff.wait_s >= 30


@given(shares, st.floats(0.1, 1000), st.floats(0, 0.5))
def test_the_last_try_is_at_the_deadline(share: float, deadline_s: float, took_s: float) -> None:
    """`took_s`: how long each try lasts."""
    clock = Clock()
    backoff = made(clock, share, first_s=0.2, cap_s=60, deadline_s=deadline_s)
    tries = 0
    while not backoff.expired:
        clock.now += backoff.wait_s + took_s
        backoff.failed()
        tries += 1
        assert tries < 10_000
    started = 1000 + took_s
    assert started + deadline_s <= clock.now * (1 + 1e-9)
    assert clock.now <= started + deadline_s + took_s + 1e-6
    backoff.worked()
    assert not backoff.expired


def test_without_a_deadline_it_never_expires() -> None:
    clock = Clock()
    backoff = made(clock)
    for _ in range(2000):  # an exponent that would not fit a float
        clock.now += backoff.failed() + 1e4
    assert not backoff.expired
    assert backoff.wait_s == 0


@pytest.mark.parametrize(
    "limits",
    [
        {"first_s": 0},
        {"first_s": 2, "cap_s": 1},
        {"cap_s": math.inf},
        {"deadline_s": 0},
        {"deadline_s": math.nan},
        {"first_s": math.nan},
    ],
)
def test_limits(limits: dict[str, float]) -> None:
    with pytest.raises(InputError, match="give seconds above 0") as error:
        Backoff(**limits)
    assert ("deadline" in str(error.value)) == ("deadline_s" in limits)
    assert ("first" in str(error.value)) != ("deadline_s" in limits)
