"""Commands for the server: `serve`, `decode`."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from bottlenet.cli.access import Access, Mqtt
from bottlenet.cli.arguments import BundleOption, Force, Json, require
from bottlenet.cli.engines import RAY, Cluster, check_options
from bottlenet.cli.options import with_configs
from bottlenet.cloud.limits import Limits
from bottlenet.cloud.logs import LEVELS
from bottlenet.errors import InputError


def absolute(path: str | None) -> str | None:
    """Where it is whatever folder a process is in."""
    return None if path is None else os.path.abspath(path)


@with_configs(access=Access, mqtt=Mqtt, limits=Limits, cluster=Cluster)
def serve(
    bundle: Annotated[list[str] | None, typer.Argument(help="Folders of bundles or ladders, or [bold]demo[/].")] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 for any that is free.")] = 8000,
    watch: Annotated[
        str | None, typer.Option("--watch", help="Also serve the bundles in this folder, as they come and go.")
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads for one operation of the network.")] = 1,
    max_batch: Annotated[int, typer.Option("--max-batch", min=1, help="Frames that are decoded together.")] = 16,
    page: Annotated[
        bool, typer.Option("--page/--no-page", help="The page at /, where a browser is the device.")
    ] = True,
    log_level: Annotated[str, typer.Option("--log-level", help=f"{', '.join(LEVELS)}.")] = "warning",
    log_json: Annotated[bool, typer.Option("--log-json", help="One JSON object a line on standard error.")] = False,
    stop_with_input: Annotated[
        bool, typer.Option("--stop-with-input", help="Also stop when standard input ends: never outlive the parent.")
    ] = False,
    engine: Annotated[
        str, typer.Option("--engine", help="[bold]embedded[/], this process, or [bold]ray[/], replicas on Ray Serve.")
    ] = "embedded",
    as_json: Json = False,
    *,
    access: Access,
    mqtt: Mqtt,
    limits: Limits,
    cluster: Cluster,
) -> None:
    r"""Answer the frames of devices, until Ctrl-C or SIGTERM.

    Prints its URL as soon as it takes connections; what was taken is answered before it ends.
    Needs [bold]pip install "bottlenet\[cloud]"[/], and [bold]"bottlenet\[ray]"[/] for that engine.

    Examples:
      bottlenet serve demo
      bottlenet serve a.bundle b.bundle --host 0.0.0.0 --tokens tokens.txt --tls-cert cert.pem --tls-key key.pem
      bottlenet serve --watch bundles --log-json --log-level info
      bottlenet serve a.bundle --mqtt mqtts://server@broker.example --mqtt-password password.txt
      bottlenet serve demo --engine ray --replicas 2 --max-replicas 8
    """
    check_options(engine, access, mqtt, limits, cluster)
    require("serve", "cloud")
    if mqtt.mqtt is not None:
        require("serve --mqtt", "mqtt")
    from bottlenet.cli.show import print_json, say
    from bottlenet.cloud.logs import set_up_logging
    from bottlenet.ladder import load_rungs

    if log_level not in LEVELS:
        raise InputError(f"--log-level is {log_level!a}; give one of {', '.join(LEVELS)}")
    loaded = [rung for one in bundle or [] for rung in load_rungs(one)]
    tls = "s" if access.tls_cert else ""

    def announce(address: str) -> None:
        if as_json:
            served = [{"id": one.id.hex(), "name": one.manifest.name} for one in loaded]
            print_json({"listening": f"ws{tls}://{address}", "http": f"http{tls}://{address}", "bundles": served})
        else:
            also = f"page: http{tls}://{address}/" if page else f"and http{tls}://{address}/v1/classify"
            say(f"listening on ws{tls}://{address} ({also}); Ctrl-C stops")

    set_up_logging(log_level, as_json=log_json)
    common: dict[str, Any] = {"host": host, "port": port, "access": access, "stop_with_input": stop_with_input}
    if engine == RAY:
        require("serve --engine ray", "ray")
        from bottlenet.cli.replicas import serve as run_replicas
        from bottlenet.cloud.deployed import Deployed

        deployed = Deployed(
            bundles=tuple(str(one.path.resolve()) for one in loaded),
            tokens=absolute(access.tokens),
            watch=absolute(watch),
            threads=threads,
            max_batch=max_batch,
            page=page,
            replicas=cluster.replicas,
            max_replicas=cluster.max_replicas,
            replica_frames=cluster.replica_frames,
            log_level=log_level,
            log_json=log_json,
            limits=limits,
        )
        return run_replicas(deployed, announce, ray_address=cluster.ray_address, **common)
    from bottlenet.cli.serving import serve as run

    broker = mqtt.broker()
    run(loaded, announce, limits, broker=broker, watch=watch, threads=threads, max_batch=max_batch, page=page, **common)


def decode(
    file: Annotated[str, typer.Argument(help="A frame, as [bold]bottlenet encode[/] writes it.")],
    bundle: BundleOption = "demo",
    map_file: Annotated[
        str | None, typer.Option("--map", metavar="FILE", help="Of a segmentation: the map goes there, a PNG.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Answer one frame from a file: what a server would do.

    Boxes have edges in shares of the square that the network saw, as the
    photo is not at hand.

    Example:
      bottlenet decode cat.frame
    """
    from bottlenet.bundle import Bundle
    from bottlenet.cli.answers import PNG, found_table, is_plain, needs_map, seen_document, write_map
    from bottlenet.cli.files import check_target, read_frame
    from bottlenet.cli.show import decoded_document, decoded_table, print_json, stdout
    from bottlenet.cloud.decoder import Decoder
    from bottlenet.edge.seen import seen
    from bottlenet.errors import BottleNetError

    loaded = Bundle.load(bundle)
    task = loaded.manifest.task
    if map_file is not None:
        needs_map(task)
    target = None if map_file is None else check_target(map_file, PNG, force=force)
    frame = read_frame(file, loaded.tag)
    (answer,) = Decoder(loaded).answers([frame])
    if isinstance(answer, BottleNetError):
        raise answer
    found = seen(answer, loaded)
    if target is not None:
        write_map(target, found)
    if as_json:
        print_json({"file": file, **decoded_document(frame, answer, seen_document(found))})
    else:
        stdout().print(decoded_table(file, frame, answer, found))
        if not is_plain(task):
            stdout().print(found_table(task, [(file, found)]))
