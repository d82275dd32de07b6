"""The artefact that both sides hold: a folder with a manifest, the two halves of the network, and the labels.

    my.bundle/
      manifest.json    what it is and how to feed it, at most 1 MiB
      head.onnx        pixels (B, size, size, 3) uint8 -> symbols (B, C, H, W) uint8
      exit.onnx        optional: pixels -> scores of the device alone, and perhaps features for head.onnx
      tail.onnx        symbols (B, C, H, W) uint8 -> scores (B, classes) float32, logits
      labels.txt       one label a line, UTF-8, in class order
      uncut.onnx       optional: pixels -> scores, the whole network
      tables.bin       with the codec `entropy` only: its probabilities

Normalisation, rounding and ranges are inside the graphs, so nothing else is needed to run it. Loading verifies the
SHA-256 of every file, and the id stands for the whole content: device and server that name the same id hold the
same bundle. A graph with weights in another file is refused, as no hash would cover them. A rung of a ladder
(`ladder.py`) is a bundle whose graphs are in the ladder's store.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from bottlenet.bundle.graph import STORE, Store, fault
from bottlenet.bundle.manifest import LADDER, TABLES, Manifest, Preprocess, parse_manifest, read_contents
from bottlenet.errors import BundleError, FrameError, InputError
from bottlenet.files import file_chunks, read_bounded, replacing, sync_folder, write_new
from bottlenet.records import check_text
from bottlenet.wire.codecs import CODES, Codec, make_codec
from bottlenet.wire.mosaic import Mosaic
from bottlenet.wire.tables import MAX_TABLES_BYTES, Tables, parse_tables

__all__ = ["Bundle", "Manifest", "Preprocess", "write_bundle"]

MANIFEST = "manifest.json"
REQUIRED_FILES = ("head.onnx", "tail.onnx", "labels.txt")
GRAPHS = ("head.onnx", "exit.onnx", "tail.onnx", "uncut.onnx")
MAX_MANIFEST_BYTES = 2**20
MAX_LABELS_BYTES = 2**24
MAX_BUNDLE_BYTES = 2**31
DEMO = Path(__file__).parent.parent / "demo" / "bundle"


@dataclass(frozen=True, eq=False)
class Bundle:
    """A verified bundle on disk. `Bundle.load` and `write_bundle` make them."""

    path: Path
    manifest: Manifest
    labels: tuple[str, ...]  # in class order
    tables: Tables | None = None  # of the codec, where it has any
    store: Store | None = None  # where the graphs of a ladder's rung are; None: in the folder

    @classmethod
    def load(cls, path: str | Path) -> Bundle:
        """Read and verify the bundle in the folder `path`, or the one that comes with the package: "demo".

        BundleError: no such folder, another version, a file missing, too large, or not what the manifest says.
        """
        folder = DEMO if path == "demo" else Path(path)
        try:
            manifest = read_manifest(folder)
            store = store_of(folder)
            verify_files(folder, manifest.files, store)
            labels = read_labels(folder, manifest.num_classes)
            return cls(folder, manifest, labels, read_tables(folder, manifest), store)
        except OSError as error:
            raise BundleError(f"bundle {folder}: can't read {error.filename or 'a file'}: {error.strerror}") from error

    @cached_property
    def id(self) -> bytes:
        """32 bytes that stand for the whole content."""
        return hashlib.sha256(self.manifest.to_json()).digest()

    @property
    def tag(self) -> bytes:
        """The first 3 bytes of the id, which every frame carries."""
        return self.id[:3]

    @cached_property
    def codec(self) -> Codec:
        return self.manifest.make_codec(self.tables)

    def codec_of(self, code: int, setting: int) -> Codec:
        """Make the codec that a frame names, perhaps another than the bundle's. FrameError: it can't have that one."""
        if (code, setting) == (self.codec.code, self.codec.setting):
            return self.codec
        if code not in CODES:
            known = ", ".join(f"{number} ({name})" for number, name in CODES.items())
            raise FrameError(f"frame is of codec {code}; this side knows {known}")
        try:
            return make_codec(CODES[code], self.mosaic, setting, self.tables)
        except InputError as error:
            raise FrameError(f"frame can't be decoded: {error}") from error

    @property
    def mosaic(self) -> Mosaic:
        return self.codec.mosaic

    def graph(self, name: str) -> Path | bytes:
        """Return a graph, such as head.onnx: its file, or its content in a store. BundleError: the store changed."""
        return self.path / name if self.store is None else self.store.read(self.manifest.files[name])

    @cached_property
    def size(self) -> int:
        """Bytes of all files together, the manifest aside; of a rung as if it were alone."""
        return sum(file_sizes(self.path, self.manifest.files, self.store).values())

    @property
    def uncut_path(self) -> Path | None:
        """The whole network, where the bundle has it; a rung has no such file, see `graph`."""
        return self.path / "uncut.onnx" if "uncut.onnx" in self.manifest.files else None


def write_bundle(path: str | Path, manifest: Manifest, files: Mapping[str, bytes | Path]) -> Bundle:
    """Write a bundle, whole or not at all, in place of one at `path`; the `files` of `manifest` are computed.

    `files` maps names to contents, or to files to copy; head.onnx, tail.onnx and labels.txt must be there. BundleError:
    `path` is anything else, a file is missing, the result is no valid bundle, or it can't be written.
    """
    target = Path(os.path.realpath(path))
    if missing := [name for name in REQUIRED_FILES if name not in files]:
        raise BundleError(f"bundle {target}: {missing[0]} is missing; give {', '.join(REQUIRED_FILES)}")
    dataclasses.replace(manifest, files=dict.fromkeys(files, "0" * 64))  # refuses a name that is a path
    try:
        check_replaceable(target)
        with replacing(target) as fresh:
            digests = {name: write_new(fresh / name, content) for name, content in files.items()}
            complete = dataclasses.replace(manifest, files=digests)
            write_new(fresh / MANIFEST, complete.to_json(indent=2) + b"\n")
            sync_folder(fresh)
            bundle = Bundle.load(fresh)
    except OSError as error:
        named = error.filename and str(error.filename) != str(target)  # a full disk names no file
        place = f"{error.filename}: " if named else ""
        raise BundleError(f"bundle {target} can't be written: {place}{error.strerror}; give another path") from error
    return dataclasses.replace(bundle, path=target)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest in `folder`. BundleError: no folder, or no manifest that this version reads."""
    if not folder.is_dir():
        what = "it is no folder" if folder.exists() else "there is no such folder"
        raise BundleError(f"bundle {folder}: {what}; give the folder that holds {MANIFEST}")
    if (folder / LADDER).is_file():
        names = ", ".join(sorted(each.parent.name for each in folder.glob(f"*/{MANIFEST}"))[:20])
        raise BundleError(f"bundle {folder}: it is a ladder of several bundles; give a folder in it: {names}")
    if not (folder / MANIFEST).is_file():
        raise BundleError(f"bundle {folder}: it has no {MANIFEST}, so it is no bundle; give another folder")
    try:
        manifest = parse_manifest(read_bounded(folder / MANIFEST, MAX_MANIFEST_BYTES))
    except InputError as error:
        raise BundleError(f"bundle {folder}: {MANIFEST} can't be used: {error}") from error
    if missing := [name for name in REQUIRED_FILES if name not in manifest.files]:
        raise BundleError(f"bundle {folder}: {MANIFEST} does not list {missing[0]}; export the bundle again")
    if (manifest.exit is None) == ("exit.onnx" in manifest.files):
        raise BundleError(f"bundle {folder}: {MANIFEST} must have exit and list exit.onnx, or neither; export it again")
    if manifest.needs_tables != (TABLES in manifest.files):
        fault = f"needs {TABLES}, which is not listed" if manifest.needs_tables else f"has no use for {TABLES}"
        raise BundleError(f"bundle {folder}: the codec {manifest.codec} {fault}; export the bundle again")
    return manifest


