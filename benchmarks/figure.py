"""A figure as an SVG file: the same bytes for the same numbers, and legible without colour."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from record import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GREY_LINE: dict[str, Any] = {"color": "grey", "lw": 0.8, "ls": ":"}  # for what is compared with


@contextmanager
def svg(path: Path, width: float, height: float) -> Iterator[Figure]:
    """An empty figure of that size, inches; what is drawn in the block is written to `path`, whole or not at all."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "bottlenet"})  # the same file every time
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(width, height), layout="constrained")
    try:
        yield figure
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    finally:
        pyplot.close(figure)
    write_whole(path, file.getvalue())
