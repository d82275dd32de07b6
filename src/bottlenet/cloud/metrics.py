"""What a server counts, for Prometheus: `GET /metrics`.

No label says which device or bundle: there may be any number of those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from bottlenet.errors import BusyError, FrameError, PayloadError

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
BYTES = (50, 100, 200, 340, 500, 1000, 2000, 4000, 8000, 16000, 32000, 65536)
WAYS = ("http", "stream", "v2", "mqtt")
FRAMES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counters of one application, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        requests = Counter("bottlenet_requests", "Frames that came, by the way they came", ["via"], registry=own)
        self._requests = {via: requests.labels(via) for via in WAYS}
        self.errors = Counter("bottlenet_errors", "Frames and connections refused", ["via", "kind"], registry=own)
        self.payload_bytes = Histogram("bottlenet_payload_bytes", "Payload of a frame", buckets=BYTES, registry=own)
        self.batch = Histogram(
            "bottlenet_batch_frames", "Frames that were decoded together", buckets=FRAMES, registry=own
        )
        self.queued = Histogram(
            "bottlenet_queue_seconds", "From coming to being taken, a frame", buckets=SECONDS, registry=own
        )
        self.decode = Histogram(
            "bottlenet_decode_seconds", "Payload to symbols, a frame", buckets=SECONDS, registry=own
        )
        self.tail = Histogram("bottlenet_tail_seconds", "The network, a frame's batch", buckets=SECONDS, registry=own)
        self.open = Gauge(
            "bottlenet_open", "Requests at work, streams and broker connections open", ["via"], registry=own
        )
        self._waiting = Gauge("bottlenet_queue_frames", "Frames that wait for a batch", registry=own)
        self._bundles = Gauge("bottlenet_bundles", "Bundles that are served", registry=own)

    def watch(self, waiting: Callable[[], float], bundles: Callable[[], float]) -> None:
        """Where to ask for what is now."""
        self._waiting.set_function(waiting)
        self._bundles.set_function(bundles)

    def came(self, via: str) -> None:
        """One more frame, by a way in `WAYS`."""
        self._requests[via].inc()

    def took_batch(self, waited_s: Sequence[float]) -> None:
        """For `Batcher`."""
        self.batch.observe(len(waited_s))
        for seconds in waited_s:
            self.queued.observe(seconds)

    def refused(self, via: str, kind: str) -> None:
        """One more of this kind: a name from `kind_of`, or "unauthorized", "unknown_bundle", "too_large", ..."""
        self.errors.labels(via, kind).inc()

    def text(self) -> tuple[bytes, str]:
        """As Prometheus reads it, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


def kind_of(error: Exception) -> str:
    """What to call an error; "internal" for what nobody expects."""
    return next((name for kind, name in KINDS.items() if isinstance(error, kind)), "internal")


KINDS: dict[type[Exception], str] = {BusyError: "busy", FrameError: "frame", PayloadError: "payload"}
