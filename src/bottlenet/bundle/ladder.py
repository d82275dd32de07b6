"""Ladders: several cuts of one network in one folder, as rungs that share what they can.

    my.ladder/
      ladder.json          which rungs, and of which stretches of the store each graph is made; at most 16 MiB
      store.bin            the graphs; a weight that several of them have is in it once
      blocks.2/            a rung: a bundle without its graphs
        manifest.json        the bundle's own, so the rung has the bundle's id
        labels.txt, ...
      blocks.8/
        ...

What a shallow cut runs on the device a deeper one runs too, all of it is in the uncut network, and the uncut network
is the same for all: those are stored once. What was trained for one cut is its own. `Bundle.load("my.ladder/blocks.2")`
is the bundle that was put in; a device and a server need not have the same one of the two.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from bottlenet.bundle import GRAPHS, MANIFEST, Bundle, read_manifest
from bottlenet.bundle.graph import STORE, StoreWriter
from bottlenet.bundle.manifest import LADDER, Contents, Rung, read_contents
from bottlenet.errors import BundleError, InputError
from bottlenet.files import replacing, sync_folder, write_new

NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, eq=False)
class Ladder:
    """A verified ladder on disk. `Ladder.load` and `write_ladder` make them."""

    path: Path
    name: str
    model: str  # the classifier that was cut
    rungs: tuple[Bundle, ...]  # from the shallowest to the deepest cut

    @classmethod
    def load(cls, path: str | Path) -> Ladder:
        """Read and verify the ladder in a folder. BundleError: there is none, or a rung is damaged or another."""
        folder = Path(path)
        if not (folder / LADDER).is_file():
            raise BundleError(f"ladder {folder}: there is no {LADDER} in it; give the folder of a ladder")
        try:
            contents = read_contents(folder)
        except OSError as error:
            raise BundleError(f"ladder {folder}: can't read {error.filename or 'a file'}: {error.strerror}") from error
        rungs = tuple(Bundle.load(folder / rung.folder) for rung in contents.rungs)
        for rung, bundle in zip(contents.rungs, rungs, strict=True):
            if bundle.id.hex() != rung.id or bundle.store is None:
                what = f"{rung.folder} is another bundle than {LADDER} says"
                raise BundleError(f"ladder {folder}: {what}; write it again")
        return cls(folder, contents.name, contents.model, rungs)

    @cached_property
    def id(self) -> bytes:
        """32 bytes that stand for the rungs and their order."""
        return ladder_id(self.rungs)

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())


def ladder_id(bundles: Iterable[Bundle]) -> bytes:
    """Hash the ids of the rungs, in this order, with SHA-256."""
    return hashlib.sha256(b"".join(bundle.id for bundle in bundles)).digest()


def load_any(path: str | Path) -> Bundle | Ladder:
    """Load the bundle or the ladder at `path`. BundleError: neither is there."""
    return Ladder.load(path) if (Path(path) / LADDER).is_file() else Bundle.load(path)


def load_rungs(path: str | Path) -> tuple[Bundle, ...]:
    """Load the rungs of the ladder at `path`, or the one bundle that is there. BundleError: neither is there."""
    loaded = load_any(path)
    return loaded.rungs if isinstance(loaded, Ladder) else (loaded,)


One: TypeAlias = str | Path | Bundle | Ladder
OneOrMore: TypeAlias = One | Sequence[One]


def load_all(given: OneOrMore) -> list[Bundle]:
    """Load bundles and rungs of ladders, by path or as they are. InputError: none. BundleError: see `load_any`."""
    bundles: list[Bundle] = []
    for each in given if isinstance(given, Iterable) and not isinstance(given, str) else [given]:
        if isinstance(each, (str, Path)):
            bundles += load_rungs(each)
        elif isinstance(each, Ladder):
            bundles += each.rungs
        elif isinstance(each, Bundle):
            bundles.append(each)
        else:
            raise InputError(f"a bundle is given as {type(each).__name__}; give a Bundle, a Ladder, or the path of one")
    if not bundles:
        raise InputError("no bundle is given; give at least one")
    return bundles


def write_ladder(path: str | Path, bundles: Iterable[Bundle], name: str | None = None) -> Ladder:
    """Write a ladder, whole or not at all, in place of one at `path`; its name is the network's unless given.

    InputError: no bundle, bundles of different networks, or two of one cut. BundleError: `path` is anything but a
    ladder, or can't be written.
    """
    target = Path(os.path.realpath(path))
    rungs = in_order(list(bundles))
    try:
        check_replaceable(target)
        with replacing(target) as fresh:
            fill(fresh, rungs, name or rungs[0].manifest.model)
            Ladder.load(fresh)
    except OSError as error:
        raise BundleError(f"ladder {target}: can't be written: {error.strerror}; give another path") from error
    return Ladder.load(target)


def in_order(bundles: Sequence[Bundle]) -> list[Bundle]:
    """Sort from the shallowest to the deepest cut. InputError: as `write_ladder`."""
    if not bundles:
        raise InputError("a ladder needs bundles; give one at least")
    seen: dict[str, Bundle] = {}
    for bundle in bundles:
        first, manifest = bundles[0], bundle.manifest
        if (manifest.model, bundle.labels) != (first.manifest.model, first.labels):
            what = f"{first.path} is of {first.manifest.model} and {bundle.path} of {manifest.model}"
            raise InputError(f"{what}, or their labels differ; a ladder is of one network")
        if (other := seen.setdefault(manifest.cut, bundle)) is not bundle:
            raise InputError(f"{other.path} and {bundle.path} are both cut at {manifest.cut}; give one of them")
    return by_depth(bundles)


def by_depth(bundles: Iterable[Bundle]) -> list[Bundle]:
    """Sort from the shallowest to the deepest cut; equally deep ones keep their order."""
    return sorted(bundles, key=lambda each: each.manifest.head_flops_share)


def fill(folder: Path, bundles: Sequence[Bundle], name: str) -> None:
    """Write all files of a ladder into an empty folder. OSError: it can't be written."""
    rungs = []
    with open(folder / STORE, "xb") as file:
        writer = StoreWriter(file)
        for bundle, rung in zip(bundles, folders(bundles), strict=True):
            (folder / rung).mkdir()
            for each in (MANIFEST, *bundle.manifest.files):
                if each in GRAPHS:
                    graph = bundle.graph(each)
                    writer.add(graph if isinstance(graph, bytes) else graph.read_bytes())
                else:
                    write_new(folder / rung / each, bundle.path / each)
            sync_folder(folder / rung)
            rungs.append(Rung(rung, bundle.id.hex()))
        file.flush()
        os.fsync(file.fileno())
    graphs = {digest: tuple(stretches) for digest, stretches in writer.graphs.items()}
    write_new(folder / LADDER, Contents(name, bundles[0].manifest.model, tuple(rungs), graphs).to_json())
    sync_folder(folder)


