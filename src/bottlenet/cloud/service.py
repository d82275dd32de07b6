"""The bundles that are served, and what all ways in have in common: they bring a frame and want an answer.

http, stream, v2, mqtt -> Service -> Bundles -> Served -> a Batcher for frames, another for whole photos
a folder of bundles    -> Folder  -> Bundles, while the server runs
"""

import asyncio
import contextlib
import logging
import sys
from asyncio.subprocess import DEVNULL
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from bottlenet.bundle import MANIFEST, Bundle
from bottlenet.cloud.admission import Limits, Tokens
from bottlenet.cloud.batcher import FIRST_RETRY_S, STOPPING, Batcher, Work, Worker, start
from bottlenet.cloud.decoder import Decoder, Photos
from bottlenet.cloud.metrics import AGREEMENTS, AUDITS, REPORTS, Metrics, kind_of
from bottlenet.errors import BottleNetError, BundleError, BusyError, FrameError, InputError
from bottlenet.wire.answer import Answer, busy_bytes, refusal_bytes
from bottlenet.wire.frame import (
    PHOTO,
    PROBE,
    REPORT,
    RESTARTING,
    STREAM_HEADER_BYTES,
    UNKNOWN_BUNDLE,
    Frame,
    parse_report,
    parse_stream_frame,
)

log = logging.getLogger(__name__)

MAX_BUNDLES = 1000
INTERNAL = "the server failed on this frame; its log says why"


class Stream(Protocol):
    """An open stream of frames, as the code that drains a bundle needs it."""

    def take_no_more(self) -> None: ...
    async def end(self, code: int, reason: str) -> None: ...


@dataclass(frozen=True, eq=False)
class Served:
    """A bundle, the batchers that answer its frames, and the streams that are open for it."""

    bundle: Bundle
    batcher: Batcher
    photos: Batcher  # for the whole network
    streams: set[Stream] = field(default_factory=set)
    reported: Counter[str] = field(default_factory=Counter)  # devices' own answers, by the names in metrics.REPORTED

    @property
    def version(self) -> str:
        """The first 12 hex digits of the bundle's id: enough for people."""
        return self.bundle.id.hex()[:12]

    @property
    def batchers(self) -> tuple[Batcher, Batcher]:
        return self.batcher, self.photos

    async def close(self) -> None:
        """Refuse what waits; end the threads, which a later frame starts again."""
        await asyncio.gather(*(batcher.close() for batcher in self.batchers))

    async def drain(self, code: int, reason: str) -> None:
        """Answer what was taken, then close the streams. Keep new frames away meanwhile."""
        for stream in self.streams:
            stream.take_no_more()  # else a busy stream keeps the line full for ever
        await asyncio.gather(*(batcher.drain() for batcher in self.batchers))
        # A copy: streams that end leave the set.
        await asyncio.gather(*(stream.end(code, reason) for stream in list(self.streams)))


class Bundles:
    """The bundles that are served, by tag. `make_batcher` puts a line in front of a decoder."""

    def __init__(self, make_batcher: Callable[[Work], Batcher], threads: int = 1) -> None:
        self._make_batcher = make_batcher
        self._threads = threads
        self._served: dict[bytes, Served] = {}

    def __iter__(self) -> Iterator[Served]:
        return iter(list(self._served.values()))

    def __len__(self) -> int:
        return len(self._served)

    @property
    def batchers(self) -> list[Batcher]:
        return [batcher for served in self for batcher in served.batchers]

    @property
    def waiting(self) -> int:
        return sum(batcher.waiting for batcher in self.batchers)

    def add(self, bundle: Bundle, work: Work) -> Served:
        """Serve a bundle from now on. InputError: one with the same tag is served, or there are 1,000."""
        if (other := self._served.get(bundle.tag)) is not None:
            paths = f"{other.bundle.path} and {bundle.path}"
            raise InputError(f"bundles {paths} have the same tag {bundle.tag.hex()}; serve one of them")
        if len(self._served) >= MAX_BUNDLES:
            raise InputError(f"{len(self._served)} bundles are served already; take some away")
        photos = self._make_batcher(Photos(bundle, self._threads).answers)
        served = self._served[bundle.tag] = Served(bundle, self._make_batcher(work), photos)
        return served

    async def remove(self, served: Served, grace_s: float) -> None:
        """Take no more frames for a bundle, answer those that were taken, and forget it."""
        self._served.pop(served.bundle.tag, None)
        try:
            reason = f"bundle {served.version} is not served any more; {self.names()}"
            await asyncio.wait_for(served.drain(UNKNOWN_BUNDLE, reason), grace_s)
        except asyncio.TimeoutError:
            pass  # `close` refuses the rest
        await served.close()

    def by_tag(self, tag: bytes) -> Served | None:
        return self._served.get(tag)

    def by_id(self, id_hex: str) -> Served | None:
        """Find the bundle that a stream names: 64 hex digits, of any case."""
        return next((one for one in self if one.bundle.id.hex() == id_hex.lower()), None)

    def by_name(self, name: str, version: str | None = None) -> list[Served]:
        """Find the bundles of a manifest's name, which several may have, or of an id; `version` chooses one."""
        found = [one for one in self if name in (one.bundle.manifest.name, one.version, one.bundle.id.hex())]
        return [one for one in found if version in (None, one.version)]

    def names(self) -> str:
        return f"served: {', '.join(f'{one.version} ({one.bundle.manifest.name})' for one in self) or 'nothing'}"


