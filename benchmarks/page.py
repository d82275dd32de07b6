"""Is the page's browser as good a device as Python?

Each photo goes through Python's encoder and decoder, and through the page's modules in Chromium and a server process.
Compared are the answers and, byte by byte, pixels, symbols and payload. `--pictures docs` also takes the pictures of
the page that the documentation shows.
"""

from __future__ import annotations

import argparse
import io
import statistics
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from bottlenet.bundle import Bundle
from bottlenet.cloud.decoder import Decoder
from bottlenet.cloud.vendor import RUNTIME
from bottlenet.demo.run import PHOTOS as DEMO_PHOTOS
from bottlenet.edge.encoder import Encoder
from bottlenet.errors import BottleNetError
from bottlenet.measure.bench import split_server
from bottlenet.photo import photo_to_pixels
from bottlenet.photos.folders import list_photos
from chromium import Made, Visit, launch
from record import Json, parser, run_script, show, write_record, write_whole

TARGET_MS = 150  # head, encode and answer of one photo
WARM_UP = 5
TIMED = ("head", "encode", "answer")
ANY_BUDGET = 2**24
PICTURES = {"page-desktop": ((1180, 1000), "light"), "page-phone": ((360, 780), "dark")}  # size of the window, colours
SHOWN = "german_shepherd.jpg"
PICTURE_QUALITY = 80


def compare(bundle: Bundle, paths: list[Path], visit: Visit) -> tuple[list[dict[str, float]], list[Made]]:
    """Count for each photo what is equal, 1 or 0, and how many symbols are not; and return what the page said."""
    encoder, decoder = Encoder(bundle), Decoder(bundle)
    budget = bundle.manifest.budget_bytes or ANY_BUDGET
    rows, all_made = [], []
    for path in [*paths[:WARM_UP], *paths]:
        made = visit.device(bundle.id.hex(), path.read_bytes(), budget)
        all_made.append(made)
    for path, made in zip(paths, all_made[-len(paths) :], strict=True):
        encoded = encoder.encode(path)
        (answer,) = decoder.answers([encoded.frame])
        if isinstance(answer, BottleNetError):
            raise answer
        symbols = np.frombuffer(made.symbols, np.uint8).reshape(bundle.manifest.latent)
        rows.append(
            {
                "same_top1": made.top[0] == answer.top[0][0],
                "pixels_equal": photo_to_pixels(path, bundle.manifest.preprocess).tobytes() == made.pixels,
                "symbols_equal": np.array_equal(symbols, encoded.symbols),
                "symbols_that_differ": int((symbols != encoded.symbols).sum()),
                "payload_equal": made.payload == encoded.frame.payload,
                "payload_equal_given_symbols": made.payload == bundle.codec.encode(symbols)[:budget],
            }
        )
    return rows, all_made[-len(paths) :]


def take_pictures(visit: Visit) -> dict[str, bytes]:
    """Take pictures of the page with a photo answered, as WebP. The browser is warm, as its times are shown."""
    page, taken = visit.page, {}
    for _ in range(WARM_UP):
        visit.choose(DEMO_PHOTOS / SHOWN)
        visit.done()
    page.get_by_role("button", name="Compare").click()
    page.locator("#uncut-top li").first.wait_for()
    for name, ((width, height), colours) in PICTURES.items():
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=colours)  # type: ignore[arg-type]
        page.wait_for_timeout(500)  # what depends on the window is drawn again
        buffer = io.BytesIO()
        Image.open(io.BytesIO(page.screenshot(full_page=True))).save(buffer, "WEBP", quality=PICTURE_QUALITY)
        taken[name] = buffer.getvalue()
    return taken


def spread(values: list[float]) -> dict[str, Json]:
    """Summarise milliseconds."""
    return {"median": statistics.median(values), "p95": float(np.percentile(values, 95)), "max": max(values)}


def run(arguments: argparse.Namespace) -> None:
    """Compare, show, write."""
    bundle = Bundle.load(arguments.bundle)
    paths = [Path(photo.path) for photo in list_photos(arguments.data)[: arguments.photos]]
    with split_server([bundle.path]) as port, sync_playwright() as playwright, launch(playwright) as browser:
        visit = Visit(browser, f"http://127.0.0.1:{port}/", viewport={"width": 1180, "height": 900})
        visit.open()
        rows, made = compare(bundle, paths, visit)
        pictures = take_pictures(visit) if arguments.pictures else {}
        version = browser.version
        complaints, hosts = len(visit.complaints), len(visit.hosts - {""})
        foreign = len(visit.hosts - {"", urlsplit(visit.url).netloc})
    equal = {name: sum(row[name] for row in rows) for name in rows[0]}
    ms = {name: spread([one.ms[name] for one in made]) for name in ("prepare", *TIMED)}
    ms["head_encode_answer"] = spread([sum(one.ms[name] for name in TIMED) for one in made])
    total = ms["head_encode_answer"]
    show(
        f"{bundle.manifest.name} in Chromium {version}, {len(paths)} photos",
        ["as Python", "photos"],
        [[name.replace("_", " "), f"{count:,}"] for name, count in equal.items()],
    )
    show(
        f"milliseconds of one photo; target for all three {TARGET_MS}",
        ["", "median", "95 of 100", "most"],
        [[name.replace("_", " "), *(f"{each:.1f}" for each in values.values())] for name, values in ms.items()],
    )
    results: Json = {
        "bundle": bundle.manifest.name,
        "bundle_id": bundle.id.hex(),
        "data": Path(arguments.data).name,
        "browser": f"Chromium {version}",
        "runtime": f"{RUNTIME.name} {RUNTIME.version}",
        "photos": len(paths),
        "symbols": int(np.prod(bundle.manifest.latent)) * len(paths),
        **equal,
        "ms": ms,
        "complaints": complaints,
        "hosts": hosts,
        "target_ms": TARGET_MS,
        "foreign_hosts": foreign,
        "met": bool(total["median"] < TARGET_MS)
        and equal["same_top1"] == equal["payload_equal"] == len(paths)
        and complaints == foreign == 0,
    }
    write_record("page", results, arguments.out)
    for name, picture in pictures.items():  # behind the record: they would be a change of the work tree
        write_whole(arguments.pictures / f"{name}.webp", picture)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--data", default=str(DEMO_PHOTOS), help="folder of photos; the package's demo photos")
    made.add_argument("--bundle", default="demo", help="demo: the one in the package")
    made.add_argument("--photos", type=int, default=50, help="at most so many")
    made.add_argument("--pictures", type=Path, help="folder for pictures of the page")
    run_script(made, run)


if __name__ == "__main__":
    main()
