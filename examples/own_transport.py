"""Send a photo over your own transport: here UDP, one datagram each way.

BottleNet makes the frame and reads the answer; how the bytes travel is nobody's business but yours.
"""

from __future__ import annotations

import socket
import sys
import threading
from pathlib import Path

from bottlenet import Bundle
from bottlenet.cloud import Decoder
from bottlenet.demo.run import shipped_photos
from bottlenet.edge import Encoder
from bottlenet.errors import BottleNetError
from bottlenet.wire.answer import parse_answer, refusal_bytes
from bottlenet.wire.frame import parse_frame

MAX_FRAME_BYTES = 65_507  # of a datagram


def serve(bundle: Bundle, server: socket.socket) -> None:
    """Answer each datagram, until an empty one comes."""
    decoder = Decoder(bundle)
    while True:
        data, device = server.recvfrom(MAX_FRAME_BYTES)
        if not data:
            return
        try:
            frame = parse_frame(data, max_payload_bytes=MAX_FRAME_BYTES, bundle_tag=bundle.tag)
            (answer,) = decoder.answers([frame])
            if isinstance(answer, BottleNetError):
                raise answer
            server.sendto(answer.to_bytes(), device)
        except BottleNetError as error:  # anybody can send anything: say what was wrong, and go on
            server.sendto(refusal_bytes(0, str(error)), device)


def main(photos: list[Path]) -> None:
    bundle = Bundle.load("demo")
    with socket.socket(type=socket.SOCK_DGRAM) as server, socket.socket(type=socket.SOCK_DGRAM) as device:
        server.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=serve, args=(bundle, server))
        thread.start()
        device.connect(server.getsockname())
        device.settimeout(10)
        encoder = Encoder(bundle)
        for number, photo in enumerate(photos):
            frame = encoder.encode(photo, sequence=number).frame.to_bytes()
            device.send(frame)
            answer = parse_answer(device.recv(MAX_FRAME_BYTES))
            assert answer.sequence == number  # which answer is whose: datagrams may overtake each other
            class_index, probability = answer.top[0]
            print(f"{photo.name}: {bundle.labels[class_index]}, {probability:.0%}, {len(frame)} bytes")
        device.send(b"")
        thread.join()


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]] or shipped_photos()[:3])
