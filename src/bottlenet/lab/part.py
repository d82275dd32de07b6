"""Where in the batch of a step some photos are, when it is divided among processes and computed in parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Values = TypeVar("Values", NDArray[np.int64], Tensor)


@dataclass(frozen=True)
class Part:
    """Part `number` of `count`, equally large."""

    number: int = 0
    count: int = 1

    def of(self, batch: Values) -> Values:
        """Its share of something that has one value a photo."""
        size = len(batch) // self.count
        return batch[self.number * size : (self.number + 1) * size]

    def before(self, batch: NDArray[np.int64]) -> int:
        """The value before its first; before the first of all, the last."""
        return int(batch[self.number * (len(batch) // self.count) - 1])


WHOLE = Part()
