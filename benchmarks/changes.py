"""How many bytes does a fixed camera save by sending only what changed, what does it miss, and what does decoding cost?

Made scenes, as a camera's day is not public: real photos cross a real background, or come and stay, with noise, light
that drifts, jumps and flickers, and H.264 on the way. A frame a second is looked at, for several bounds. An event is
missed if no frame is sent while it is in what the network sees. The bound was chosen on scenes of their own, and the
curve is of others, with other backgrounds and photos.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import process_time

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from bottlenet.bundle import Bundle
from bottlenet.edge.camera import decoded
from bottlenet.edge.changes import BOUND, Changes
from bottlenet.edge.encoder import Encoder
from bottlenet.photos.folders import list_photos
from record import Json, parser, run_script, show, write_record

BOUNDS = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)
WIDTH, HEIGHT = 352, 264
FPS = 2
EVENTS = 5  # of a scene, at most
QUIET = (0.05, 0.28)  # from one event to the next, of the scene
LASTS_S = (4.0, 20.0)
SIDES = (0.2, 0.55)  # of what appears, of the frame's height
NOISE = (1.0, 5.0)  # grey levels of a pixel
CRF = (26, 36)  # H.264's quality
DRIFT, JUMP, FLICKER = 0.15, 0.08, 0.01  # of the light
SEEN = 0.875  # of the frame's height, that the network sees
MAX_MISSED, TIMES_FEWER = 0.01, 10.0  # what is asked for
DECODED_S = 10  # of 1080p


@dataclass(frozen=True)
class Event:
    """A photo that crosses the view, or comes, stays and goes."""

    starts_s: float
    ends_s: float
    ends: tuple[float, float]  # x, where it comes from and goes to
    stays: float | None  # x
    y: float
    picture: Image.Image
    mask: Image.Image

    def x(self, at_s: float) -> float | None:
        share = (at_s - self.starts_s) / (self.ends_s - self.starts_s)
        if not 0 <= share <= 1:
            return None
        stays = self.ends[0] + (self.ends[1] - self.ends[0]) / 2 if self.stays is None else self.stays
        shares = (0, 0.5, 1) if self.stays is None else (0, 0.2, 0.8, 1)
        return float(np.interp(share, shares, [self.ends[0], *[stays] * (len(shares) - 2), self.ends[1]]))

    def is_seen(self, at_s: float) -> bool:
        """Whether most of it is in the square that the network sees."""
        x, half = self.x(at_s), self.picture.width / 2
        if x is None:
            return False
        middle = abs(x + half - WIDTH / 2), abs(self.y + half - HEIGHT / 2)
        return middle[0] < SEEN * HEIGHT / 2 - half / 2 and middle[1] < SEEN * HEIGHT / 2 - half / 5


@dataclass(frozen=True)
class Scene:
    """What the head makes of a frame each second, its bytes, and the seconds in which each event is seen."""

    symbols: list[np.ndarray]
    frame_bytes: list[int]
    events: list[list[int]]


def make_events(photos: Sequence[Path], seconds: int, rng: np.random.Generator) -> list[Event]:
    events, at_s = [], 0.03 * seconds
    for path in photos:
        at_s += seconds * rng.uniform(*QUIET)
        side = int(HEIGHT * rng.uniform(*SIDES))
        with Image.open(path) as photo:
            least = min(photo.size)
            box = tuple((size - least) / 2 for size in photo.size)
            picture = photo.convert("RGB").resize((side, side), box=(*box, *(edge + least for edge in box)))
        mask = Image.new("L", (side, side))
        ImageDraw.Draw(mask).ellipse((2, 2, side - 3, side - 3), fill=255)
        ends = [(-side, WIDTH), (WIDTH, -side)][rng.integers(2)]
        stays = rng.uniform(0.2, 0.8) * WIDTH - side / 2 if rng.integers(2) else None
        y = rng.uniform(0.15, 0.85) * HEIGHT - side / 2
        ends_s = at_s + rng.uniform(*LASTS_S)
        events.append(Event(at_s, ends_s, ends, stays, y, picture, mask.filter(ImageFilter.GaussianBlur(1.5))))
    return [event for event in events if event.ends_s < seconds]


def light(seconds: int, rng: np.random.Generator) -> np.ndarray:
    """How bright each frame is, 1 in the middle: the sun's way, two clouds, and a lamp."""
    times = np.arange(seconds * FPS) / FPS
    made = 1 + DRIFT * np.sin(2 * np.pi * (times / rng.uniform(200, 900) + rng.uniform()))
    for _ in range(2):
        passing = np.clip((times - rng.uniform(0, seconds)) / rng.uniform(0.3, 5), -50, 50)
        made += rng.choice([-1, 1]) * JUMP / (1 + np.exp(-passing))
    return made * (1 + FLICKER * rng.normal(size=len(times)))  # type: ignore[no-any-return]


