"""Send photos that no bad link loses: a spool on disk, while the server is away, and when it is back.

A frame leaves the spool when its answer is stored, and not before; run it again after a power cut, and it goes on.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from bottlenet import Bundle
from bottlenet.demo.run import shipped_photos
from bottlenet.edge import Answered, Backoff, Edge, Sender, Spool
from bottlenet.measure.bench import split_server


def send(bundle: Bundle, spool: Spool, photos: list[str], url: str, patience_s: float) -> int:
    """Send until all is answered or the patience is over, and count the answers."""
    answered = 0
    with Edge(bundle, url, timeout_s=5) as edge:
        sender = Sender(edge, spool, backoff=Backoff(deadline_s=patience_s))
        for outcome in sender.send(photos):
            if isinstance(outcome, Answered):
                answered += 1
                print(f"{Path(outcome.photo).name}: {outcome.label}, {outcome.payload_bytes} bytes")
    return answered


def main(photos: list[str], folder: Path) -> None:
    bundle = Bundle.load("demo")
    with Spool(folder, bundle) as spool:
        send(bundle, spool, photos, "ws://127.0.0.1:9", patience_s=1)  # nobody listens there
        print(f"without a server: {len(spool)} wait in the spool")
        with split_server([bundle.path]) as port:
            answered = send(bundle, spool, [], f"ws://127.0.0.1:{port}", patience_s=30)  # what waits
        print(f"with a server: {answered} answered, {len(spool)} wait")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(sys.argv[1:] or [str(path) for path in shipped_photos()[:3]], Path(temporary) / "spool")
