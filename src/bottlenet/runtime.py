"""onnxruntime on both sides: open a graph, check it, run it, and translate its errors.

    bundle --Head--> pixels in, symbols out; with an exit, the device's own scores first
    bundle --open_tail, open_uncut--> session --run_graph--> array in, array out

The settings are for a small device: one thread, no spinning, and no memory kept beyond what one run needs.
"""

import contextlib
import os
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from bottlenet.bundle import Bundle
from bottlenet.bundle.graph import any_size, fault
from bottlenet.errors import BundleError, InputError
from bottlenet.files import file_chunks
from bottlenet.task import FLOAT, Port

# onnxruntime's wheels for Linux report to Microsoft: when it is imported, it writes a device id and a database in the
# home folder, and looks for a host to send them to. Its own disable_telemetry_events() comes too late for that. No
# other file imports it when it runs; tests/test_quiet.py watches a device and a server.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
from onnxruntime import InferenceSession as InferenceSession
from onnxruntime import SessionOptions as SessionOptions

LOG_ERRORS_ONLY, LOG_NOTHING = 3, 4
SMALLER = (6 / 7, 5 / 7, 4 / 7)  # sides of smaller photos: of 224 pixels 192, 160 and 128


class Head:
    """The device's half: pixels (B, S, S, 3) uint8 -> symbols (B, C, H, W) uint8.

        pixels --head.onnx--> symbols
        pixels --exit.onnx--> scores, features --head.onnx--> symbols      where the exit gives features

    Safe to use from several threads. BundleError: see `open_graph`; or the exit gives all photos the same scores.
    """

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        takes, scores = pixels_port(bundle.manifest.preprocess.size), bundle.manifest.output
        symbols = Port("symbols", "tensor(uint8)", bundle.manifest.latent)
        self._exit: InferenceSession | None = None
        if (own := bundle.manifest.exit) is not None and own.features is None:
            self._exit = open_graph(bundle, "exit.onnx", pixels_port(own.preprocess.size), scores, threads=threads)
        elif own is not None and own.features is not None:
            features = Port("features", FLOAT, own.features)
            self._exit = open_graph(bundle, "exit.onnx", takes, scores, features, threads=threads)
            takes = features
        self._takes = takes.name
        self._head = open_graph(bundle, "head.onnx", takes, symbols, threads=threads)
        if own is not None:
            size = own.preprocess.size
            one, other = np.random.default_rng(0).integers(0, 256, (2, 1, size, size, 3), np.uint8)
            if np.array_equal(self.look(one)[0], self.look(other)[0]):
                what = "it gives the same scores whatever it sees, and would answer for every photo"
                raise BundleError(f"{bundle.path / 'exit.onnx'}: {what}; export the bundle again")

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Compute the symbols. BundleError: onnxruntime can't run a graph on these pixels."""
        features = self.look(pixels)[1] if self._takes == "features" else None
        return self.symbols(pixels if features is None else features)

    def look(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Compute the device's own scores (B, classes), and the features (B, c, H, W) that `symbols` takes, or None."""
        assert self._exit is not None, "only where the bundle has an exit"
        scores, *features = run_all(self._exit, pixels=pixels)
        return scores, features[0] if features else None

    def symbols(self, taken: NDArray[Any]) -> NDArray[np.uint8]:
        """Compute the symbols from pixels, or from the features of `look`."""
        return cast(NDArray[np.uint8], run_graph(self._head, **{self._takes: taken}))


def open_tail(bundle: Bundle, threads: int = 1) -> InferenceSession:
    """Open the server's half: symbols -> the output of the bundle's task. BundleError: see `open_graph`."""
    symbols = Port("symbols", "tensor(uint8)", bundle.manifest.latent)
    return open_graph(bundle, "tail.onnx", symbols, bundle.manifest.output, threads=threads)


def open_uncut(bundle: Bundle, threads: int = 1) -> InferenceSession:
    """Open the uncut network: pixels -> the same output. InputError: the bundle has none. BundleError: as above."""
    if bundle.uncut_path is None:
        raise InputError(f"bundle {bundle.manifest.name} has no uncut.onnx to compare with; export it again")
    size = bundle.manifest.uncut_preprocess.size
    return open_graph(bundle, "uncut.onnx", pixels_port(size), bundle.manifest.output, threads=threads)


def sizable_uncut(bundle: Bundle) -> bytes:
    """Return uncut.onnx for photos of any size. BundleError: it is no ONNX file."""
    graph = bundle.graph("uncut.onnx")
    try:
        return any_size(graph if isinstance(graph, bytes) else graph.read_bytes())
    except ValueError as error:
        raise BundleError(f"{bundle.path}: uncut.onnx is no ONNX file ({error}); export the bundle again") from error


class SmallerPhotos:
    """The uncut network on photos that are smaller than its own, at those `sizes` at which it runs.

    BundleError: it takes no photos but those of its own size.
    """

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        own, gives = bundle.manifest.uncut_preprocess.size, bundle.manifest.output
        self.sizes: list[int] = []
        graph = sizable_uncut(bundle)
        self.session = open_graph(bundle, "uncut.onnx", pixels_port(own), gives, threads=threads, graph=graph)
        step = 32 if own >= 128 else 8
        for size in sorted({round(own * share / step) * step for share in SMALLER} - {own}, reverse=True):
            with contextlib.suppress(BundleError):  # many networks take no other size
                if run_graph(self.session, pixels=pixels_port(size).blank(1)).shape == (1, *gives.shape):
                    self.sizes.append(size)


def pixels_port(size: int) -> Port:
    """Describe the output of `photo_to_pixels`."""
    return Port("pixels", "tensor(uint8)", (size, size, 3))


def open_session(
    graph: str | Path | bytes, threads: int = 1, *, name: str | None = None, quiet: bool = False
) -> InferenceSession:
    """Open an ONNX file, or the bytes of one, on the CPU. Messages call it `name`.

    `threads` work on one operation; 1 starts no thread at all. InputError: threads below 1. BundleError:
    onnxruntime can't load the graph, or it has values in another file.
    """
    if threads < 1:
        raise InputError(f"threads is {threads}; give 1 or more")
    options = SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = LOG_NOTHING if quiet else LOG_ERRORS_ONLY
    # Measured with EfficientNet-Lite0 and batches of 1 and 8: a memory plan is kept for every batch size that ever
    # ran and costs 10 to 20 MB, while without the arena each run asks the system for its memory again, and is slower.
    options.enable_mem_pattern = False
    # Waiting threads would spin, which costs a device energy and a shared server other people's time.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Its other format would be told from ONNX by its first bytes, and `fault` knows nothing of it.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    source = graph if isinstance(graph, bytes) else str(graph)
    called = name or (source if isinstance(source, str) else "graph")
    try:
        why = fault(lambda: [graph] if isinstance(graph, bytes) else file_chunks(Path(graph)))
        if why is None:
            return InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a dozen kinds, with no base of their own
        what = f"{called}: onnxruntime can't load it ({one_line(error)})"
        raise BundleError(f"{what}; export the bundle again") from error
    raise BundleError(f"{called}: {why}")


def open_graph(
    bundle: Bundle, name: str, takes: Port, *gives: Port, threads: int = 1, graph: bytes | None = None
) -> InferenceSession:
    """Open the graph `name` of a bundle, or `graph` in its place, which has just this input and these outputs.

    All are (B, *shape) with any B.

    It has run once, so that a graph that can't shows now, and the first photo is not slower than the rest.

    BundleError: it has others, a fixed batch, or can't be loaded or run.
    """
    path = bundle.path / name
    quiet, content = graph is not None, bundle.graph(name) if graph is None else graph
    session = open_session(content, threads, name=str(path), quiet=quiet)
    for kind, found, wanted in (("input", session.get_inputs(), (takes,)), ("output", session.get_outputs(), gives)):
        named = " and ".join(f"{p.name} {p.dtype} of shape (batch, {', '.join(map(str, p.shape))})" for p in wanted)
        if [(each.name, each.type) for each in found] != [(port.name, port.dtype) for port in wanted]:
            there = ", ".join(f"{each.name} {each.type}" for each in found) or "missing"
            raise BundleError(f"{path}: its {kind} is {there}, not {kind} {named}; export the bundle again")
        for each, port in zip(found, wanted, strict=True):
            batch, *sizes = each.shape or [None]
            # A size that was left open is a name or None; running the graph tells.
            known = [want if isinstance(size, int) else size for size, want in zip(sizes, port.shape, strict=False)]
            if len(sizes) != len(port.shape) or known != sizes or isinstance(batch, int):
                what = f"its {kind} has shape {each.shape}, not {kind} {named}"
                raise BundleError(f"{path}: {what}; export the bundle again")
    for output, port in zip(run_all(session, **{takes.name: np.zeros_like(takes.blank(1))}), gives, strict=True):
        if output.shape != (1, *port.shape):
            what = f"it gives {port.name} of shape {output.shape}, not output {named}"
            raise BundleError(f"{path}: {what}; export the bundle again")
    return session


def run_graph(session: InferenceSession, **inputs: NDArray[Any]) -> NDArray[Any]:
    """Compute the graph's first output. BundleError: onnxruntime can't run it on these inputs."""
    return run_all(session, **inputs)[0]


def run_all(session: InferenceSession, **inputs: NDArray[Any]) -> list[NDArray[Any]]:
    """Compute all outputs of the graph. BundleError: as `run_graph`."""
    try:
        outputs: list[NDArray[Any]] = session.run(None, inputs)
    except Exception as error:  # as above
        raise BundleError(f"onnxruntime can't run the graph ({one_line(error)}); export the bundle again") from error
    return outputs


def one_line(error: Exception) -> str:
    """Shorten what onnxruntime says to one line of 300 characters."""
    return " ".join(str(error).split())[:300]
