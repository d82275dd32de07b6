"""Photo classifiers cut in two: the device sends a few hundred bytes, the server answers.

    from bottlenet import Edge                            # the device: numpy, onnxruntime, no torch
    with Edge("my.bundle", "ws://server:8000") as edge:
        print(edge.classify("photo.jpg").label)

    from bottlenet import choose                          # the best partition for a link
    from bottlenet import Classifier, Preprocess          # your own network, with torch:
    from bottlenet import cuts, export, insert, split     # the optional part "train"

Names are imported when they are first used, so that `import bottlenet` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bottlenet.bundle import Bundle as Bundle
    from bottlenet.bundle import Preprocess as Preprocess
    from bottlenet.bundle.ladder import Ladder as Ladder
    from bottlenet.edge import Edge as Edge
    from bottlenet.net.build import insert as insert
    from bottlenet.net.cut import cuts as cuts
    from bottlenet.net.cut import split as split
    from bottlenet.net.export import export as export
    from bottlenet.net.models import Classifier as Classifier
    from bottlenet.plan.planner import choose as choose

__all__ = ["Bundle", "Classifier", "Edge", "Ladder", "Preprocess", "choose", "cuts", "export", "insert", "split"]


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
    "Classifier": "bottlenet.net.models",
    "Edge": "bottlenet.edge",
    "Ladder": "bottlenet.bundle.ladder",
    "Preprocess": "bottlenet.bundle",
    "choose": "bottlenet.plan.planner",
    "cuts": "bottlenet.net.cut",
    "export": "bottlenet.net.export",
    "insert": "bottlenet.net.build",
    "split": "bottlenet.net.cut",
}
