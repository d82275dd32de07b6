"""What load.py compares a server with, each in a process of its own; and the bundle that costs next to nothing.

python load_servers.py echo           a bare Starlette that sends back what it gets, on uvicorn as it is out of the box
python load_servers.py bare demo 1.6  the decoder in a loop, without a server: photos a second for 1.6 s a batch size
"""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path

import numpy as np

from bottlenet.bundle import Bundle, Manifest, Preprocess, write_bundle
from bottlenet.cloud import Decoder
from bottlenet.demo.run import PHOTOS
from bottlenet.edge import Encoder
from bottlenet.wire.frame import CLASSIFY_PATH, STREAM_PATH, Frame

LATENT = (4, 10, 10)  # 400 bytes, as codec raw sends them
CLASSES = 10
BATCHES = (1, 2, 4, 8, 16)


def echo() -> None:
    """Until it is killed. Says its port first."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route, WebSocketRoute
    from starlette.websockets import WebSocket, WebSocketDisconnect

    async def post(request: Request) -> Response:
        return Response(await request.body(), media_type="application/octet-stream")

    async def stream(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while True:
                await websocket.send_bytes(await websocket.receive_bytes())
        except WebSocketDisconnect:
            pass

    app = Starlette(routes=[Route(CLASSIFY_PATH, post, methods=["POST"]), WebSocketRoute(STREAM_PATH, stream)])
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
        uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="warning")).run(sockets=[listener])


def bare(path: str, seconds: float) -> None:
    """Measure photos a second, by batch size, for so long each."""
    bundle = Bundle.load(path)
    decoder, encoder = Decoder(bundle), Encoder(bundle)
    frames = [encoder.encode(str(photo)).frame for photo in sorted(PHOTOS.glob("*.jpg"))]
    found = {}
    for size in BATCHES:
        batch = (frames * (1 + size // len(frames)))[:size]
        decoder.answers(batch)
        done, started = 0, time.perf_counter()
        while time.perf_counter() < started + seconds:
            decoder.answers(batch)
            done += size
        found[size] = done / (time.perf_counter() - started)
    print(json.dumps(found))


def trivial_bundle(folder: Path) -> tuple[Bundle, Frame]:
    """Make a network of one product, whose payload is the symbols themselves, and a frame for it."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def graph(nodes: list, takes: tuple, gives: tuple, constant: np.ndarray) -> bytes:
        ports = [[helper.make_tensor_value_info(name, kind, ["batch", *shape])] for name, kind, shape in (takes, gives)]
        made = helper.make_graph(nodes, "trivial", *ports, [numpy_helper.from_array(constant, "constant")])
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        return model.SerializeToString()

    pixels, symbols = ("pixels", TensorProto.UINT8, (40, 40, 3)), ("symbols", TensorProto.UINT8, LATENT)
    head = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "constant"], ["means"], strides=[4, 4]),
        helper.make_node("Cast", ["means"], ["symbols"], to=TensorProto.UINT8),
    ]
    tail = [
        helper.make_node("Cast", ["symbols"], ["latent"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["latent"], ["flat"]),
        helper.make_node("MatMul", ["flat", "constant"], ["scores"]),
    ]
    matrix = np.random.default_rng(7).normal(0, 0.01, (int(np.prod(LATENT)), CLASSES)).astype(np.float32)
    files = {
        "head.onnx": graph(head, pixels, symbols, np.full((4, 3, 4, 4), 1 / 48, np.float32)),
        "tail.onnx": graph(tail, symbols, ("scores", TensorProto.FLOAT, (CLASSES,)), matrix),
        "labels.txt": b"".join(b"class %d\n" % number for number in range(CLASSES)),
    }
    preprocess = Preprocess(40, 0.875, "bicubic")
    manifest = Manifest(
        "trivial", "means", "patches", "none", preprocess, preprocess, LATENT, 1, "raw", 0, 0.5, CLASSES
    )  # fmt: skip
    bundle = write_bundle(folder / "trivial", manifest, files)
    noise = np.random.default_rng(1).integers(0, 256, LATENT, dtype=np.uint8)
    return bundle, Frame(bundle.codec.code, 0, bundle.tag, 0, bundle.codec.encode(noise))


def main() -> None:
    if sys.argv[1] == "echo":
        echo()
    else:
        bare(sys.argv[2], float(sys.argv[3]))


if __name__ == "__main__":
    main()