def store_of(folder: Path) -> Store | None:
    """Open the store of the ladder that has this rung; None: it is no rung. BundleError: ladder.json can't be used."""
    ladder = Path(os.path.realpath(folder)).parent
    if (folder / REQUIRED_FILES[0]).exists() or not (ladder / LADDER).is_file():
        return None
    return Store(ladder / STORE, read_contents(ladder).graphs)


def verify_files(folder: Path, digests: Mapping[str, str], store: Store | None) -> None:
    """Raise BundleError unless every file is there, has its SHA-256, and needs no other. Sizes are checked first."""
    sizes = file_sizes(folder, digests, store)
    if (total := sum(sizes.values())) > MAX_BUNDLE_BYTES:
        raise BundleError(f"bundle {folder}: it has {total} bytes; at most {MAX_BUNDLE_BYTES} are allowed")
    for name, digest in digests.items():
        chunks = partial(file_chunks, folder / name)
        if store is not None and name in GRAPHS:
            chunks = partial(store.chunks, digest)
        hasher = hashlib.sha256()
        for chunk in chunks():
            hasher.update(chunk)
        if hasher.hexdigest() != digest:
            what = f"{name} ({sizes[name]} bytes) is not the file that the manifest names: it was truncated or changed"
            raise BundleError(f"bundle {folder}: {what}; copy the bundle again")
        if name in GRAPHS and (why := fault(chunks)):
            raise BundleError(f"bundle {folder}: {name} can't be used: {why}")


