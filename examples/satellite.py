"""Send a photo as one message of a satellite modem, which takes 340 bytes, or of LoRaWAN, which takes 222.

No frame is larger than its budget; what does not fit at all is an error, and nothing is sent.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bottlenet import Bundle
from bottlenet.cloud import Decoder
from bottlenet.demo.run import shipped_photos
from bottlenet.edge import Encoder
from bottlenet.errors import BottleNetError, InputError
from bottlenet.wire.frame import parse_frame

BUDGETS = {"whole payload": 20_000, "Iridium SBD": 340, "LoRaWAN, DR5": 222, "LoRaWAN, DR0": 51, "too small": 12}


def main(photos: list[Path]) -> None:
    bundle = Bundle.load("demo")
    decoder = Decoder(bundle)
    for photo in photos:
        print(photo.name)
        for name, budget in BUDGETS.items():
            try:
                message = Encoder(bundle, budget_bytes=budget).encode(photo).frame.to_bytes()
            except InputError as error:
                print(f"  {name}: {error}")
                continue
            assert len(message) <= budget
            # ... the modem sends `message`; on the ground:
            frame = parse_frame(message, max_payload_bytes=65_536, bundle_tag=bundle.tag)
            (answer,) = decoder.answers([frame])
            if isinstance(answer, BottleNetError):
                raise answer
            class_index, probability = answer.top[0]
            print(f"  {name}: {len(message)} bytes, {bundle.labels[class_index]}, {probability:.0%}")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]] or shipped_photos()[:2])
