"""The server: onnxruntime and starlette, never torch.

    frame -> app, stream, mqtt or protocol_v2 -> service -> batcher -> decoder -> answer

decoder.py      a batch of frames, or of whole photos, to answers
batcher.py      takes what is waiting, answers each; how busy the server is
admission.py    limits, tokens, TLS: the options of `bottlenet serve`
metrics.py      counters for Prometheus; logs.py log lines, as text or JSON
service.py      the bundles that are served, which may change, and what all ways in have in common

connections.py  before a request: the number of connections, and how long they may be silent
guard.py        in front of every way in: tokens, and the number of requests at once
stream.py       a WebSocket of frames
mqtt.py         frames that come through a broker, which needs bottlenet[mqtt]
protocol_v2.py  the Open Inference Protocol
http.py         bodies, bounded; errors as JSON; the page, in page/, where a browser is the device
vendor.py       fetches what runs the head there
app.py          all of it together: `create_app`, which needs bottlenet[cloud]
run.py          one process that serves it
ray/            the same on Ray Serve, which needs bottlenet[ray]

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
