"""Commands for the device: `demo`, `classify`, `encode`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bottlenet.cli.arguments import BundleOption, Force, Json, require


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
    from bottlenet.cli.demo_tables import document, renderables
    from bottlenet.cli.files import PAGE, check_target, write_whole
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
    to: Annotated[str, typer.Option("--to", help="The server: ws://host:port, as [bold]bottlenet serve[/] prints it.")],
    bundle: BundleOption = "demo",
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait for an answer.")] = 10.0,
    as_json: Json = False,
) -> None:
    """Classify photos with the help of a server.

    The head of the bundle runs here and its tail there; both sides need the
    same bundle.

    Examples:
      bottlenet classify cat.jpg --to ws://127.0.0.1:8000
      bottlenet classify *.jpg --to wss://photos.example --bundle my.bundle --json
    """
    from bottlenet.cli.show import classified_table, print_error, print_json, stdout
    from bottlenet.edge import Edge
    from bottlenet.errors import PhotoError

    url = f"ws{to[4:]}" if to.startswith(("http://", "https://")) else to
    done, unusable = [], []
    with Edge(bundle, url, timeout_s=timeout) as edge:
        edge.connect()  # so that the first photo's bytes are its own
        for one in photo:
            try:
                done.append((one, edge.classify(one)))
            except PhotoError as error:  # the others are still worth an answer
                unusable.append(error)
    if as_json:
        print_json({"bundle": edge.bundle.id.hex(), "photos": [{"photo": name, **asdict(p)} for name, p in done]})
    elif done:
        stdout().print(classified_table(done))
    for reason in unusable:
        print_error(reason)
    if unusable:
        raise typer.Exit(2)


def encode(
    photo: Annotated[str, typer.Argument(help="JPEG, PNG, WebP, AVIF, TIFF, BMP or GIF.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Where the frame goes.")],
    bundle: BundleOption = "demo",
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
    from bottlenet.cli.files import FRAME, check_target, write_whole
    from bottlenet.cli.show import encoded_document, encoded_table, print_json, stdout
    from bottlenet.edge import Encoder

    target = check_target(output, FRAME, force=force)
    encoded = Encoder(Bundle.load(bundle)).encode(photo)
    write_whole(target, encoded.frame.to_bytes())
    if as_json:
        print_json({"photo": photo, "file": str(target), **encoded_document(encoded)})
    else:
        stdout().print(encoded_table(photo, target, encoded))