def file_sizes(folder: Path, digests: Mapping[str, str], store: Store | None) -> dict[str, int]:
    """Measure each file in bytes. BundleError: one is missing."""
    sizes = {}
    for name, digest in digests.items():
        if store is not None and name in GRAPHS:
            sizes[name] = store.size(digest)
        elif (folder / name).is_file():
            sizes[name] = (folder / name).stat().st_size
        else:
            raise BundleError(f"bundle {folder}: {name} is missing; copy the whole folder again")
    return sizes


def read_labels(folder: Path, num_classes: int) -> tuple[str, ...]:
    """Read labels.txt. BundleError: not UTF-8, not `num_classes` lines, or a line that is no label."""
    try:
        text = read_bounded(folder / "labels.txt", MAX_LABELS_BYTES).decode()
        # Only "\n" ends a line: splitlines would also cut at characters that a label may hold.
        labels = tuple(text.removesuffix("\n").split("\n"))
        for number, label in enumerate(labels, 1):
            check_text(f"line {number}", label, 500)
    except (UnicodeDecodeError, InputError) as error:
        raise BundleError(f"bundle {folder}: labels.txt can't be used: {error}") from error
    if len(labels) != num_classes:
        what = f"labels.txt has {len(labels)} labels for {num_classes} classes"
        raise BundleError(f"bundle {folder}: {what}; give one a line")
    return labels


def read_tables(folder: Path, manifest: Manifest) -> Tables | None:
    """Read tables.bin, if the codec needs it. BundleError: damaged, or for another latent than the manifest's."""
    if not manifest.needs_tables:
        return None
    try:
        tables = parse_tables(read_bounded(folder / TABLES, MAX_TABLES_BYTES))
        manifest.make_codec(tables)
    except (BundleError, InputError) as error:
        raise BundleError(f"bundle {folder}: {TABLES} can't be used: {error}") from error
    return tables


def check_replaceable(target: Path) -> None:
    """Raise BundleError if something is at `target` that is not a bundle and nothing but a bundle."""
    if not target.exists():
        return
    advice = "choose another path, or move it away"
    if not target.is_dir() or not (target / MANIFEST).is_file():
        raise BundleError(f"bundle {target}: something is there that is no bundle; {advice}")
    if (target.parent / LADDER).is_file():
        raise BundleError(f"bundle {target}: it is a rung of a ladder, which would not fit any more; {advice}")
    # To replace is to delete, so what is not the bundle's own must not be in there, nor another format's manifest.
    strangers = {entry.name for entry in target.iterdir()} - {MANIFEST, *read_manifest(target).files}
    if strangers:
        raise BundleError(f"bundle {target}: the folder also holds {min(strangers)}; {advice}")
