"""What all the ways in have in common: they bring a frame and want an answer.

The bundles that are served. They may come and go while the server runs.

A folder whose bundles are served: a new one goes live, one that is gone drains, without a restart.

    models/
      cats.bundle/         a bundle, served as soon as every file of it is what its manifest says
      .cats.new/           a name with a dot: left alone, for who copies and renames

A bundle that is being copied does not verify yet: it is tried again when its files have changed, quietly.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from bottlenet.bundle import MANIFEST, Bundle
from bottlenet.cloud.admission import Limits, Tokens
from bottlenet.cloud.batcher import FIRST_RETRY_S, STOPPING, Batcher, Done, Result, Waiting, Work, settle
from bottlenet.cloud.decoder import Decoder, Photos
from bottlenet.cloud.metrics import Metrics, kind_of
from bottlenet.errors import BottleNetError, BusyError, InputError
from bottlenet.wire.answer import Answer, busy_bytes, refusal_bytes
from bottlenet.wire.frame import (
    PHOTO,
    PROBE,
    RESTARTING,
    STREAM_HEADER_BYTES,
    UNKNOWN_BUNDLE,
    Frame,
    parse_stream_frame,
)

MAX_BUNDLES = 1000


class Stream(Protocol):
    """An open stream of frames, as whoever drains a bundle needs it."""

    def take_no_more(self) -> None:
        """Refuse frames from now on."""

    async def end(self, code: int, reason: str) -> None:
        """Close once the frames that were taken have their answers."""


@dataclass(frozen=True, eq=False)
class Served:
    """A bundle, the batchers that answer its frames, and the streams that are open for it."""

    bundle: Bundle
    batcher: Batcher
    photos: Batcher  # for the whole network
    streams: set[Stream] = field(default_factory=set)

    @property
    def version(self) -> str:
        """The first 12 hex digits of the bundle's id: enough for people."""
        return self.bundle.id.hex()[:12]

    @property
    def lines(self) -> tuple[Batcher, Batcher]:
        """Both, each with a worker of its own."""
        return self.batcher, self.photos

    async def close(self) -> None:
        """Refuse what waits; end the threads, which a later frame starts again."""
        for line in self.lines:
            await line.close()

    async def drain(self, code: int, reason: str) -> None:
        """Answer what was taken, then close the streams. Keep new frames away meanwhile."""
        for stream in self.streams:
            stream.take_no_more()  # else a busy stream keeps the line full for ever
        await asyncio.gather(*(line.drain() for line in self.lines))
        # A copy: streams that end leave the set.
        await asyncio.gather(*(stream.end(code, reason) for stream in list(self.streams)))


class Shelf:
    """What is served, by tag. `make_batcher` puts a line in front of a decoder; `threads` are those of an operation."""

    def __init__(self, make_batcher: Callable[[Work], Batcher], threads: int = 1) -> None:
        self._make_batcher = make_batcher
        self._threads = threads
        self._served: dict[bytes, Served] = {}

    def __iter__(self) -> Iterator[Served]:
        return iter(list(self._served.values()))

    def __len__(self) -> int:
        return len(self._served)

    @property
    def waiting(self) -> int:
        """Frames in all the lines."""
        return sum(line.waiting for served in self._served.values() for line in served.lines)

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
        """As a self-contained frame names it."""
        return self._served.get(tag)

    def by_id(self, id_hex: str) -> Served | None:
        """As a stream names it: 64 hex digits, of any case."""
        return next((one for one in self if one.bundle.id.hex() == id_hex.lower()), None)

    def by_name(self, name: str, version: str | None = None) -> list[Served]:
        """As the Open Inference Protocol names it: the manifest's name, which several may have."""
        return [one for one in self if one.bundle.manifest.name == name and version in (None, one.version)]

    def names(self) -> str:
        """What is served, in few words."""
        named = [f"{one.version} ({one.bundle.manifest.name})" for one in self]
        return f"served: {', '.join(named) or 'nothing'}"


log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
TRY_AGAIN_S = 60.0  # although nothing changed: a disk may have been away
MAX_FILES = 100  # of one bundle's folder that are looked at

