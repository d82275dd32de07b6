"""Commands for the server: `serve`, by this process or by replicas on a Ray cluster, and `decode`."""

from __future__ import annotations

import dataclasses
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from bottlenet.cli.device import found_document, found_table, frame_document, frame_rows, is_plain, map_path, write_map
from bottlenet.cli.options import BundleOption, Force, Json, needs, require, with_configs
from bottlenet.cli.show import clean, facts, print_json, say, stdout
from bottlenet.cloud.admission import LOG_LEVELS, Access, Limits, Mqtt
from bottlenet.errors import BottleNetError, InputError
from bottlenet.files import read_at_most, reading
from bottlenet.records import check_choice

if TYPE_CHECKING:
    from bottlenet.bundle import Bundle
    from bottlenet.wire.frame import Frame

EMBEDDED, RAY = "embedded", "ray"


@dataclass(frozen=True)
class Cluster:
    """Options of --engine ray."""

    replicas: int = 1  # With --engine ray: smallest number of processes
    max_replicas: int | None = None  # With --engine ray: largest number; if above --replicas, it follows the load
    replica_frames: float = 2.0  # With --engine ray: unanswered frames per process above which one is added
    ray_address: str | None = None  # With --engine ray: cluster to join, HOST:PORT or auto. Default: start one


def check_options(engine: str, access: Access, mqtt: Mqtt, limits: Limits, cluster: Cluster) -> None:
    """Raise InputError for an engine that there is not, or not on this system, and for options that it can't honour."""
    check_choice("--engine", engine, (EMBEDDED, RAY))
    if engine == EMBEDDED:
        for field in dataclasses.fields(cluster):
            if getattr(cluster, field.name) != field.default:
                raise InputError(f"{option(field.name)} is for --engine ray; leave it out, or say --engine ray")
        return
    if sys.platform != "linux":
        raise InputError("--engine ray needs Linux, as Ray has HAProxy for nothing else; use --engine embedded")
    for group in (access, mqtt, limits):
        for field in dataclasses.fields(group):
            if field.name in NOT_FOR_RAY and getattr(group, field.name) != field.default:
                raise InputError(f"{option(field.name)} is not for --engine ray: {NOT_FOR_RAY[field.name]}")


def option(field: str) -> str:
    return "--" + field.replace("_", "-")


TLS = "HAProxy takes connections, so put what speaks TLS in front of it, and leave this out"
BROKER = "a broker shares frames out by itself, so start `bottlenet serve --mqtt` on each machine instead"
NOT_FOR_RAY = {
    **dict.fromkeys(("tls_cert", "tls_key"), TLS),
    **dict.fromkeys(("mqtt", "mqtt_password", "mqtt_ca", "mqtt_group"), BROKER),
    "first_byte_s": "HAProxy has --request-s for the whole header; leave this out",
    "max_per_address": "to a replica all come from HAProxy's address; limit it in what is in front, and leave this out",
}


