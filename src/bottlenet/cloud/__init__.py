"""What runs on the server: onnxruntime and starlette, never torch.

decoder.py    a batch of frames to class scores
batcher.py    takes what is waiting, answers each
app.py        HTTP and WebSocket: `create_app`, which needs bottlenet[cloud]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bottlenet.cloud.batcher import Batcher
from bottlenet.cloud.decoder import Decoder, Scored
from bottlenet.errors import MissingExtraError

if TYPE_CHECKING:
    from bottlenet.cloud.app import create_app

__all__ = ["Batcher", "Decoder", "Scored", "create_app"]


def __getattr__(name: str) -> object:
    # Decoding needs no web server, and evaluation in training decodes.
    if name != "create_app":
        raise AttributeError(f"module 'bottlenet.cloud' has no attribute {name!r}")
    try:
        from bottlenet.cloud.app import create_app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "starlette":
            raise
        raise MissingExtraError("bottlenet.cloud.create_app", "cloud") from error
    return create_app
