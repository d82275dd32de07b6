"""The server: onnxruntime and starlette, never torch.

    frame -> app, stream, mqtt or protocol_v2 -> service -> batcher -> decoder -> answer

Names are imported when they are first used: decoding needs no web server, and limits need no decoder.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from bottlenet.errors import MissingExtraError

if TYPE_CHECKING:
    from bottlenet.cloud.admission import Limits
    from bottlenet.cloud.app import create_app
    from bottlenet.cloud.batcher import Batcher
    from bottlenet.cloud.decoder import Decoder, Scored

__all__ = ["Batcher", "Decoder", "Limits", "Scored", "create_app"]


def __getattr__(name: str) -> object:
    if name not in MODULES:
        raise AttributeError(f"module 'bottlenet.cloud' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(MODULES[name]), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in EXTRA:
            raise
        raise MissingExtraError(f"bottlenet.cloud.{name}", "cloud") from error


MODULES = {
    "Batcher": "bottlenet.cloud.batcher",
    "Decoder": "bottlenet.cloud.decoder",
    "Limits": "bottlenet.cloud.admission",
    "Scored": "bottlenet.cloud.decoder",
    "create_app": "bottlenet.cloud.app",
}
EXTRA = ("starlette", "prometheus_client")
