"""Is each photo answered once, and right, when everything goes wrong at once?

    bottlenet send (killed, on a disk that is full now and then) -> ShapedLink: delay, packets lost
        -> Proxy: cut, answers lost, twice and in another order -> bottlenet serve (killed)

Where the bundle has an exit, the device answers some photos itself, reports that, and has a tenth of it audited. Real
processes, and a spool in memory where there is such a place: thousands of syncs would only wait for the disk. What
the answers should be is computed in this process. tests/test_chaos.py runs it shortened.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

from bottlenet.bundle import Bundle
from bottlenet.cloud import Decoder
from bottlenet.edge import Encoder
from bottlenet.edge.prediction import DEVICE, SERVER, Answered, parse_outcome
from bottlenet.edge.spool import ANSWERED, Record, is_spool, records
from bottlenet.errors import InputError
from bottlenet.measure.link import ShapedLink
from bottlenet.plan.link import Link
from bottlenet.wire.answer import Answer, Top, parse_answer
from chaos_proxy import EVERY, Proxy
from record import Json, parser, run_script, show, write_record

UPLINK_BPS = 1e6
LOST_PACKETS = 0.05  # each costs as much again, and what comes after it has to wait, as TCP has it
CUT_UPWARDS = 40  # frames, about
TIMEOUT_S = 1.5  # that the device waits for an answer
STUCK_S = 120.0  # without the answers that a kill waits for
AUDIT = 0.1
SCORE = 5e-5  # two scores are the same: another batch rounds otherwise
IN_MEMORY = "/dev/shm"
PYTHON = [sys.executable, "-W", "error"]
# `bottlenet send`, whose spool finds no room at each 53rd write, and notes that in a file.
SENDING = """
import itertools, os, sqlite3, sys
from bottlenet import cli
from bottlenet.edge.spool import Spool

class Disk(sqlite3.Connection):
    def execute(self, sql, *values):
        if sql == "COMMIT" and next(count) % 53 == 0:
            os.write(full, b"x")
            raise sqlite3.OperationalError("database or disk is full")
        return super().execute(sql, *values)

full = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
count = itertools.count(os.getpid() % 53)
Spool.__init__.__kwdefaults__["connection"] = Disk
cli.main()
"""


Right: TypeAlias = tuple[str, Top]
"""Who answers a photo, and what."""


class Server:
    """`bottlenet serve`, on another port each time."""

    def __init__(self, bundle: Bundle) -> None:
        self._command = [*PYTHON, "-m", "bottlenet.cli", "serve", str(bundle.path), "--port", "0"]
        self.kills = -1
        self.start()

    def start(self) -> None:
        """Once more. InputError: it does not."""
        self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        found = re.search(r"ws://127\.0\.0\.1:(\d+)", self.process.stdout.readline())
        if not found:
            raise InputError("the server does not start; its error is above")
        self.port = int(found[1])
        self.kills += 1

    def kill(self) -> None:
        """Kill it as a power cut would."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Device:
    """`bottlenet send`, with all photos of the album; what it says is in out and err."""

    def __init__(self, bundle: Bundle, url: str, folder: Path) -> None:
        self.folder, self.spool = folder, folder / "spool"
        options = ["--to", url, "--spool", self.spool, "--bundle", bundle.path, "--timeout", TIMEOUT_S]
        options += ["--report-answers", "--audit", AUDIT] if bundle.manifest.exit else []
        command = [
            *PYTHON,
            "-c",
            SENDING,
            folder / "full",
            "send",
            folder / "album",
            *options,
            "--in-flight",
            5,
            "--json",
        ]
        self._command = list(map(str, command))
        self.kills = -1
        self.start()

    def start(self) -> None:
        """Once more."""
        with open(self.folder / "out", "wb") as out, open(self.folder / "err", "wb") as err:  # a pipe would fill up
            self.process = subprocess.Popen(self._command, stdout=out, stderr=err)
        self.kills += 1

    def kill(self) -> None:
        """Kill it as a power cut would."""
        self.process.kill()
        self.process.wait()

    def wait_for(self, count: int) -> None:
        """Until so many answers are stored. InputError: they aren't, or the process ended."""
        ends = time.monotonic() + STUCK_S
        while (there := len(answers_in(self.spool))) < count:
            if self.process.poll() is not None or time.monotonic() > ends:
                end = (self.folder / "err").read_text(encoding="utf-8")[-500:]
                raise InputError(f"{there} answers are stored where {count} should be: {' '.join(end.split())}")
            time.sleep(0.05)


