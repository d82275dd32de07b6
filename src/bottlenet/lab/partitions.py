"""The server's side of the partitions in this process, to be measured; the device's is `edge.partitions`. No torch.

frame --Decoder--> answer       split
`-----Photos---> answer       cloud-only
"""

from __future__ import annotations

from collections.abc import Sequence

from bottlenet.bundle import Bundle
from bottlenet.cloud.decoder import Decoder
from bottlenet.cloud.photos import Photos
from bottlenet.errors import BottleNetError
from bottlenet.wire.answer import Answer
from bottlenet.wire.frame import Frame
from bottlenet.wire.protocol import PHOTO


class Server:
    """What the server does. BundleError: a graph does not load."""

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        self._decoder = Decoder(bundle, threads)
        self._photos = Photos(bundle, threads)

    def answers(self, frames: Sequence[Frame]) -> list[Answer]:
        """Frames of one kind. PayloadError and so on: one of them does not decode."""
        side = self._photos if frames[0].codec == PHOTO else self._decoder
        answers = []
        for answer in side.answers(frames):
            if isinstance(answer, BottleNetError):
                raise answer
            answers.append(answer)
        return answers
