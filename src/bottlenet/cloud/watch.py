"""A folder whose bundles are served: a new one goes live, one that is gone drains, without a restart.

    models/
      cats.bundle/         a bundle, served as soon as every file of it is what its manifest says
      .cats.new/           a name with a dot: left alone, for who copies and renames

A bundle that is being copied does not verify yet: it is tried again when its files have changed, quietly.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TypeAlias

from bottlenet.bundle import MANIFEST, Bundle
from bottlenet.cloud.decoder import Decoder
from bottlenet.cloud.shelf import MAX_BUNDLES, Served, Shelf
from bottlenet.errors import BottleNetError, InputError

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