@needs("cloud")
@with_configs(access=Access, mqtt=Mqtt, limits=Limits, cluster=Cluster)
def serve(
    bundle: Annotated[list[str] | None, Argument(help="Folders of bundles or ladders, or [bold]demo[/].")] = None,
    host: Annotated[str, Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="Port to listen on; 0 for a free one.")] = 8000,
    watch: Annotated[str | None, Option(help="Also serve the bundles in this folder, as they come and go.")] = None,
    threads: Annotated[int, Option(min=1, help="Threads of onnxruntime for each operation.")] = 1,
    max_batch: Annotated[int, Option(min=1, help="Most frames to compute in one batch.")] = 16,
    page: Annotated[bool, Option(help="Serve a page at /, on which the browser is the device.")] = True,
    log_level: Annotated[str, Option(help=f"{', '.join(LOG_LEVELS)}.")] = "warning",
    log_json: Annotated[bool, Option("--log-json", help="Log JSON to standard error, one object a line.")] = False,
    stop_with_input: Annotated[
        bool, Option("--stop-with-input", help="Also stop at the end of standard input.")
    ] = False,
    engine: Annotated[
        str, Option(help="[bold]embedded[/]: this process. [bold]ray[/]: replicas on Ray Serve.")
    ] = "embedded",
    as_json: Json = False,
    *,
    access: Access,
    mqtt: Mqtt,
    limits: Limits,
    cluster: Cluster,
) -> None:
    r"""Answer the frames of devices, until Ctrl-C or SIGTERM.

    Prints its URL as soon as it accepts connections. Before it stops, it
    answers every frame that it has accepted. --engine ray and --mqtt need the
    extras ray and mqtt; without them, the error says how to install them.

    Examples:
      bottlenet serve demo
      bottlenet serve a.bundle b.bundle --host 0.0.0.0 --tokens tokens.txt \
        --tls-cert cert.pem --tls-key key.pem
      bottlenet serve --watch bundles --log-json --log-level info
      bottlenet serve a.bundle --mqtt mqtts://server@broker.example \
        --mqtt-password password.txt
      bottlenet serve demo --engine ray --replicas 2 --max-replicas 8
    """
    check_options(engine, access, mqtt, limits, cluster)
    check_choice("--log-level", log_level, LOG_LEVELS)
    if mqtt.mqtt is not None:
        require("serve --mqtt", "mqtt")
    from bottlenet.bundle.ladder import load_rungs
    from bottlenet.cloud.run import serve as run
    from bottlenet.cloud.run import set_up_logging
    from bottlenet.cloud.vendor import COMMAND, RUNTIME, installed

    loaded = [rung for one in bundle or [] for rung in load_rungs(one)]
    tls = "s" if access.tls_cert else ""

    def announce(address: str) -> None:
        if as_json:
            served = [{"id": one.id.hex(), "name": one.manifest.name} for one in loaded]
            print_json({"listening": f"ws{tls}://{address}", "http": f"http{tls}://{address}", "bundles": served})
        else:
            also = f"page: http{tls}://{address}/" if page else f"and http{tls}://{address}/v1/classify"
            say(f"listening on ws{tls}://{address} ({also}); Ctrl-C stops")
            if page and not installed(RUNTIME):
                say(f"the page can't classify yet: run {COMMAND}, which needs npm, or serve with --no-page")

    set_up_logging(log_level, as_json=log_json)
    common: dict[str, Any] = {"host": host, "port": port, "access": access, "stop_with_input": stop_with_input}
    options: dict[str, Any] = {"threads": threads, "max_batch": max_batch, "page": page}
    if engine == RAY:
        require("serve --engine ray", "ray")
        from bottlenet.cloud.ray.cluster import Deployed
        from bottlenet.cloud.ray.cluster import serve as run_replicas

        options |= dataclasses.asdict(cluster)
        ray_address = options.pop("ray_address")
        deployed = Deployed(
            bundles=tuple(str(one.path.resolve()) for one in loaded),
            tokens=access.tokens and os.path.abspath(access.tokens),
            watch=watch and os.path.abspath(watch),
            insecure=access.insecure,
            log_level=log_level,
            log_json=log_json,
            limits=limits,
            **options,
        )
        return run_replicas(deployed, announce, ray_address=ray_address, **common)
    run(loaded, announce, limits, broker=mqtt.broker(), watch=watch, **options, **common)


def decode(
    file: Annotated[str, Argument(help="A frame, as [bold]bottlenet encode[/] writes it.")],
    bundle: BundleOption = "demo",
    map_file: Annotated[
        str | None, Option("--map", metavar="FILE", help="Write the segmentation map to this PNG.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Answer one frame from a file, as a server would.

    The edges of boxes are shares of the square that the network sees, since
    the photo itself is not known here.

    Example:
      bottlenet decode cat.frame
    """
    from bottlenet.bundle import Bundle
    from bottlenet.cloud.decoder import Decoder
    from bottlenet.edge.prediction import read_answer

    loaded = Bundle.load(bundle)
    task = loaded.manifest.task
    target = None if map_file is None else map_path(map_file, task, force)
    frame = sent_frame(read_frame(file, loaded.tag), loaded, file)
    (answer,) = Decoder(loaded).answers([frame])
    if isinstance(answer, BottleNetError):
        raise answer
    found = read_answer(answer, loaded)
    if target is not None:
        write_map(target, found)
    times = {"decode_ms": answer.decode_us / 1e3, "tail_ms": answer.tail_us / 1e3}
    if as_json:
        return print_json({"file": file, **frame_document(frame), **found_document(found), "times": times})
    took = f"decode {times['decode_ms']:.2f} ms, tail {times['tail_ms']:.1f} ms"
    choices = [(f"{each.score:.1%}", clean(each.label, "" if rank else "bold")) for rank, each in enumerate(found.top)]
    stdout().print(facts(("frame", file), *frame_rows(frame), ("took", took), *choices))
    if not is_plain(task):
        stdout().print(found_table(task, [(file, found)]))


def sent_frame(frame: Frame, bundle: Bundle, path: str) -> Frame:
    """Take the frame out of an audit. InputError: it is a report alone."""
    from bottlenet.wire.frame import REPORT, parse_report

    if frame.codec != REPORT:
        return frame
    report = parse_report(frame)
    if report.audit is None:
        label = bundle.labels[report.class_index] if report.class_index < len(bundle.labels) else "an unknown class"
        what = f"{path} reports {label}, {report.confidence:.0%}, of which a device was sure"
        raise InputError(f"{what}: there is nothing to decode; POST it to a server")
    return report.audit


def read_frame(path: str, bundle_tag: bytes) -> Frame:
    """Read the frame in a file. InputError: it can't be read, is damaged, is no frame or is of another bundle."""
    from bottlenet.wire.frame import HEADER_BYTES, MAX_PAYLOAD_BYTES, parse_frame

    with reading(path, "give a file that bottlenet encode wrote"), open(path, "rb") as file:
        data = read_at_most(file, HEADER_BYTES + MAX_PAYLOAD_BYTES + 1)
        return parse_frame(data, max_payload_bytes=MAX_PAYLOAD_BYTES, bundle_tag=bundle_tag)
