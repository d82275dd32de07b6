"""What answers frames, this process or replicas on a Ray cluster, and which options go with which."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass

from bottlenet.check import check_choice
from bottlenet.cli.access import Access, Mqtt
from bottlenet.cloud.limits import Limits
from bottlenet.errors import InputError

EMBEDDED, RAY = "embedded", "ray"


@dataclass(frozen=True)
class Cluster:
    """How many replicas there are, and where."""

    replicas: int = 1  # With --engine ray: processes that answer, at least
    max_replicas: int | None = None  # With --engine ray: at most; above --replicas their number follows the load
    replica_frames: float = 2.0  # With --engine ray: frames without an answer beyond which a replica needs another
    ray_address: str | None = None  # With --engine ray: cluster to join, host:port or auto; without it one is started


def check_options(engine: str, access: Access, mqtt: Mqtt, limits: Limits, cluster: Cluster) -> None:
    """InputError: no such engine, none for this system, or an option that it can't honour."""
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
    """Of the command line."""
    return "--" + field.replace("_", "-")


TLS = "HAProxy takes connections, so put what speaks TLS in front of it, and leave this out"
BROKER = "a broker shares frames out by itself, so start `bottlenet serve --mqtt` on each machine instead"
NOT_FOR_RAY = {
    "tls_cert": TLS,
    "tls_key": TLS,
    "mqtt": BROKER,
    "mqtt_password": BROKER,
    "mqtt_ca": BROKER,
    "mqtt_group": BROKER,
    "first_byte_s": "HAProxy has --request-s for the whole header; leave this out",
    "max_per_address": "to a replica all come from HAProxy's address; limit it in what is in front, and leave this out",
}