Stamp: TypeAlias = tuple[tuple[str, int, int, int], ...]
"""Name, size, time of change and inode of each file: another when anything was written."""


class Folder:
    """Keeps a shelf like a folder. Bundles that came another way are left alone. InputError: no such folder."""

    def __init__(self, path: str | Path, shelf: Shelf, threads: int, grace_s: float) -> None:
        self._path = Path(path)
        self._shelf = shelf
        self._threads = threads
        self._grace_s = grace_s
        self._served: dict[str, tuple[Stamp, Served]] = {}  # by the name of its folder
        self._failed: dict[str, tuple[Stamp, float]] = {}  # and when
        self._drains: set[asyncio.Task[None]] = set()
        if not self._path.is_dir():
            raise InputError(f"there is no folder {self._path} to watch; make it, or give another")

    async def look_for_ever(self) -> None:
        """Every second. Whatever is wrong with the folder, what is served stays served."""
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
        """Once: serve what is new, replace what changed, drop what is gone."""
        found = await asyncio.to_thread(stamps, self._path)
        for name in self._served.keys() - found.keys():  # first: it may be there under another name
            self._drop(self._served.pop(name)[1])
        for name, stamp in found.items():
            if name not in self._served or self._served[name][0] != stamp:
                await self._take(name, stamp)
        self._failed = {name: failed for name, failed in self._failed.items() if name in found}

    async def _take(self, name: str, stamp: Stamp) -> None:
        """Serve one folder's bundle, in place of the one that was in it before."""
        now = asyncio.get_running_loop().time()
        failed = self._failed.get(name)
        if failed is not None and failed[0] == stamp and now < failed[1] + TRY_AGAIN_S:
            return
        try:
            bundle, decoder = await asyncio.to_thread(self._load, self._path / name)
            if (await asyncio.to_thread(stamps, self._path)).get(name) != stamp:
                return  # somebody is at it; next time
            before = self._served.get(name)
            if before is not None and before[1].bundle.id == bundle.id:
                self._served[name] = stamp, before[1]  # touched, not changed
                return
            served = self._shelf.add(bundle, decoder.answers)
        except (BottleNetError, OSError) as error:
            self._failed[name] = stamp, now
            log.info("not served: %s", error)
            return
        self._served[name] = stamp, served
        log.info("bundle %s (%s) is served", served.version, bundle.manifest.name, extra={"fields": {"folder": name}})
        if before is not None:
            self._drop(before[1])

    def _load(self, path: Path) -> tuple[Bundle, Decoder]:
        bundle = Bundle.load(path)
        return bundle, Decoder(bundle, self._threads)

    def _drop(self, served: Served) -> None:
        """Drain it, while the rest goes on."""
        log.info("bundle %s (%s) is not served any more", served.version, served.bundle.manifest.name)
        self._failed.clear()  # it may have been in the way of another
        drain = asyncio.create_task(self._shelf.remove(served, self._grace_s))
        self._drains.add(drain)
        drain.add_done_callback(self._drains.discard)


def stamps(path: Path) -> dict[str, Stamp]:
    """Of every folder in `path` that has a manifest, by name; at most 1,000."""
    found: dict[str, Stamp] = {}
    for folder in sorted(path.iterdir()):
        if folder.name.startswith(".") or len(found) >= MAX_BUNDLES:
            continue
        try:
            if (folder / MANIFEST).is_file():
                found[folder.name] = stamp_of(folder)
        except OSError:
            continue  # it went while it was looked at
    return found


def stamp_of(folder: Path) -> Stamp:
    """Of one folder. OSError: it is gone."""
    entries = sorted(folder.iterdir())[:MAX_FILES]
    return tuple((e.name, s.st_size, s.st_mtime_ns, s.st_ino) for e, s in ((e, e.stat()) for e in entries))


INTERNAL = "the server failed on this frame; its log says why"