def folders(bundles: Sequence[Bundle]) -> list[str]:
    """Name a folder for each rung after its cut; no two are equal, and none is ladder.json or store.bin."""
    names: list[str] = []
    taken = {LADDER, STORE}
    for bundle in bundles:
        plain = NOT_IN_A_NAME.sub("-", bundle.manifest.cut)[:50]
        name = plain if plain[0].isalnum() else f"cut{plain}"
        while name.lower() in taken:
            name += "-"
        taken.add(name.lower())
        names.append(name)
    return names


def check_replaceable(target: Path) -> None:
    """Raise BundleError if something is at `target` that is not a ladder and nothing but a ladder."""
    if not target.exists():
        return
    advice = "choose another path, or move it away"
    if not (target / LADDER).is_file():
        raise BundleError(f"ladder {target}: something is there that is no ladder; {advice}")
    rungs = {rung.folder for rung in read_contents(target).rungs}
    # To replace is to delete, so what is not the ladder's own must not be in there.
    own = {target: {LADDER, STORE, *rungs}}
    for rung in filter(Path.is_dir, (target / name for name in rungs)):
        own[rung] = {MANIFEST, *read_manifest(rung).files}
    for folder, names in own.items():
        if strangers := {entry.name for entry in folder.iterdir()} - names:
            raise BundleError(f"ladder {target}: {folder.name} also holds {min(strangers)}; {advice}")
