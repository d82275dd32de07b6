"""What runs on the server: onnxruntime and starlette, never torch.

    frame -> app, stream, v2 or mqtt -> service -> batcher -> decoder -> answer

decoder.py    a batch of frames to class scores
photos.py     whole photos to class scores
batcher.py    takes what is waiting, answers each; load.py how busy it is
limits.py     how much a server takes, of everything
shelf.py      the bundles that are served, which may change
watch.py      a folder whose bundles are served
tokens.py     who may use the server
metrics.py    what it counts; logs.py log lines, as text or JSON
service.py    what all the ways in have in common

connections.py, addresses.py    before a request: how many connect, and how long they may say nothing
guard.py      in front of every way in: tokens, and how many at once
stream.py     a WebSocket of frames
mqtt.py       frames that come through a broker, which needs bottlenet[mqtt]; link.py the connection to it
v2.py         the Open Inference Protocol; tensors.py its requests and responses
static.py     the page, in page/, where a browser is the device; vendor.py fetches what runs the head there
http.py       bodies, bounded, and errors as JSON
app.py        HTTP, and all of it together: `create_app`, which needs bottlenet[cloud]
rayserve.py   the same on Ray Serve, as deployed.py says, which needs bottlenet[ray]; haproxy.py mends what is in front

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
