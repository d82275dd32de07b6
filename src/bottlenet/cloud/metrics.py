"""Counters of a server, for Prometheus: `GET /metrics`.

No label names a device: there may be any number of those. Bundles are named where devices answer by themselves, and
only while they are served. Frames are counted in plain numbers, which prometheus_client gets when it asks: its own
counters, made for many threads, would take as long as all the rest that is done for a frame. For one thread, that of
the event loop.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from bottlenet.errors import BusyError, FrameError, PayloadError
from bottlenet.wire.answer import Answer

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BYTES = (50, 100, 200, 340, 500, 1000, 2000, 4000, 8000, 16000, 32000, 65536)
WAYS = ("http", "stream", "v2", "mqtt")
FRAMES = (1, 2, 4, 8, 16, 32, 64, 128)
REPORTS, AUDITS, AGREEMENTS = "reports", "audits", "audit_agreements"
REPORTED = {
    REPORTS: "Answers of devices that were sure, audits included",
    AUDITS: "Answers of devices that came with the frame for the server",
    AGREEMENTS: "Audits in which the server has the device's class",
}


class Histogram:
    """Numbers of values up to each bound, and their sum."""

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self._name, self._text, self._bounds = name, text, bounds
        self._counts = [0] * (len(bounds) + 1)  # the last: above all bounds
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def family(self) -> Metric:
        """Give it the form that Prometheus reads: each bucket holds the ones before it."""
        total, buckets = 0, []
        for bound, count in zip([*map(str, map(float, self._bounds)), "+Inf"], self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        return HistogramMetricFamily(self._name, self._text, buckets=buckets, sum_value=self._sum)


class Metrics:
    """The counters of one application, in a registry of its own."""

    def __init__(self) -> None:
        self.open = {"http": 0, "stream": 0}  # requests at work, streams, and broker connections
        self._requests = dict.fromkeys(WAYS, 0)  # frames, by the way they came
        self._refused: Counter[tuple[str, str]] = Counter()  # by way and kind
        self.payload_bytes = Histogram("bottlenet_payload_bytes", "Payload of a frame", BYTES)
        self._batch = Histogram("bottlenet_batch_frames", "Frames that were decoded together", FRAMES)
        self._queued = Histogram("bottlenet_queue_seconds", "From coming to being taken, a frame", SECONDS)
        self._decode = Histogram("bottlenet_decode_seconds", "Payload to symbols, a frame", SECONDS)
        self._tail = Histogram("bottlenet_tail_seconds", "The network, a frame's batch", SECONDS)
        self.waiting: Callable[[], float] = lambda: 0  # frames that no batch has taken yet
        self.bundles: Callable[[], float] = lambda: 0  # that are served
        self.reported: Callable[[], Mapping[str, Mapping[str, int]]] = dict  # by bundle and name
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def came(self, via: str) -> None:
        self._requests[via] += 1

    def took_batch(self, waited_s: Sequence[float]) -> None:
        self._batch.observe(len(waited_s))
        for seconds in waited_s:
            self._queued.observe(seconds)

    def did_batch(self, results: Sequence[Answer | Exception]) -> None:
        answers = [result for result in results if isinstance(result, Answer)]
        for answer in answers:
            self._decode.observe(answer.decode_us / 1e6)
        if answers:
            self._tail.observe(answers[0].tail_us / 1e6, len(answers))  # all of them waited for the same run

    def refused(self, via: str, kind: str) -> None:
        """Count a refusal, by a name from `kind_of`, or "unauthorized", "unknown_bundle", "too_large", ..."""
        self._refused[via, kind] += 1

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("bottlenet_requests", "Frames that came, by the way they came", labels=["via"])
        errors = CounterMetricFamily("bottlenet_errors", "Frames and connections refused", labels=["via", "kind"])
        opened = GaugeMetricFamily(
            "bottlenet_open", "Requests at work, streams and broker connections open", labels=["via"]
        )
        for via, count in self._requests.items():
            requests.add_metric([via], count)
        for labels, count in self._refused.items():
            errors.add_metric(labels, count)
        for via, count in self.open.items():
            opened.add_metric([via], count)
        yield from (requests, errors, opened)
        yield GaugeMetricFamily("bottlenet_queue_frames", "Frames that wait for a batch", value=self.waiting())
        yield GaugeMetricFamily("bottlenet_bundles", "Bundles that are served", value=self.bundles())
        for name, text in REPORTED.items():
            family = CounterMetricFamily(f"bottlenet_{name}", text, labels=["bundle"])
            for bundle, counts in self.reported().items():
                family.add_metric([bundle], counts[name])
            yield family
        for each in (self.payload_bytes, self._batch, self._queued, self._decode, self._tail):
            yield each.family()

    def text(self) -> tuple[bytes, str]:
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


def kind_of(error: Exception) -> str:
    """Name an error for the label `kind`; "internal" where it is not expected."""
    return next((name for kind, name in KINDS.items() if isinstance(error, kind)), "internal")


KINDS: dict[type[Exception], str] = {BusyError: "busy", FrameError: "frame", PayloadError: "payload"}
