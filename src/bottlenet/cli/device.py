"""Commands for the device: `classify`, `send`, `spool`, `encode`; and predictions of every task, as tables and JSON."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from bottlenet import files
from bottlenet.cli.options import (
    Budget,
    BundleOption,
    Force,
    Json,
    Kind,
    MaxDrop,
    PriceHour,
    PriceMb,
    Sure,
    write_whole,
)
from bottlenet.cli.show import Cell, Grid, clean, facts, print_error, print_json, say, stdout
from bottlenet.errors import InputError

if TYPE_CHECKING:
    from bottlenet.bundle import Bundle
    from bottlenet.edge import Edge, Prediction
    from bottlenet.edge.prediction import Findings, Object
    from bottlenet.edge.spool import Record
    from bottlenet.task import Task
    from bottlenet.wire.frame import Frame


To = Annotated[
    str, Option(help="Server: ws://HOST:PORT, as [bold]bottlenet serve[/] prints it. Or broker: mqtt://USER@HOST.")
]
Timeout = Annotated[float, Option(help="Seconds to wait for an answer.")]
Fallback = Annotated[
    str | None, Option(metavar="local", help="Run the whole network here while the server can't answer.")
]
TokenFile = Annotated[
    str | None,
    Option(
        metavar="FILE",
        help="File with the bearer token or the broker's password. Default: environment variable BOTTLENET_TOKEN.",
    ),
]
ReportAnswers = Annotated[
    bool, Option("--report-answers", help="Also tell the server the answers that the device is sure of.")
]
Audit = Annotated[
    float, Option(metavar="SHARE", help="Have the server check this share of them, 0 to 1: it gets their frames.")
]
PartitionName = Annotated[
    str | None, Option(metavar="auto", help="Switch between edge-only, the bundle's cuts and cloud-only.")
]
ProfileFile = Annotated[
    str | None, Option(metavar="FILE", help="For auto: a profile that bottlenet profile measured on this device.")
]
ObjectiveName = Annotated[
    str | None, Option(help="For auto: what to minimise: latency, energy, bytes or cost. Default: latency.")
]
Radio = Annotated[str | None, Option(metavar="LINK", help="For --objective energy: whose radio sends, 3g, 4g or wifi.")]
InFlight = Annotated[int, Option(help="Most frames that wait for answers at once; one with auto.")]
SpoolBytes = Annotated[int, Option(help="Most bytes on disk for waiting frames.")]
WhenFull = Annotated[str, Option(metavar="refuse|drop-oldest|drop-newest", help="What to do when the spool is full.")]
CaFile = Annotated[
    str | None,
    Option(
        metavar="FILE",
        help="Certificates to trust for wss:// and mqtts://, and https:// cameras, PEM. Default: the system's.",
    ),
]


def classify(
    photo: Annotated[list[str], Argument(help="JPEG, PNG, WebP, AVIF, TIFF, BMP or GIF.")],
    to: To,
    bundle: BundleOption = "demo",
    timeout: Timeout = 10.0,
    budget: Budget = None,
    sure: Sure = None,
    fallback: Fallback = None,
    token_file: TokenFile = None,
    ca: CaFile = None,
    maps: Annotated[
        str | None, Option(metavar="DIR", help="Write each photo's segmentation map to PHOTO.png in this folder.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    r"""Classify photos with the help of a server.

    The head of the bundle runs here and its tail on the server; both need the
    same bundle. Depending on the bundle's task, an answer is one label,
    several labels, the share of each class in the square that the network
    sees, or boxes in the photo's pixels.

    Examples:
      bottlenet classify cat.jpg --to ws://127.0.0.1:8000
      bottlenet classify *.jpg --to wss://photos.example --bundle my.bundle
      bottlenet classify street.jpg --to ws://127.0.0.1:8000 \
        --bundle segments.bundle --maps .
    """
    done, unusable = [], []
    with open_edge(
        bundle, to, token_file, ca, timeout_s=timeout, budget_bytes=budget, sure=sure, fallback=fallback
    ) as edge:
        targets = map_targets(maps, photo, edge.bundle.manifest.task, force)
        if fallback is None and edge.encoder.sure == 1:
            edge.connect()  # so that the first photo's bytes are its own; where nothing may be sent, it isn't needed
        for one in photo:
            try:
                done.append((one, edge.classify(one)))
                if one in targets:
                    write_map(targets[one], done[-1][1])
            except InputError as error:  # the others are still worth an answer
                unusable.append(error if one in str(error) else f"{one}: {error}")
    show_classified(edge.bundle, done, as_json)
    for reason in unusable:
        print_error(reason)
    if unusable:
        raise typer.Exit(2)


def show_classified(bundle: Bundle, done: Sequence[tuple[str, Prediction]], as_json: bool) -> None:
    from bottlenet.edge.prediction import LOCAL

    task = bundle.manifest.task
    if as_json:
        head = {"bundle": bundle.id.hex()} | ({} if is_plain(task) else {"task": task.name})
        print_json({**head, "photos": [{"photo": name, **found_document(each)} for name, each in done]})
    elif done:
        if not is_plain(task):
            stdout().print(found_table(task, done))
        stdout().print(costs_table(done))
        if here := [name for name, prediction in done if prediction.answered_by == LOCAL]:
            say(f"Answered here, as the server couldn't: {clean(', '.join(here))}")


def costs_table(done: Sequence[tuple[str, Prediction]]) -> Grid:
    rows = [
        (
            *(Path(photo).name, clean(found.label or "nothing", "bold"), f"{found.score:.0%}"),
            *(f"{found.payload_bytes:,}", f"{found.socket_bytes:,}"),
            *(f"{found.times.device_ms:.1f}", f"{found.times.server_ms:.1f}"),
        )
        for photo, found in done
    ]
    return Grid(("photo", "answer", ">score", ">payload\nbytes", ">socket\nbytes", ">device\nms", ">server\nms"), rows)


def send(
    to: To,
    spool: Annotated[
        str, Option(metavar="DIR", help="Folder for waiting photos and answers; see [bold]bottlenet spool[/].")
    ],
    photo: Annotated[
        list[str] | None, Argument(help="Photos and folders of photos. Default: only what is waiting in the spool.")
    ] = None,
    watch: Annotated[
        bool, Option("--watch", help="Give one folder: also send photos that arrive in it, until SIGTERM.")
    ] = False,
    bundle: BundleOption = "demo",
    fallback: Fallback = None,
    budget: Budget = None,
    sure: Sure = None,
    report_answers: ReportAnswers = False,
    audit: Audit = 0.0,
    partition: PartitionName = None,
    profile: ProfileFile = None,
    objective: ObjectiveName = None,
    max_drop: MaxDrop = None,
    price_mb: PriceMb = None,
    price_hour: PriceHour = None,
    radio: Radio = None,
    in_flight: InFlight = 8,
    spool_bytes: SpoolBytes = 2**26,
    when_full: WhenFull = "refuse",
    deadline: Annotated[
        float | None,
        Option(
            help="Give up after this many seconds without success. Default: 60; never with --watch, nor with "
            "--fallback where no report waits."
        ),
    ] = None,
    timeout: Timeout = 10.0,
    token_file: TokenFile = None,
    ca: CaFile = None,
    as_json: Annotated[bool, Option("--json", help="Print a line of JSON for each photo.")] = False,
) -> None:
    r"""Classify photos over any link, however bad, and lose none.

    Encodes each photo once, and keeps its frame on disk until the answer is
    there. Prints a line for each answer. Run it again at any time, for example
    after a power cut: a photo that has an answer is not sent again.

    Exit codes: 0 if all photos are answered, or the folders have none; 1 if
    some are still waiting; 2 if some can't be answered or read.

    Examples:
      bottlenet send cat.jpg dog.jpg --spool spool --to ws://127.0.0.1:8000
      bottlenet send photos --watch --spool spool --to wss://photos.example \
        --token-file token
      bottlenet send photos --spool spool --to ws://sat.example --budget 340 \
        --fallback local
      bottlenet send photos --watch --spool spool \
        --to mqtts://camera-1@broker.example --token-file password
      bottlenet send photos --spool spool --to ws://127.0.0.1:8000 \
        --partition auto --profile demo.profile.json
    """
    from bottlenet.cli.sending import ONE_SHOT_DEADLINE_S, auto_options
    from bottlenet.cli.sending import send as run

    if deadline is None:
        helped = fallback and not report_answers and not audit  # a report is for the server alone
        deadline = math.inf if watch or helped else ONE_SHOT_DEADLINE_S
    options = auto_options(
        partition, profile, objective, max_drop=max_drop, price_mb=price_mb, price_hour=price_hour, radio=radio
    )
    options |= {"budget_bytes": budget, "sure": sure, "fallback": fallback}
    options |= {"report_answers": report_answers, "audit": audit}
    with open_edge(bundle, to, token_file, ca, timeout_s=timeout, **options) as edge:
        code = run(
            *(edge, spool, photo or []),
            watch=watch,
            in_flight=in_flight,
            deadline_s=deadline,
            as_json=as_json,
            max_bytes=spool_bytes,
            when_full=when_full,
        )
    if code:
        raise typer.Exit(code)


def watch(
    source: Annotated[
        str,
        Argument(
            envvar="BOTTLENET_SOURCE",
            help="rtsp://..., http://... (MJPEG, or a JPEG that is fetched again and again), /dev/video0, a video "
            "file, or - for JPEGs on standard input.",
        ),
    ],
    to: To,
    home_assistant: Annotated[
        str | None,
        Option(metavar="BROKER", help="Show the camera in Home Assistant, through its broker: mqtt://USER@HOST."),
    ] = None,
    broker_password: Annotated[
        str | None, Option(metavar="FILE", help="For --home-assistant: file with the broker's password.")
    ] = None,
    forget: Annotated[bool, Option("--forget", help="Only take the camera out of Home Assistant.")] = False,
    name: Annotated[
        str | None, Option(help="Name of the camera in answers. Default: its host or file, never the rest of its URL.")
    ] = None,
    when: Annotated[
        str,
        Option(
            metavar="changed|always|SECONDS",
            help="When to send a frame: if it has changed (one a second is compared), always, or every SECONDS.",
        ),
    ] = "changed",
    bound: Annotated[float, Option(help="For changed: how many times the camera's noise a frame has to differ.")] = 2.5,
    silence: Annotated[
        float, Option(metavar="SECONDS", help="For changed: send a frame after that long in any case.")
    ] = 3600.0,
    key_frames: Annotated[
        bool,
        Option("--key-frames", help="Decode only those frames of a video that need no others, which is less work."),
    ] = False,
    bundle: BundleOption = "demo",
    spool: Annotated[
        str | None, Option(metavar="DIR", help="Keep each frame in this folder until it is answered; see send.")
    ] = None,
    fallback: Fallback = None,
    budget: Budget = None,
    sure: Sure = None,
    report_answers: ReportAnswers = False,
    audit: Audit = 0.0,
    partition: PartitionName = None,
    profile: ProfileFile = None,
    objective: ObjectiveName = None,
    max_drop: MaxDrop = None,
    price_mb: PriceMb = None,
    price_hour: PriceHour = None,
    radio: Radio = None,
    in_flight: InFlight = 8,
    spool_bytes: SpoolBytes = 2**26,
    when_full: WhenFull = "drop-oldest",
    timeout: Timeout = 10.0,
    token_file: TokenFile = None,
    ca: CaFile = None,
    as_json: Annotated[bool, Option("--json", help="Print a line of JSON for each answer.")] = False,
) -> None:
    r"""Classify what a camera shows, until SIGTERM or the end of a video file.

    Only the newest frame is classified; older ones are passed over and
    counted. Nothing is sent while the picture stays the same. A camera or a
    server that is lost is tried again. While there is no server, frames are
    lost, unless --spool keeps them, or --fallback or --partition answers them.

    Examples:
      bottlenet watch rtsp://10.0.0.5/stream --to ws://127.0.0.1:8000
      bottlenet watch http://10.0.0.5/video.mjpg --when 10 --name porch \
        --to wss://photos.example --token-file token --spool spool
      rpicam-vid -t 0 -n --codec mjpeg -o - | bottlenet watch - \
        --to ws://127.0.0.1:8000 --fallback local
      bottlenet watch rtsp://10.0.0.5/stream --to ws://127.0.0.1:8000 \
        --name porch --home-assistant mqtt://porch@10.0.0.2 \
        --broker-password password
    """
    from bottlenet.cli.sending import auto_options, home_of, take_back
    from bottlenet.cli.sending import watch as run
    from bottlenet.cloud.admission import trust
    from bottlenet.edge.camera import CHANGED, name_of, pace_of
    from bottlenet.edge.changes import Changes

    name = name_of(source, name)
    home = home_of(home_assistant, broker_password, ca)
    if forget:
        take_back(home, name)
        return
    options = auto_options(
        partition, profile, objective, max_drop=max_drop, price_mb=price_mb, price_hour=price_hour, radio=radio
    )
    options |= {"budget_bytes": budget, "sure": sure, "fallback": fallback}
    options |= {"report_answers": report_answers, "audit": audit}
    tls = None if ca is None else trust(ca)
    if tls is not None:
        tls.load_default_certs()  # a camera may be anybody's
    with open_edge(bundle, to, token_file, ca, timeout_s=timeout, **options) as edge:
        code = run(
            *(edge, source, spool),
            camera={"every_s": pace_of(when), "name": name, "key_frames": key_frames, "tls": tls},
            changes=Changes(edge.encoder.symbols, bound=bound, silence_s=silence) if when == CHANGED else None,
            home=home,
            in_flight=in_flight,
            as_json=as_json,
            spool_options={"max_bytes": spool_bytes, "when_full": when_full},
        )
    if code:
        raise typer.Exit(code)


def open_edge(bundle: str, to: str, token_file: str | None, ca: str | None, **options: Any) -> Edge:
    """Open the device's end with these options of `Edge`; the server's HTTP address will do too."""
    from bottlenet.cloud.admission import trust
    from bottlenet.edge import Edge
    from bottlenet.edge.client import find_token
    from bottlenet.files import PASSWORD
    from bottlenet.wire.frame import BEARER

    token = find_token(token_file, PASSWORD if to.startswith("mqtt") else BEARER)
    url = f"ws{to[4:]}" if to.startswith(("http://", "https://")) else to
    return Edge(bundle, url, token=token, tls=None if ca is None else trust(ca), **options)


ACTIONS = LIST, EXPORT, REQUEUE, FORGET = "list", "export", "requeue", "forget"
BATCH = 100


def spool(
    folder: Annotated[str, Argument(help="Folder that [bold]bottlenet send[/] had as --spool.")],
    action: Annotated[str, Argument(metavar="ACTION", help="list, export, requeue or forget.")] = LIST,
    photo: Annotated[list[str] | None, Argument(help="Only these photos, and those in these folders.")] = None,
    output: Annotated[
        str | None, Option("--output", "-o", metavar="DIR", help="Folder for export to write to.")
    ] = None,
    gone: Annotated[bool, Option("--gone", help="Only photos whose file is gone.")] = False,
    as_json: Annotated[bool, Option("--json", help="Print a line of JSON for each photo.")] = False,
) -> None:
    """List the photos of a spool, export their frames, send them again, or forget them.

    list     show each photo: waiting, answered, or why it failed
    export   write frames that wait or were refused, for a POST to a server
    requeue  let the next [bold]bottlenet send[/] send refused photos again
    forget   remove answers and failures; photos still there are sent again

    list and export can run while photos are sent, requeue and forget can't.

    Examples:
      bottlenet spool spool
      bottlenet spool spool list --json
      bottlenet spool spool export -o frames
      bottlenet spool spool requeue /photos/cat.jpg
      bottlenet spool spool forget --gone
    """
    from bottlenet.edge.spool import Spool, is_old_spool, records

    if action not in ACTIONS:
        raise InputError(f"there is no spool action {action}; give one of {', '.join(ACTIONS)}")
    if (action == EXPORT) != (output is not None):
        raise InputError("export, and nothing else, writes into a folder: give it with --output DIR")
    if action == FORGET and not photo and not gone:
        raise InputError("forget needs photos, folders of them, or --gone; give one of these")
    if is_old_spool(folder):
        Spool(folder).close()  # takes it over
    unknown = {os.path.abspath(each): each for each in photo or []}
    for record in records(folder) if unknown else ():
        unknown = {path: each for path, each in unknown.items() if not is_at(record, path)}
    counts: Counter[str] = Counter()
    photos = 0
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(Spool(folder)) if action in (REQUEUE, FORGET) else None
        found = chosen(folder, action, photo or [], gone)
        while batch := list(itertools.islice(found, BATCH)):
            if opened is not None:
                (opened.requeue if action == REQUEUE else opened.forget)([record.number for record in batch])
            for record in batch:
                file = None if output is None else export(record, Path(output))
                say(json_line(record, file) if as_json else line(record, file))
                counts["reports " * record.report + record.status] += 1
                photos += not record.report
    if not as_json:
        say(f"{photos} photos" + "".join(f", {count} {status}" for status, count in sorted(counts.items())))
    if unknown:
        raise InputError(f"{', '.join(unknown.values())}: not in this spool; see bottlenet spool {folder}")


def chosen(folder: str, action: str, photos: Sequence[str], gone: bool) -> Iterator[Record]:
    """Pick the photos that an action is for. InputError: there is no spool."""
    from bottlenet.edge.prediction import REFUSED
    from bottlenet.edge.spool import WAITING, records

    paths = [os.path.abspath(path) for path in photos]
    for record in records(folder):
        framed, waits = record.frame is not None, record.status == WAITING
        fit = {EXPORT: framed, REQUEUE: framed and record.status == REFUSED, FORGET: not waits}.get(action, True)
        named = not paths or any(is_at(record, path) for path in paths)
        if fit and named and not (gone and os.path.lexists(record.photo)):
            yield record


def is_at(record: Record, path: str) -> bool:
    return record.photo == path or record.photo.startswith(os.path.join(path, ""))


def export(record: Record, folder: Path) -> Path:
    """Write a frame, whole or not at all. InputError: it can't be written."""
    assert record.frame is not None
    path = folder / f"{record.key}.frame"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.write_whole(path, record.frame)
    except OSError as error:
        why = "it is no folder" if folder.exists() and not folder.is_dir() else error.strerror
        raise InputError(f"{path} can't be written: {why}; make room, or give another --output") from error
    return path