class Service:
    """The bundles that are served, within limits, for those who have a token."""

    def __init__(self, shelf: Shelf, limits: Limits, metrics: Metrics, tokens: Tokens | None) -> None:
        self.shelf = shelf
        self.limits = limits
        self.metrics = metrics
        self.tokens = tokens
        self.stopping = False
        self.leaving: list[Callable[[], Coroutine[Any, Any, None]]] = []  # what else has to end with `stop`
        metrics.watch(lambda: shelf.waiting, lambda: len(shelf))

    @property
    def ready(self) -> bool:
        """Whether frames are welcome."""
        return not self.stopping and len(self.shelf) > 0

    @property
    def ongoing(self) -> int:
        """Frames that wait or are at work."""
        return sum(line.ongoing for served in self.shelf for line in served.lines)

    async def answer(self, served: Served, frame: Frame) -> Answer:
        """One frame, counted; a probe waits in no line. BusyError, or another BottleNetError: see `Batcher.answer`."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        waiting = self.submit(served, frame, partial(settle, future))
        try:
            return await future
        finally:
            if waiting is not None:
                waiting.done = None

    def submit(self, served: Served, frame: Frame, done: Done) -> Waiting | None:
        """The same for who does not wait: see `Batcher.submit`. None: `done` has been called already."""
        if self.stopping:
            raise BusyError(STOPPING, FIRST_RETRY_S)
        if frame.codec == PROBE:
            done(Answer(frame.sequence, 0, 0, (), load=max(line.load for line in served.lines)))
            return None
        self.metrics.payload_bytes.observe(len(frame.payload))
        line = served.photos if frame.codec == PHOTO else served.batcher
        return line.submit(frame, done)

    def take(
        self, via: str, served: Served, message: bytes, done: Callable[[bytes], None], *, ended: str = ""
    ) -> Waiting | None:
        """A frame in stream form, counted. `done` is called with what to send back: an answer, a refusal, or "busy", as
        after `ended`. None: it has been called already.
        """
        self.metrics.came(via)
        whole = len(message) >= STREAM_HEADER_BYTES
        sequence = int.from_bytes(message[2:4], "big") if whole else 0
        try:
            if ended:
                raise BusyError(ended, FIRST_RETRY_S)
            limit = self.limits.max_payload_bytes
            frame = parse_stream_frame(message, bundle_tag=served.bundle.tag, max_payload_bytes=limit)
            return self.submit(served, frame, lambda result: done(self.reply_bytes(via, sequence, result)))
        except Exception as error:
            done(self.reply_bytes(via, sequence, error))
            return None

    async def reply(self, via: str, served: Served, message: bytes) -> bytes:
        """The same for who waits."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        waiting = self.take(via, served, message, future.set_result)
        try:
            return await future
        finally:
            if waiting is not None:
                waiting.done = None

    def reply_bytes(self, via: str, sequence: int, result: Result) -> bytes:
        """What to send back, counted where it is an error."""
        if isinstance(result, Answer):
            return result.to_bytes()
        text = self.failed(via, result)
        if isinstance(result, BusyError):
            return busy_bytes(sequence, result.retry_after_s, text)
        return refusal_bytes(sequence, text)

    def failed(self, via: str, error: Exception) -> str:
        """Counts an error, logs one that nobody expects, and gives the text for the other side."""
        kind = kind_of(error)
        self.metrics.refused(via, kind)
        if kind != "internal":
            return str(error)
        log.error("a frame failed", exc_info=error)
        return INTERNAL

    async def stop(self) -> None:
        """Take no more frames, answer those that were taken, close the streams. After `grace_s` refuse what waits."""
        self.stopping = True
        drains = [served.drain(RESTARTING, STOPPING) for served in self.shelf] + [leave() for leave in self.leaving]
        try:
            await asyncio.wait_for(asyncio.gather(*drains), self.limits.grace_s)
        except asyncio.TimeoutError:
            log.warning("%d frames wait still after %g s, and are refused", self.shelf.waiting, self.limits.grace_s)
            for line in (line for served in self.shelf for line in served.lines):
                line.refuse_waiting()

    async def close(self) -> None:
        """End the threads. A later frame starts them again."""
        for served in self.shelf:
            await served.close()
        self.stopping = False
