"""onnxruntime on both sides: open a graph, check it, run it, and translate its errors.

    bundle --open_head, open_tail, open_uncut--> session --run_graph--> array in, array out

The settings are for a small device: one thread, no spinning, and no memory kept beyond what one run needs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bottlenet.bundle import Bundle
from bottlenet.bundle.graph import fault
from bottlenet.errors import BundleError, InputError
from bottlenet.files import file_chunks
from bottlenet.task import Port

# onnxruntime's wheels for Linux report to Microsoft: when it is imported, it writes a device id and a database in the
# home folder, and looks for a host to send them to. Its own disable_telemetry_events() comes too late for that. No
# other file imports it when it runs; tests/test_quiet.py watches a device and a server.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
from onnxruntime import InferenceSession as InferenceSession
from onnxruntime import SessionOptions

LOG_ERRORS_ONLY = 3


def open_head(bundle: Bundle, threads: int = 1) -> InferenceSession:
    """Open the device's half: pixels -> symbols. BundleError: see `open_graph`."""
    symbols = Port("symbols", "tensor(uint8)", bundle.manifest.latent)
    return open_graph(bundle, "head.onnx", pixels_port(bundle.manifest.preprocess.size), symbols, threads)


def open_tail(bundle: Bundle, threads: int = 1) -> InferenceSession:
    """Open the server's half: symbols -> the output of the bundle's task. BundleError: see `open_graph`."""
    symbols = Port("symbols", "tensor(uint8)", bundle.manifest.latent)
    return open_graph(bundle, "tail.onnx", symbols, bundle.manifest.output, threads)


def open_uncut(bundle: Bundle, threads: int = 1) -> InferenceSession:
    """Open the uncut network: pixels -> the same output. InputError: the bundle has none. BundleError: as above."""
    if bundle.uncut_path is None:
        raise InputError(f"bundle {bundle.manifest.name} has no uncut.onnx to compare with; export it again")
    size = bundle.manifest.uncut_preprocess.size
    return open_graph(bundle, "uncut.onnx", pixels_port(size), bundle.manifest.output, threads)


def pixels_port(size: int) -> Port:
    """Describe the output of `photo_to_pixels`."""
    return Port("pixels", "tensor(uint8)", (size, size, 3))


def open_session(graph: str | Path | bytes, threads: int = 1, *, name: str | None = None) -> InferenceSession:
    """Open an ONNX file, or the bytes of one, on the CPU. Messages call it `name`.

    `threads` work on one operation; 1 starts no thread at all. InputError: threads below 1. BundleError:
    onnxruntime can't load the graph, or it has values in another file.
    """
    if threads < 1:
        raise InputError(f"threads is {threads}; give 1 or more")
    options = SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = LOG_ERRORS_ONLY
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
        raise BundleError(
            f"{called}: onnxruntime can't load it ({one_line(error)}); export the bundle again"
        ) from error
    raise BundleError(f"{called}: {why}")


def open_graph(bundle: Bundle, name: str, takes: Port, gives: Port, threads: int = 1) -> InferenceSession:
    """Open the graph `name` of a bundle, which has just this input, of uint8, and this output.

    Both are (B, *shape) with any B.

    It has run once, so that a graph that can't shows now, and the first photo is not slower than the rest.

    BundleError: it has others, a fixed batch, or can't be loaded or run.
    """
    path = bundle.path / name
    session = open_session(bundle.graph(name), threads, name=str(path))
    for kind, ports, port in (("input", session.get_inputs(), takes), ("output", session.get_outputs(), gives)):
        wanted = f"{kind} {port.name} {port.dtype} of shape (batch, {', '.join(map(str, port.shape))})"
        if [(found.name, found.type) for found in ports] != [(port.name, port.dtype)]:
            there = ", ".join(f"{found.name} {found.type}" for found in ports) or "missing"
            raise BundleError(f"{path}: its {kind} is {there}, not {wanted}; export the bundle again")
        batch, *sizes = ports[0].shape or [None]
        # A size that was left open is a name or None; running the graph tells.
        fits = len(sizes) == len(port.shape) and all(
            not isinstance(size, int) or size == want for size, want in zip(sizes, port.shape, strict=True)
        )
        if not fits or isinstance(batch, int):
            raise BundleError(f"{path}: its {kind} has shape {ports[0].shape}, not {wanted}; export the bundle again")
    output = run_graph(session, **{takes.name: np.zeros((1, *takes.shape), np.uint8)})
    if output.shape != (1, *gives.shape):
        raise BundleError(
            f"{path}: it gives {gives.name} of shape {output.shape}, not {wanted}; export the bundle again"
        )
    return session


def run_graph(session: InferenceSession, **inputs: NDArray[np.uint8]) -> NDArray[Any]:
    """Compute the graph's one output. BundleError: onnxruntime can't run it on these inputs."""
    try:
        output: NDArray[Any] = session.run(None, inputs)[0]
    except Exception as error:  # as above
        raise BundleError(f"onnxruntime can't run the graph ({one_line(error)}); export the bundle again") from error
    return output


def one_line(error: Exception) -> str:
    """Shorten what onnxruntime says to one line of 300 characters."""
    return " ".join(str(error).split())[:300]