class Service:
    """Answers frames for the bundles that are served, within limits and for those who have a token."""

    def __init__(self, bundles: Bundles, limits: Limits, metrics: Metrics, tokens: Tokens | None) -> None:
        self.bundles = bundles
        self.limits = limits
        self.metrics = metrics
        self.tokens = tokens
        self.stopping = False
        self._drain: asyncio.Task[None] | None = None
        self.leaving: list[Callable[[], Coroutine[Any, Any, None]]] = []  # what else has to end with `stop`
        metrics.waiting, metrics.bundles = lambda: bundles.waiting, lambda: len(bundles)
        metrics.reported = lambda: {one.version: one.reported for one in bundles if one.bundle.manifest.exit}

    @property
    def ready(self) -> bool:
        return not self.stopping and len(self.bundles) > 0

    @property
    def ongoing(self) -> int:
        return sum(batcher.ongoing for batcher in self.bundles.batchers)

    async def answer(self, served: Served, frame: Frame) -> Answer:
        """Answer one frame, counted; probes and reports wait in no line. BusyError, FrameError, ...: see `Batcher`."""
        if self.stopping:
            raise BusyError(STOPPING, FIRST_RETRY_S)
        if frame.codec != PROBE:
            self.metrics.payload_bytes.observe(len(frame.payload))
        if frame.codec == REPORT:
            return await self._take_report(served, frame)
        if frame.codec == PROBE:
            return received(served, frame)
        return await (served.photos if frame.codec == PHOTO else served.batcher).answer(frame)

    async def _take_report(self, served: Served, frame: Frame) -> Answer:
        """Count a device's own answer; answer an audit as any frame, and compare."""
        report, manifest = parse_report(frame), served.bundle.manifest
        if manifest.exit is None or report.class_index >= manifest.num_classes:
            has = f"{manifest.num_classes} classes" if manifest.exit else "no exit"
            raise FrameError(f"report of class {report.class_index}, but bundle {manifest.name} has {has}")
        if report.audit is None:
            served.reported[REPORTS] += 1
            return received(served, frame)
        answer = await served.batcher.answer(report.audit)
        served.reported.update((REPORTS, AUDITS))
        if answer.top[0][0] == report.class_index:
            served.reported[AGREEMENTS] += 1
        return answer

    async def reply(self, via: str, served: Served, message: bytes, *, ended: str = "") -> bytes:
        """Answer a frame in stream form, counted: an answer, a refusal, or "busy", as always once `ended` says why."""
        self.metrics.came(via)
        sequence = int.from_bytes(message[2:4], "big") if len(message) >= STREAM_HEADER_BYTES else 0
        try:
            if ended:
                raise BusyError(ended, FIRST_RETRY_S)
            limit = self.limits.max_payload_bytes
            frame = parse_stream_frame(message, bundle_tag=served.bundle.tag, max_payload_bytes=limit)
            return (await self.answer(served, frame)).to_bytes()
        except Exception as error:
            text = self.failed(via, error)
            if isinstance(error, BusyError):
                return busy_bytes(sequence, error.retry_after_s, text)
            return refusal_bytes(sequence, text)

    def failed(self, via: str, error: Exception) -> str:
        """Count an error, log one that is not expected, and give the text for the other side."""
        kind = kind_of(error)
        self.metrics.refused(via, kind)
        if kind != "internal":
            return str(error)
        log.error("a frame failed", exc_info=error)
        return INTERNAL

    async def stop(self) -> None:
        """Take no more frames, answer those taken, and close the streams; after `grace_s` refuse what waits."""
        if self._drain is None:
            self.stopping = True
            self._drain = asyncio.create_task(self._drain_all())
        await asyncio.wait([self._drain])

    async def _drain_all(self) -> None:
        drains = [served.drain(RESTARTING, STOPPING) for served in self.bundles] + [leave() for leave in self.leaving]
        try:
            await asyncio.wait_for(asyncio.gather(*drains), self.limits.grace_s)
        except asyncio.TimeoutError:
            log.warning("%d frames wait still after %g s, and are refused", self.bundles.waiting, self.limits.grace_s)
            for batcher in self.bundles.batchers:
                batcher.refuse_waiting()

    async def close(self) -> None:
        """End the threads. A later frame starts them again."""
        await asyncio.gather(*(served.close() for served in self.bundles))
        self.stopping, self._drain = False, None


def received(served: Served, frame: Frame) -> Answer:
    """Answer a frame that asks for no choice: with the load."""
    return Answer(frame.sequence, 0, 0, (), load=max(batcher.load for batcher in served.batchers))