def answers_in(spool: Path) -> list[Record]:
    """List what is stored, also while a device is at work."""
    return [record for record in records(spool) if record.status == ANSWERED] if is_spool(spool) else []


def make_album(folder: Path, count: int) -> list[Path]:
    """Crop the shipped photos into photos that all differ."""
    folder.mkdir()
    rng = np.random.default_rng(5)
    found = sorted((Path(__file__).parent.parent / "src/bottlenet/demo/photos").glob("*.jpg"))
    shipped = [Image.open(path).convert("RGB") for path in found]
    made = [folder / f"{number:04d}.jpg" for number in range(count)]
    for number, path in enumerate(made):
        photo = shipped[number % len(shipped)]
        size = int(min(photo.size) * rng.uniform(0.5, 0.9))
        left, top = (int(rng.integers(0, side - size + 1)) for side in photo.size)
        photo.crop((left, top, left + size, top + size)).resize((256, 256)).save(path, quality=85)
    return made


def right_answers(bundle: Bundle, photos: Sequence[Path]) -> tuple[dict[str, Right], int]:
    """Return the answers of an undisturbed device and server, and the size of the largest message on the way up."""
    reports = {"report_answers": True, "audit": AUDIT} if bundle.manifest.exit else {}
    encoder, decoder = Encoder(bundle, **reports), Decoder(bundle)
    right, largest = {}, 0
    for photo in photos:
        processed = encoder.work(photo)
        assert processed.frame is not None
        largest = max(largest, len(processed.frame.to_stream_bytes()))
        if isinstance(processed.result, Answer):
            right[str(photo)] = DEVICE, processed.result.top
            continue
        (answer,) = decoder.answers([processed.frame])
        assert isinstance(answer, Answer)
        right[str(photo)] = SERVER, parse_answer(answer.to_bytes()).top
    return right, largest


def same(given: Answered, right: Right) -> bool:
    """Tell if two answers have the same classes and scores in the same order, from the same side."""
    by, top = right
    pairs = [(choice.class_index, choice.score) for choice in given.top]
    return (
        given.by == by
        and [index for index, _ in pairs] == [index for index, _ in top]
        and all(abs(mine - share) <= SCORE for (_, mine), (_, share) in zip(pairs, top, strict=True))
    )