def make_scene(
    background: Path, photos: Sequence[Path], seconds: int, encoder: Encoder, rng: np.random.Generator
) -> Scene:
    events, brightness, noise = make_events(photos, seconds, rng), light(seconds, rng), rng.uniform(*NOISE)
    with Image.open(background) as photo:
        empty = photo.convert("RGB").resize((WIDTH, HEIGHT))
    grain = [rng.normal(0, noise, (HEIGHT, WIDTH, 1)).astype(np.float32) for _ in range(25)]

    def frames() -> Iterator[np.ndarray]:
        for number in range(seconds * FPS):
            frame = empty.copy()
            for event in events:
                if (x := event.x(number / FPS)) is not None:
                    frame.paste(event.picture, (round(x), round(event.y)), event.mask)
            pixels = np.asarray(frame, np.float32) * brightness[number] + grain[rng.integers(25)]
            yield np.clip(pixels, 0, 255).astype(np.uint8)

    file = io.BytesIO()
    options = {"crf": str(rng.integers(*CRF)), "preset": "superfast", "g": "20"}
    write_video(file, frames(), (WIDTH, HEIGHT), FPS, options)
    symbols, frame_bytes = [], []
    with av.open(file) as container:
        for number, shown in enumerate(container.decode(video=0)):
            if number % FPS == 0:
                encoded = encoder.encode(shown.to_ndarray(format="rgb24"))
                symbols.append(encoded.symbols)
                frame_bytes.append(len(encoded.frame.to_stream_bytes()))
    seen = [[second for second in range(seconds) if event.is_seen(second)] for event in events]
    return Scene(symbols, frame_bytes, [each for each in seen if each])


def write_video(
    file: io.BytesIO, frames: Iterable[np.ndarray], size: tuple[int, int], fps: int, options: dict[str, str]
) -> None:
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        (stream.width, stream.height), stream.pix_fmt, stream.thread_count = size, "yuv420p", 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    file.seek(0)


def outcome(scenes: Sequence[Scene], bound: float) -> dict[str, Json]:
    sent_bytes, sent, missed = 0, 0, 0
    for scene in scenes:
        changes, times = Changes(lambda symbols: symbols, bound=bound), []  # type: ignore[arg-type, return-value]
        for second, symbols in enumerate(scene.symbols):
            if changes.look(symbols, second):
                changes.sent()
                times.append(second)
        sent, sent_bytes = sent + len(times), sent_bytes + sum(scene.frame_bytes[second] for second in times)
        missed += sum(not set(times) & set(seen) for seen in scene.events)
    events = sum(len(scene.events) for scene in scenes)
    every_bytes = sum(sum(scene.frame_bytes) for scene in scenes)
    return {
        "bound": bound,
        "sent_frames": sent,
        "sent_bytes": sent_bytes,
        "times_fewer_bytes": round(every_bytes / sent_bytes, 2),
        "missed_events": missed,
        "missed_share": round(missed / max(1, events), 4),
    }