LOOK_EVERY_S = 1.0
TRY_S = 60.0  # for a bundle to load, which runs each graph once
TRY = """
import sys
sys.path[:] = [path for path in sys.path if path]  # not the folder where the server was started
from bottlenet.bundle import Bundle
from bottlenet.cloud.decoder import Decoder
Decoder(Bundle.load(sys.argv[1]), int(sys.argv[2]))
"""
TRY_AGAIN_S = 60.0  # although nothing changed: a disk may have been away
MAX_FILES = 100  # of one bundle's folder that are looked at

Stamp: TypeAlias = tuple[tuple[str, int, int, int], ...]
"""Name, size, time of change and inode of each file: another when anything was written."""


class Folder:
    """A folder whose bundles are served: a new one goes live, one that is gone drains, without a restart.

        models/
          cats.bundle/         a bundle, served as soon as every file of it is what its manifest says
          .cats.new/           a name with a dot: left alone, for who copies and renames

    One that does not verify yet is tried again when its files have changed. InputError: no such folder.
    """

    def __init__(self, path: str | Path, bundles: Bundles, threads: int, grace_s: float) -> None:
        self._path = Path(path)
        self._bundles = bundles
        self._threads = threads
        self._grace_s = grace_s
        self._served: dict[str, tuple[Stamp, Served]] = {}  # by the name of its folder
        self._failed: dict[str, tuple[Stamp, float]] = {}  # and when
        self._drains: set[asyncio.Task[None]] = set()
        self._worker = Worker("bottlenet-folder")
        if not self._path.is_dir():
            raise InputError(f"there is no folder {self._path} to watch; make it, or give another")

    async def look_for_ever(self) -> None:
        """Look every second. Whatever is wrong with the folder, what is served stays served."""
        try:
            while True:
                try:
                    await self.look()
                except Exception:
                    log.exception("can't look at %s", self._path)
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            for drain in self._drains:
                drain.cancel()

    async def look(self) -> None:
        """Serve what is new, replace what changed, drop what is gone."""
        found = await self._worker.run(stamps, self._path)
        for name in self._served.keys() - found.keys():  # first: it may be there under another name
            self._drop(self._served.pop(name)[1])
        for name, stamp in found.items():
            if name not in self._served or self._served[name][0] != stamp:
                await self._take(name, stamp)
        self._failed = {name: failed for name, failed in self._failed.items() if name in found}

    async def _take(self, name: str, stamp: Stamp) -> None:
        now = asyncio.get_running_loop().time()
        failed = self._failed.get(name)
        if failed is not None and failed[0] == stamp and now < failed[1] + TRY_AGAIN_S:
            return
        try:
            await self._try(self._path / name)
            bundle, decoder = await self._worker.run(self._load, self._path / name)
            if (await self._worker.run(stamps, self._path)).get(name) != stamp:
                return  # it is being written; next time
            before = self._served.get(name)
            if before is not None and before[1].bundle.id == bundle.id:
                self._served[name] = stamp, before[1]  # touched, not changed
                return
            served = self._bundles.add(bundle, decoder.answers)
        except (BottleNetError, OSError) as error:
            self._failed[name] = stamp, now
            log.info("not served: %s", error)
            return
        self._served[name] = stamp, served
        log.info("bundle %s (%s) is served", served.version, bundle.manifest.name, extra={"fields": {"folder": name}})
        if before is not None:
            self._drop(before[1])

    async def _try(self, path: Path) -> None:
        """Load a bundle in another process first. BundleError: it has no end there, or takes that process down."""
        command = (sys.executable, "-c", TRY, str(path), str(self._threads))
        process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
        try:
            await asyncio.wait_for(process.wait(), TRY_S)
        except asyncio.TimeoutError:
            raise BundleError(f"bundle {path} is not loaded after {TRY_S:g} s; its graphs may have no end") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if process.returncode and process.returncode < 0:
            raise BundleError(f"bundle {path}: loading it ended a process by signal {-process.returncode}")

    def _load(self, path: Path) -> tuple[Bundle, Decoder]:
        bundle = Bundle.load(path)
        return bundle, Decoder(bundle, self._threads)

    def _drop(self, served: Served) -> None:
        log.info("bundle %s (%s) is not served any more", served.version, served.bundle.manifest.name)
        self._failed.clear()  # it may have been in the way of another
        start(self._bundles.remove(served, self._grace_s), self._drains)


def stamps(path: Path) -> dict[str, Stamp]:
    """Stamp every folder in `path` that has a manifest, by name; at most 1,000."""
    found: dict[str, Stamp] = {}
    for folder in sorted(path.iterdir()):
        if folder.name.startswith(".") or len(found) >= MAX_BUNDLES:
            continue
        try:
            if (folder / MANIFEST).is_file():
                entries = [(entry, entry.stat()) for entry in sorted(folder.iterdir())[:MAX_FILES]]
                found[folder.name] = tuple((e.name, s.st_size, s.st_mtime_ns, s.st_ino) for e, s in entries)
        except OSError:
            continue  # it went while it was looked at
    return found
