"""Cameras for tests: frames whose colours tell them apart, as JPEGs and as videos, and servers that have them."""

from __future__ import annotations

import base64
import contextlib
import io
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

DEBIAN_PYTHON = "/usr/bin/python3"  # which has GStreamer, where it is installed
GSTREAMER = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst, GstRtspServer; \
Gst.init(None); assert Gst.ElementFactory.find('qtdemux')"
RTSP_SERVER = Path(__file__).parent / "rtsp_server.py"


def has_gstreamer() -> bool:
    with contextlib.suppress(OSError):
        return subprocess.run([DEBIAN_PYTHON, "-c", GSTREAMER], capture_output=True, check=False).returncode == 0
    return False


needs_gstreamer = pytest.mark.skipif(
    not has_gstreamer(), reason="needs GStreamer's RTSP server: gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-good"
)


def picture(number: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """A colour of its own."""
    colour = np.random.default_rng(number).integers(0, 256, 3, np.uint8)
    return np.broadcast_to(colour, (size[1], size[0], 3)).copy()


def jpeg(number: int, size: tuple[int, int] = (64, 48), **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(number, size)).save(file, "JPEG", **options)
    return file.getvalue()


def write_video(path: Path, pictures: Sequence[np.ndarray], *, fps: int = 25, key_every: int = 25) -> Path:
    """H.264 in a container of the path's kind."""
    with av.open(str(path), "w") as container:
        height, width = pictures[0].shape[:2]
        stream = container.add_stream(
            "libx264", rate=fps, options={"g": str(key_every), "bf": "0", "preset": "ultrafast"}
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_count = 1
        for each in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(each, format="rgb24")))
        container.mux(stream.encode())
    return path


class WebCamera:
    """An HTTP server; `answer` writes what each request gets. With `user`, it asks for one; with a certificate, TLS."""

    def __init__(
        self,
        answer: Callable[[BaseHTTPRequestHandler], None],
        user: str = "",
        port: int = 0,
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        expected = f"Basic {base64.b64encode(user.encode()).decode()}"
        self.requests: list[str] = []
        requests = self.requests

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                requests.append(self.path)
                if user and self.headers.get("Authorization") != expected:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="camera"')
                    self.end_headers()
                    return
                with contextlib.suppress(OSError):
                    answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        if certificate is not None:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(*certificate)
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
            self._server.handle_error = lambda *_: None  # who does not trust it goes
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def web_camera(answer: Callable[[BaseHTTPRequestHandler], None], **options: Any) -> Iterator[WebCamera]:
    camera = WebCamera(answer, **options)
    try:
        yield camera
    finally:
        camera.stop()


def still(data: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "image/jpeg")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    return answer


def motion(parts: Sequence[bytes], pause_s: float = 0.05) -> Callable[[BaseHTTPRequestHandler], None]:
    """MJPEG, to the end of the parts."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        request.end_headers()
        for part in parts:
            request.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + part + b"\r\n")
            time.sleep(pause_s)

    return answer


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


@contextlib.contextmanager
def rtsp_camera(video: Path, port: int, *credentials: str) -> Iterator[None]:
    """A real RTSP server that plays a file from its start to each who comes."""
    command = [DEBIAN_PYTHON, str(RTSP_SERVER), str(video), str(port), *credentials]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as popen:
        try:
            assert popen.stdout is not None
            assert popen.stdout.readline() == "ready\n"
            yield
        finally:
            popen.kill()
