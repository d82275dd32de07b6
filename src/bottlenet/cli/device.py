"""Commands for the device: `demo`, `classify`, `send`, `encode`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from bottlenet.cli.options import BundleOption, Force, Json, require

if TYPE_CHECKING:
    from bottlenet.bundle import Bundle
    from bottlenet.cli.sending import AutoOptions
    from bottlenet.edge import Edge, Prediction


To: TypeAlias = Annotated[
    str,
    typer.Option(
        "--to",
        help="The server: ws://host:port, as [bold]bottlenet serve[/] prints it; or mqtt://user@host:port, a broker.",
    ),
]
Timeout: TypeAlias = Annotated[float, typer.Option("--timeout", help="Seconds to wait for an answer.")]
Budget: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--budget", metavar="BYTES", help="No frame is larger: 340 for an Iridium SBD message, 222 or 51 for LoRaWAN."
    ),
]
Fallback: TypeAlias = Annotated[
    str | None, typer.Option("--fallback", metavar="local", help="Answer here where the server can't.")
]
TokenFile: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="Holds the bearer token, or the broker's password; else the environment's BOTTLENET_TOKEN does.",
    ),
]
CaFile: TypeAlias = Annotated[
    str | None,
    typer.Option("--ca", metavar="FILE", help="Certificates to trust with wss:// and mqtts://; else the system's."),
]


def demo(
    photo: Annotated[list[str] | None, typer.Argument(help="Your photos. Without any: some that come with it.")] = None,
    bundle: BundleOption = "demo",
    output: Annotated[str, typer.Option("--output", "-o", help="The page to write.")] = "bottlenet-demo.html",
    force: Force = False,
    as_json: Json = False,
) -> None:
    r"""See it work: a device process, a socket, a server process, and real photos.

    Starts a server of its own on a free loopback port, classifies the photos
    over a real socket, prints what they cost beside JPEG and WebP, and writes a
    page to look at. Needs [bold]pip install "bottlenet\[cloud]"[/].

    Examples:
      bottlenet demo
      bottlenet demo cat.jpg dog.jpg -o pets.html
    """
    require("demo", "cloud")
    from bottlenet.bundle import Bundle
    from bottlenet.cli.demo import document, renderables
    from bottlenet.cli.options import PAGE, check_target, write_whole
    from bottlenet.cli.show import print_json, progress, say, stdout
    from bottlenet.demo.page import page
    from bottlenet.demo.run import run_demo, shipped_photos

    target = check_target(output, PAGE, force=force)
    sources = [Path(one) for one in photo] if photo else shipped_photos()
    loaded = Bundle.load(bundle)
    with progress("classifying") as step:
        result = run_demo(loaded, sources, step)
    write_whole(target, page(result).encode())
    if as_json:
        print_json({**document(result), "page": str(target)})
        return
    for part in renderables(result):
        stdout().print(part)
        say("")
    say(f"To look at: {target}")


def classify(
    photo: Annotated[list[str], typer.Argument(help="JPEG, PNG, WebP, AVIF, TIFF, BMP or GIF.")],
    to: To,
    bundle: BundleOption = "demo",
    timeout: Timeout = 10.0,
    budget: Budget = None,
    fallback: Fallback = None,
    token_file: TokenFile = None,
    ca: CaFile = None,
    maps: Annotated[
        str | None, typer.Option("--maps", metavar="DIR", help="Of a segmentation: write PHOTO.png there, the map.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Classify photos with the help of a server.

    The head of the bundle runs here and its tail there; both sides need the
    same bundle. A bundle of another task answers with several labels, with
    the share of each class in the square that the network sees, or with boxes
    in the photo's pixels.

    Examples:
      bottlenet classify cat.jpg --to ws://127.0.0.1:8000
      bottlenet classify *.jpg --to wss://photos.example --bundle my.bundle --json
      bottlenet classify street.jpg --to ws://127.0.0.1:8000 --bundle segments.bundle --maps .
    """
    from bottlenet.cli.answers import map_targets, write_map
    from bottlenet.cli.show import print_error
    from bottlenet.errors import InputError

    secrets = Secrets(token_file, ca)
    done, unusable = [], []
    with open_edge(bundle, to, secrets, timeout_s=timeout, budget_bytes=budget, fallback=fallback) as edge:
        targets = map_targets(maps, photo, edge.bundle.manifest.task, force)
        if fallback is None:
            edge.connect()  # so that the first photo's bytes are its own
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
    """What came back, and what it cost."""
    from bottlenet.cli.answers import found_table, is_plain, prediction_document
    from bottlenet.cli.show import classified_table, print_json, say, stdout
    from bottlenet.edge.prediction import LOCAL
    from bottlenet.wire.answer import one_line

    task = bundle.manifest.task
    if as_json:
        told = {"bundle": bundle.id.hex()} | ({} if is_plain(task) else {"task": task.name})
        print_json({**told, "photos": [{"photo": name, **prediction_document(p)} for name, p in done]})
    elif done:
        if not is_plain(task):
            stdout().print(found_table(task, done))
        stdout().print(classified_table(done))
        if here := [name for name, prediction in done if prediction.answered_by == LOCAL]:
            say(f"Answered here, as the server couldn't: {', '.join(map(one_line, here))}")


