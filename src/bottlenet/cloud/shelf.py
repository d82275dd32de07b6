"""The bundles that are served. They may come and go while the server runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bottlenet.bundle import Bundle
from bottlenet.cloud.batcher import Batcher, Work
from bottlenet.cloud.photos import Photos
from bottlenet.errors import InputError
from bottlenet.wire.protocol import UNKNOWN_BUNDLE

if TYPE_CHECKING:
    from bottlenet.cloud.stream import Stream

MAX_BUNDLES = 1000


@dataclass(frozen=True, eq=False)
class Served:
    """A bundle, what answers its frames, and the streams that are open for it."""

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