def json_line(record: Record, file: Path | None) -> str:
    document = {name: getattr(record, name) for name in ("photo", "status", "key", "sha256", "bundle")}
    document["spooled_bytes"] = None if record.frame is None else len(record.frame)
    if file is not None:
        document["file"] = str(file)
    if record.report:
        document["report"] = True
    return json.dumps({**document, **(record.outcome or {})})


def line(record: Record, file: Path | None) -> str:
    from bottlenet.cli.sending import shown
    from bottlenet.wire.answer import one_line

    outcome = record.outcome or {}
    if file is not None:
        what = str(file)
    elif "reason" in outcome:
        what = outcome["reason"]
    elif record.frame is not None:
        what = f"{len(record.frame):,} bytes"
    else:
        best = outcome["top"][0] if outcome.get("top") else {"label": "nothing", "score": 1.0}
        what = f"{best['label']}, {best['score']:.0%}"
    return f"{record.status:9} {shown(record.photo)}: {'its report, ' if record.report else ''}{one_line(what)}"


def encode(
    photo: Annotated[str, Argument(help="JPEG, PNG, WebP, AVIF, TIFF, BMP or GIF.")],
    output: Annotated[str, Option("--output", "-o", metavar="FILE", help="The frame to write.")],
    bundle: BundleOption = "demo",
    budget: Budget = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    r"""Write the frame that a device would send for a photo to a file.

    Any transport can carry the frame. [bold]bottlenet decode[/] answers it on
    this machine; to have a server answer it, POST it to /v1/classify.

    Examples:
      bottlenet encode cat.jpg -o cat.frame
      curl --data-binary @cat.frame -o cat.answer \
        http://127.0.0.1:8000/v1/classify
    """
    from bottlenet.bundle import Bundle
    from bottlenet.edge import Encoder
    from bottlenet.wire.frame import HEADER_BYTES, MAX_PAYLOAD_BYTES, parse_frame

    whole_frame = partial(parse_frame, max_payload_bytes=MAX_PAYLOAD_BYTES)
    target = Kind("a frame", HEADER_BYTES + MAX_PAYLOAD_BYTES + 1, whole_frame).target(output, force=force)
    encoded = Encoder(Bundle.load(bundle), budget_bytes=budget).encode(photo)
    write_whole(target, encoded.frame.to_bytes())
    if as_json:
        times = {"prepare_ms": encoded.prepare_ms, "head_ms": encoded.head_ms, "encode_ms": encoded.encode_ms}
        print_json({"photo": photo, "file": str(target), **frame_document(encoded.frame), "times": times})
    else:
        took = f"prepare {encoded.prepare_ms:.1f} ms, head {encoded.head_ms:.1f} ms, encode {encoded.encode_ms:.2f} ms"
        frame = ("frame", str(target)), *frame_rows(encoded.frame)
        stdout().print(facts(("photo", photo), *frame, ("took", took)))


def frame_document(frame: Frame) -> dict[str, object]:
    from bottlenet.wire.codecs import CODES

    return {
        "codec": CODES.get(frame.codec, str(frame.codec)),
        "setting": frame.setting,
        "bundle_tag": frame.bundle_tag.hex(),
        "sequence": frame.sequence,
        "payload_bytes": len(frame.payload),
        "frame_bytes": len(frame.to_bytes()),
    }


def frame_rows(frame: Frame) -> list[tuple[str, Cell]]:
    header = frame_document(frame)
    return [
        ("codec", f"{header['codec']}, setting {frame.setting}"),
        ("bundle", frame.bundle_tag.hex()),
        ("bytes", f"{header['frame_bytes']:,} with header, {len(frame.payload):,} of payload"),
    ]


SHOWN = 10  # lines a photo
SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG = Kind("a PNG", len(SIGNATURE), lambda data: data.index(SIGNATURE))


def is_plain(task: Task) -> bool:
    """Tell if an answer is one label, which the table of costs has."""
    return task.name == "classification"


def found_document(found: Prediction | Findings) -> dict[str, object]:
    """Make the JSON of an answer, without a map's places, and without what only other tasks have."""
    values = {name: value for name, value in asdict(replace(found, segments=None)).items() if name != "segments"}
    if (segments := found.segments) is not None:
        shares = [asdict(each) for each in segments.shares]
        square = None if segments.square is None else asdict(segments.square)
        size = {"rows": segments.map.rows, "columns": segments.map.columns}
        values["segments"] = {"shares": shares, **size, "square": square}
    if not found.objects:
        del values["objects"]
    return values


def found_table(task: Task, done: Sequence[tuple[str, Prediction | Findings]]) -> Grid:
    """List what is in the photos, at most ten lines each; a detection's with edges."""
    boxes = task.name == "detection"
    edges = (">left", ">top", ">right", ">bottom") if boxes else ()
    lines: list[list[Cell]] = []
    for photo, found in done:
        name = Path(photo).name
        rows = found.objects if boxes else found.segments.shares if found.segments else found.top
        for row in rows[:SHOWN]:
            numbers = edges_of(row) if boxes else []  # type: ignore[arg-type]
            lines.append([name, clean(row.label, "bold"), f"{row.score:.1%}", *numbers])
        if len(rows) > SHOWN or not rows:
            rest = f"and {len(rows) - SHOWN} more" if rows else "nothing"
            lines.append([name, rest, "", *("" for _ in edges)])
    return Grid(("photo", "class", ">share" if task.name == "segmentation" else ">score", *edges), lines)


def edges_of(one: Object) -> list[str]:
    """Write the edges of a box: in pixels, or in shares of the square where that is all there is."""
    edges = (one.left, one.top, one.right, one.bottom)
    return [f"{edge:.3f}" if max(edges) <= 1 else f"{edge:,.0f}" for edge in edges]


def map_targets(folder: str | None, photos: Sequence[str], task: Task, force: bool) -> dict[str, Path]:
    """Find where each photo's map goes. InputError: no segmentation, or no place for a file."""
    if folder is None:
        return {}
    names = [f"{Path(photo).name}.png" for photo in photos]
    targets = [map_path(Path(folder) / name, task, force) for name in names]
    if len(set(names)) < len(set(photos)):
        raise InputError("two of the photos have the same name, and so would their maps; give them one by one")
    return dict(zip(photos, targets, strict=True))


def map_path(path: str | Path, task: Task, force: bool) -> Path:
    """Resolve where a map goes, before the work. InputError: the network gives none, or as `Kind.target`."""
    if task.name != "segmentation":
        raise InputError(f"this bundle's task is {task.name}, which gives no map; give one of a segmentation")
    return PNG.target(path, force=force)


def write_map(target: Path, found: Prediction | Findings) -> None:
    assert found.segments is not None, "a segmentation without a map"
    write_whole(target, found.segments.png())