def send(
    to: To,
    spool: Annotated[str, typer.Option("--spool", metavar="DIR", help="What waits, and the answers, are kept here.")],
    photo: Annotated[
        list[str] | None, typer.Argument(help="Photos and folders of them. Without any: what waits in the spool.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="One folder: also send what comes into it, until SIGTERM.")
    ] = False,
    bundle: BundleOption = "demo",
    fallback: Fallback = None,
    budget: Budget = None,
    partition: Annotated[
        str | None,
        typer.Option("--partition", metavar="auto", help="Move between edge-only, the bundle's cuts and cloud-only."),
    ] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", metavar="FILE", help="For auto: what bottlenet profile measured here.")
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option("--max-drop", metavar="POINTS", help="For auto: of top-1 that may be lost.")
    ] = None,
    in_flight: Annotated[int, typer.Option("--in-flight", help="Photos on the way at once; one with auto.")] = 8,
    spool_bytes: Annotated[int, typer.Option("--spool-bytes", help="The most that waiting frames may have.")] = 2**26,
    when_full: Annotated[
        str,
        typer.Option("--when-full", metavar="refuse|drop-oldest|drop-newest", help="What goes if that is not enough."),
    ] = "refuse",
    deadline: Annotated[
        float | None,
        typer.Option("--deadline", help="Seconds without success to give up after: 60, or never with --watch."),
    ] = None,
    timeout: Timeout = 10.0,
    token_file: TokenFile = None,
    ca: CaFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON a photo.")] = False,
) -> None:
    """Have photos classified, however bad the link: none is lost.

    Each is encoded once, and waits on disk until its answer is there. A line a
    photo, as it is answered. Run it again, after a power cut for example: what
    has an answer is not sent again.

    Exit codes: 0, all are answered; 1, some still wait; 2, some can't be.

    Examples:
      bottlenet send cat.jpg dog.jpg --spool spool --to ws://127.0.0.1:8000
      bottlenet send photos --watch --spool spool --to wss://photos.example --token-file token
      bottlenet send photos --spool spool --to ws://sat.example --budget 340 --fallback local
      bottlenet send photos --watch --spool spool --to mqtts://camera-1@broker.example --token-file password
      bottlenet send photos --spool spool --to ws://127.0.0.1:8000 --partition auto --profile demo.profile.json
    """
    from bottlenet.cli.sending import ONE_SHOT_DEADLINE_S, How, auto_options
    from bottlenet.cli.sending import send as run
    from bottlenet.edge import Spool

    if deadline is None:
        deadline = math.inf if watch or fallback else ONE_SHOT_DEADLINE_S
    how = How(watch, in_flight, deadline, as_json)
    auto = auto_options(partition, profile, max_drop)
    with (
        open_edge(
            bundle, to, Secrets(token_file, ca), auto, timeout_s=timeout, budget_bytes=budget, fallback=fallback
        ) as edge,
        Spool(spool, edge.bundle, max_bytes=spool_bytes, when_full=when_full) as opened,
    ):
        code = run(edge, opened, photo or [], how)
    if code:
        raise typer.Exit(code)


@dataclass(frozen=True)
class Secrets:
    """Files that say who the device is, and whom it trusts."""

    token: str | None
    ca: str | None


def open_edge(
    bundle: str,
    to: str,
    secrets: Secrets,
    auto: AutoOptions | None = None,
    *,
    timeout_s: float,
    budget_bytes: int | None,
    fallback: str | None,
) -> Edge:
    """As the options say; the server's HTTP address will do too."""
    from bottlenet.cloud.admission import trust
    from bottlenet.edge import Edge
    from bottlenet.edge.client import find_token
    from bottlenet.secret import BEARER, PASSWORD

    token = find_token(secrets.token, PASSWORD if to.startswith("mqtt") else BEARER)
    tls = None if secrets.ca is None else trust(secrets.ca)
    url = f"ws{to[4:]}" if to.startswith(("http://", "https://")) else to
    return Edge(
        bundle,
        url,
        timeout_s=timeout_s,
        budget_bytes=budget_bytes,
        fallback=fallback,
        token=token,
        tls=tls,
        **auto or {},
    )


def encode(
    photo: Annotated[str, typer.Argument(help="JPEG, PNG, WebP, AVIF, TIFF, BMP or GIF.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Where the frame goes.")],
    bundle: BundleOption = "demo",
    budget: Budget = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Turn a photo into a frame, in a file: what a device would send.

    Any transport may carry it. [bold]bottlenet decode[/] answers it here, a
    POST to /v1/classify on a server.

    Examples:
      bottlenet encode cat.jpg -o cat.frame
      curl --data-binary @cat.frame -o cat.answer http://127.0.0.1:8000/v1/classify
    """
    from bottlenet.bundle import Bundle
    from bottlenet.cli.options import FRAME, check_target, write_whole
    from bottlenet.cli.show import encoded_document, encoded_table, print_json, stdout
    from bottlenet.edge import Encoder

    target = check_target(output, FRAME, force=force)
    encoded = Encoder(Bundle.load(bundle), budget_bytes=budget).encode(photo)
    write_whole(target, encoded.frame.to_bytes())
    if as_json:
        print_json({"photo": photo, "file": str(target), **encoded_document(encoded)})
    else:
        stdout().print(encoded_table(photo, target, encoded))
