"""One picture to look at: a photo a row; the original, what the attacker makes of each budget, a JPEG of as many bytes.

Photos are those that come with BottleNet, unless a folder is given, so that the picture may be passed on.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bottlenet.bundle import DEMO
from bottlenet.files import write_whole
from bottlenet.lab.data import list_photos
from bottlenet.lab.evaluate import choose
from bottlenet.lab.privacy.attack import rebuilt
from bottlenet.lab.privacy.beside import fitting_jpeg
from bottlenet.lab.privacy.measure import resized
from bottlenet.lab.privacy.run import JPEG_SIDE, Attack
from bottlenet.lab.privacy.samples import Samples, centre_records
from bottlenet.photo import photo_to_pixels

OWN_PHOTOS = DEMO.parent / "photos"
GAP, LINE = 4, 34  # pixels between photos, and above them for two lines of words
WEBP_QUALITY = 82
Pixels = NDArray[np.uint8]


def show(attack: Attack) -> Path:
    """Writes pictures.webp into the attack's folder."""
    attacker = attack.attacker
    photos = choose(list_photos(attack.config.show or OWN_PHOTOS), attack.config.shown)
    scratch = Samples(attack.folder / "none", attack.latent, attack.side)
    records = np.concatenate(list(centre_records(attack.link, scratch, photos)))
    preprocess = replace(attack.bundle.manifest.preprocess, size=JPEG_SIDE)
    large = [photo_to_pixels(photos[position].source(), preprocess) for position in records["position"]]
    columns: list[tuple[str, Sequence[Pixels | None]]] = [("original", list(records["pixels"]))]
    for budget in attack.budgets:
        sent = attack.sent(records, budget)
        most = round(float(sent["payload_bytes"].mean())) if budget is None else budget
        columns.append((f"{most:,} bytes,\nattacker", list(rebuilt(attacker.inverter, attacker.scale, sent))))
        fitting = [fitting_jpeg(pixels, most, attack.side) for pixels in large]
        columns.append((f"{most:,} bytes,\nJPEG", [None if each is None else each.pixels for each in fitting]))
    path = attack.folder / "pictures.webp"
    write_whole(path, side_by_side(columns, attack.side))
    return path


def side_by_side(columns: Sequence[tuple[str, Sequence[Pixels | None]]], side: int) -> bytes:
    """Columns with their names above, as a WebP file; None is a photo that there is not."""
    cell = max(side, 96)
    rows = len(columns[0][1])
    size = (GAP + len(columns) * (cell + GAP), LINE + rows * (cell + GAP))
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for column, (name, photos) in enumerate(columns):
        left = GAP + column * (cell + GAP)
        draw.multiline_text((left, 2), name, fill="black", font=font, spacing=2)
        for row, photo in enumerate(photos):
            top = LINE + row * (cell + GAP)
            if photo is None:
                draw.rectangle((left, top, left + cell - 1, top + cell - 1), outline="black")
                draw.text((left + 8, top + cell // 2 - 8), "none fits", fill="black", font=font)
            else:
                sheet.paste(Image.fromarray(resized(photo, cell)), (left, top))
    file = io.BytesIO()
    sheet.save(file, "webp", quality=WEBP_QUALITY, method=6)
    return file.getvalue()
