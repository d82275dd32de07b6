"""When to try again: exponential backoff with jitter, a cap, and a deadline.

    failed -> wait first_s, 2 * first_s, 4 * first_s, ... up to cap_s, each between half and all of it -> try

The jitter keeps a fleet that lost the same server from coming back all at once.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable

from bottlenet.errors import BusyError, InputError

FACTOR = 2.0
MAX_DOUBLINGS = 60
ROUNDING_S = 1e-6  # who sleeps until the next try must not wake an instant before it


class Backoff:
    """Keeps the time of the next try. `clock` gives seconds that never go back, `rng` numbers from 0 to 1.

    InputError: `first_s` or `deadline_s` not above 0, or `cap_s` below `first_s`.
    """

    def __init__(
        self,
        *,
        first_s: float = 0.5,
        cap_s: float = 60.0,
        deadline_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
    ) -> None:
        if not 0 < first_s <= cap_s < math.inf:
            given = f"the first wait is {first_s} s, and the longest {cap_s} s"
            raise InputError(f"{given}; give seconds above 0, and a longest that is not below the first")
        if not deadline_s > 0:
            raise InputError(f"deadline is {deadline_s} s; give seconds above 0")
        self.clock = clock
        self.expired = False  # whether a try failed after the deadline
        self._first_s = first_s
        self._cap_s = cap_s
        self._deadline_s = deadline_s
        self._rng = rng
        self._failures = 0
        self._failing_since = 0.0
        self._next = -math.inf

    @property
    def wait_s(self) -> float:
        """Seconds until the next try; 0: now."""
        wait_s = self._next - self.clock()
        return wait_s if wait_s > ROUNDING_S else 0.0

    def failed(self, hint_s: float = 0.0) -> float:
        """Once more. Gives the seconds until the next try, at least `hint_s`, which the server asked for.

        A wait that would go beyond the deadline ends there, unless the server asked for it, so the last try is then;
        if that fails too, `expired` is true.
        """
        now = self.clock()
        if self._failures == 0:
            self._failing_since = now
        left_s = self._failing_since + self._deadline_s - now
        step_s = min(self._cap_s, self._first_s * FACTOR ** min(self._failures, MAX_DOUBLINGS))
        self.expired = left_s <= 0
        self._failures += 1
        wait_s = step_s * (1 + self._rng()) / 2
        if left_s > 0:
            wait_s = min(wait_s, left_s)
        self._next = now + max(wait_s, hint_s * (1 + self._rng() / 4))
        return self.wait_s

    def worked(self) -> None:
        """A try succeeded: the next failure counts as the first. What the server asked for still holds."""
        self._failures = 0
        self.expired = False


def hint_s(error: Exception) -> float:
    """After how many seconds the server wants to be asked again; 0 where it did not say."""
    return error.retry_after_s if isinstance(error, BusyError) else 0.0
