"""Commands for the server: `serve`, `decode`."""

from __future__ import annotations

from typing import Annotated

import typer

from bottlenet.cli.arguments import BundleOption, Json, require


def serve(
    bundle: Annotated[list[str], typer.Argument(help="Bundles' folders, or [bold]demo[/].")],
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 for any that is free.")] = 8000,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads for one operation of the network.")] = 1,
    stop_with_input: Annotated[
        bool, typer.Option("--stop-with-input", help="Also stop when standard input ends: never outlive the parent.")
    ] = False,
    as_json: Json = False,
) -> None:
    r"""Answer the frames of devices, until Ctrl-C or SIGTERM.

    Prints its URL as soon as it takes connections.
    Needs [bold]pip install "bottlenet\[cloud]"[/].

    Examples:
      bottlenet serve demo
      bottlenet serve my.bundle --host 0.0.0.0 --port 8000
    """
    require("serve", "cloud")
    from bottlenet.bundle import Bundle
    from bottlenet.cli.serving import serve as run
    from bottlenet.cli.show import print_json, say

    loaded = [Bundle.load(one) for one in bundle]

    def announce(address: str) -> None:
        if as_json:
            served = [{"id": one.id.hex(), "name": one.manifest.name} for one in loaded]
            print_json({"listening": f"ws://{address}", "http": f"http://{address}", "bundles": served})
        else:
            say(f"listening on ws://{address} (and http://{address}/v1/classify); Ctrl-C stops")

    run(loaded, announce, host=host, port=port, threads=threads, stop_with_input=stop_with_input)


def decode(
    file: Annotated[str, typer.Argument(help="A frame, as [bold]bottlenet encode[/] writes it.")],
    bundle: BundleOption = "demo",
    as_json: Json = False,
) -> None:
    """Answer one frame from a file: what a server would do.

    Example:
      bottlenet decode cat.frame
    """
    from bottlenet.bundle import Bundle
    from bottlenet.cli.files import read_frame
    from bottlenet.cli.show import decoded_document, decoded_table, print_json, stdout
    from bottlenet.cloud.decoder import Decoder
    from bottlenet.errors import BottleNetError

    loaded = Bundle.load(bundle)
    frame = read_frame(file, loaded.tag)
    (answer,) = Decoder(loaded).answers([frame])
    if isinstance(answer, BottleNetError):
        raise answer
    if as_json:
        print_json({"file": file, **decoded_document(frame, answer, loaded)})
    else:
        stdout().print(decoded_table(file, frame, answer, loaded))