def live(device: Device, server: Server, photos: int, kills: int) -> None:
    """Until all is sent, with so many kills of the server and as many of the device in between."""
    for turn in range(2 * kills):
        device.wait_for(photos * (turn + 1) // (2 * kills + 1))
        one = device if turn % 2 else server
        one.kill()
        one.start()
    try:
        device.process.wait(60 + photos)
    except subprocess.TimeoutExpired:
        return  # what is stored by then counts


def judge(device: Device, right: dict[str, Right]) -> dict[str, int]:
    """Find out what became of the photos, from the spool and from the device's last run."""
    stored = [parse_outcome(json.dumps(record.outcome).encode()) for record in answers_in(device.spool)]
    names = [one.photo for one in stored]
    lines = [json.loads(line) for line in (device.folder / "out").read_text(encoding="utf-8").splitlines()]
    return {
        "stored": len(stored),
        "missing": len(right.keys() - set(names)),
        "duplicates": len(names) - len(set(names)),
        "wrong": sum(
            not isinstance(one, Answered) or one.photo not in right or not same(one, right[one.photo]) for one in stored
        ),
        "left_over": sum(record.status != ANSWERED for record in records(device.spool)),
        "said_answered": len({line["photo"] for line in lines if line["status"] == "answered"}),
        "answered_by_the_device": sum(by == DEVICE for by, _ in right.values()),
        "different_answers": len(set(right.values())),  # so many photos' answers would show if they were another's
    }


def chaos(bundle: Bundle, folder: Path, arguments: argparse.Namespace) -> dict[str, Json]:
    """Run the mishaps and count what became of every photo."""
    photos = make_album(folder / "album", arguments.photos)
    right, largest = right_answers(bundle, photos)
    started = time.monotonic()
    with ExitStack() as stack:
        server = Server(bundle)
        stack.callback(server.kill)
        proxy = Proxy(lambda: server.port, CUT_UPWARDS * largest + 1)
        stack.callback(proxy.close)
        bad = Link("bad", UPLINK_BPS, arguments.delay_ms / 1e3, loss=LOST_PACKETS)
        link = ShapedLink("127.0.0.1", proxy.port, bad, seed=3)
        stack.callback(link.close)
        device = Device(bundle, link.url, folder)
        stack.callback(device.kill)
        live(device, server, len(photos), arguments.kills)
        status = device.process.poll()
    happened = {name: proxy.done[name] for name in (*EVERY, "cut upwards")}
    happened |= {"packets lost up": link.lost_packets[0], "packets lost down": link.lost_packets[1]}
    happened["writes without room"] = (folder / "full").stat().st_size
    found = judge(device, right)
    return {
        "bundle_id": bundle.id.hex(),
        "photos": len(photos),
        "delay_ms": arguments.delay_ms,
        "lost_share": LOST_PACKETS,
        "uplink_bps": UPLINK_BPS,
        "kills": {"server": server.kills, "device": device.kills},
        "happened": happened,
        **found,
        "exit_status": status,
        "seconds": time.monotonic() - started,
        "met": status == 0 and min(happened.values()) > 0 and is_well(found, len(photos)),
    }


def is_well(found: dict[str, int], photos: int) -> bool:
    """Tell if each photo has one answer, none of them wrong, with nothing left over."""
    each = found["stored"] == found["said_answered"] == photos and not found["missing"]
    return each and found["duplicates"] == found["wrong"] == found["left_over"] == 0


def run(arguments: argparse.Namespace) -> None:
    """Live through it, show, write."""
    if arguments.photos < 1 or arguments.kills < 0 or arguments.delay_ms < 0:
        raise InputError("photos, kills or delay-ms is too small; give one photo at least, and nothing below 0")
    bundle = Bundle.load(arguments.bundle)
    place = IN_MEMORY if os.access(IN_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        results = chaos(bundle, Path(folder), arguments)
    plain = {name: value for name, value in results.items() if isinstance(value, int)}
    counted = {**plain, **{f"killed: {name}": value for name, value in results["kills"].items()}, **results["happened"]}
    rows = [[name.replace("_", " "), f"{value:,}"] for name, value in counted.items() if not isinstance(value, bool)]
    show(f"{results['photos']:,} photos in {results['seconds']:.0f} s", ["what", "how often"], rows)
    write_record("chaos", results, arguments.out)
    if not results["met"]:
        raise InputError("not each photo has one right answer, or not everything went wrong; the record says what")


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--bundle", default="demo", help="demo: the one in the package")
    made.add_argument("--photos", type=int, default=1000, help="made of the shipped ones")
    made.add_argument("--kills", type=int, default=20, help="of the server, and as many of the device")
    made.add_argument("--delay-ms", type=float, default=300.0, help="of the link, there and back")
    run_script(made, run)


if __name__ == "__main__":
    main()