def decoding(seconds: int) -> dict[str, Json]:
    """Seconds of one core for a second of 1080p at 25 frames, all of them decoded or key frames only, one a second."""
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 256, (68, 121, 3), np.uint8)
    picture = np.asarray(Image.fromarray(whole).resize((1936, 1088), Image.Resampling.BICUBIC))
    frames = (picture[:1080, step % 16 : step % 16 + 1920] for step in range(25 * seconds))
    file, took = io.BytesIO(), {}
    write_video(file, frames, (1920, 1080), 25, {"g": "25", "preset": "ultrafast", "crf": "23"})
    path = Path("changes_1080p.mkv")
    path.write_bytes(file.getvalue())
    try:
        for name, key_frames in (("all", False), ("key_frames", True)):
            started = process_time()
            for _ in decoded(str(path), None, key_frames, 10.0):
                pass
            took[f"{name}_s"] = round((process_time() - started) / seconds, 4)
    finally:
        path.unlink()
    return {**took, "video_bytes": len(file.getvalue()), "seconds": seconds}


def run(options: argparse.Namespace) -> None:
    rng = np.random.default_rng(options.seed)
    encoder = Encoder(Bundle.load(options.bundle))
    halves: list[list[Scene]] = []
    sources = []
    for folder in (options.backgrounds, options.photos):
        paths = [photo.path for photo in list_photos(folder)]
        sources.append([paths[place] for place in rng.permutation(len(paths))])
    for half, count in enumerate((options.calibration, options.scenes)):
        backgrounds, photos = (each[half::2] for each in sources)
        scenes = []
        for number in range(count):
            chosen = [photos[(number * EVENTS + each) % len(photos)] for each in range(EVENTS)]
            background = backgrounds[number % len(backgrounds)]
            scenes.append(make_scene(background, chosen, options.seconds, encoder, rng))
        halves.append(scenes)
    curves = [[outcome(scenes, bound) for bound in BOUNDS] for scenes in halves]
    (shipped,) = (row for row in curves[1] if row["bound"] == BOUND)
    results: dict[str, Json] = {
        "bound": BOUND,
        "scenes": len(halves[1]),
        "looks": sum(len(scene.symbols) for scene in halves[1]),
        "events": sum(len(scene.events) for scene in halves[1]),
        "every_second_bytes": sum(sum(scene.frame_bytes) for scene in halves[1]),
        "curve": curves[1],
        "calibration": {
            "scenes": len(halves[0]),
            "events": sum(len(scene.events) for scene in halves[0]),
            "curve": curves[0],
        },
        "shipped": shipped,
        "is_met": shipped["times_fewer_bytes"] >= TIMES_FEWER and shipped["missed_share"] <= MAX_MISSED,  # type: ignore[operator]
        "decoding_1080p": decoding(options.decoded),
    }
    write_record("changes", results, options.out)
    columns = ("bound", "times fewer bytes", "events missed")
    rows = [(f"{row['bound']}", f"{row['times_fewer_bytes']}", f"{row['missed_share']:.1%}") for row in curves[1]]
    show(f"A frame a second against what changed: {results['events']} events", columns, rows)


def main() -> None:
    """The command line."""
    made = parser(__doc__)
    made.add_argument("--backgrounds", required=True, help="folder of photos of places")
    made.add_argument("--photos", required=True, help="folder of photos of what appears there")
    made.add_argument("--bundle", default="demo", help="demo: the one in the package")
    made.add_argument("--scenes", type=int, default=24)
    made.add_argument("--calibration", type=int, default=10, help="scenes on which the bound is chosen")
    made.add_argument("--seconds", type=int, default=600, help="of a scene")
    made.add_argument("--decoded", type=int, default=DECODED_S, help="seconds of 1080p to decode")
    made.add_argument("--seed", type=int, default=0)
    run_script(made, run)


if __name__ == "__main__":
    main()
