"""BottleNet: a photo classifier cut in two. The device sends a few hundred bytes, the server answers.

    from bottlenet import Edge                            # the device: numpy, onnxruntime, no torch
    with Edge("my.bundle", "ws://server:8000") as edge:
        print(edge.classify("photo.jpg").label)

    from bottlenet import choose                          # which partition, on which link: needs numpy
    from bottlenet import cuts, insert, split             # a network of one's own: needs bottlenet[train]

Names are imported when they are first used, so that `import bottlenet` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bottlenet.bundle import Bundle as Bundle
    from bottlenet.bundle.ladder import Ladder as Ladder
    from bottlenet.edge import Edge as Edge
    from bottlenet.net.build import insert as insert
    from bottlenet.net.cut import cuts as cuts
    from bottlenet.net.cut import split as split
    from bottlenet.plan.planner import choose as choose

__all__ = ["Bundle", "Edge", "Ladder", "choose", "cuts", "insert", "split"]


def __getattr__(name: str) -> object:
    if name not in MODULES:
        raise AttributeError(f"module 'bottlenet' has no attribute {name!r}; it has {', '.join(__all__)}")
    try:
        module = importlib.import_module(MODULES[name])
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        from bottlenet.errors import MissingExtraError

        raise MissingExtraError(f"bottlenet.{name}", "train") from error
    value: object = getattr(module, name)
    globals()[name] = value  # from now on without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


MODULES = {
    "Bundle": "bottlenet.bundle",
    "Edge": "bottlenet.edge",
    "Ladder": "bottlenet.bundle.ladder",
    "choose": "bottlenet.plan.planner",
    "cuts": "bottlenet.net.cut",
    "insert": "bottlenet.net.build",
    "split": "bottlenet.net.cut",
}
