"""Ray clusters: one on this machine, which ends with this process, or one that is there and is joined.

    own_cluster    -> Ray's settings, a token, a private folder -> ray.init
    joined_cluster -> bundles copied for its machines           -> ray.init -> is it free?

Of the ports of an own cluster only HAProxy's can be used from other machines without Ray's token. Needs bottlenet[ray],
which reads most settings when it is imported: never before they are made here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import math
import os
import random
import re
import secrets
import shlex
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bottlenet.bundle import GRAPHS, Bundle, write_bundle
from bottlenet.cloud.deployed import REACHABLE_S, Deployed
from bottlenet.cloud.haproxy import HOST, REQUEST_S
from bottlenet.errors import InputError

LOOPBACK, ALL = "127.0.0.1", "0.0.0.0"
OWN_PORTS = range(20_000, 30_000)  # above Ray's for workers, below those of replicas and those that systems give out
FRONT_THREADS = 4  # of HAProxy, at most
STORE_BYTES = 100 * 2**20  # Ray's memory for objects, of which there are next to none
SOCKETS = "/tmp"  # for paths that are short: a socket's may have 107 bytes, and Ray's names take most of them
AUTH_MODE = "RAY_AUTH_MODE"
LOGS = "Ray's logs are in /tmp/ray/session_latest/logs"
SAID = re.compile(r"(?m)^(?:\S+ )?bottlenet\.errors\.\w+: (.+)$")
ALWAYS = ("RAY_ADDRESS", "RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_HAPROXY_BINARY_PATH")  # whatever the environment says


@contextlib.contextmanager
def own_cluster(deployed: Deployed, ip: str) -> Iterator[None]:
    """A cluster of this machine. HAProxy will listen at `ip`."""
    cores = max(os.cpu_count() or 1, deployed.threads * (deployed.max_replicas or deployed.replicas))
    options = {"address": "local", "num_cpus": cores, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(temporary_folder()))
        stack.enter_context(environ(environment(deployed) | of_this_machine(folder, ip)))
        if AUTH_MODE not in os.environ:  # then Ray sets it to "token", and says so
            stack.callback(os.environ.pop, AUTH_MODE, None)
            logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
        stack.enter_context(connected("start", **options))
        yield


@contextlib.contextmanager
def joined_cluster(deployed: Deployed, ray_address: str, ip: str) -> Iterator[Deployed]:
    """A cluster that is there. Gives `deployed` with the bundles where its machines have them."""
    if ray_address.startswith("ray://"):
        raise InputError(f"--ray-address is {ray_address!a}; give host:port of Ray's head, or auto on a machine of it")
    with temporary_folder() as folder, environ(environment(deployed)) as settings:
        paths = tuple(staged(deployed.bundles, Path(folder)))
        with connected("join", address=ray_address, runtime_env={"env_vars": settings, "working_dir": folder}):
            check_cluster(ip)
            yield dataclasses.replace(deployed, bundles=paths)


def check_cluster(ip: str) -> None:
    """InputError: somebody serves on it, or its machines can't reach each other at `ip`."""
    import ray
    from ray import serve

    if serve.status().proxies:
        raise InputError("Ray Serve runs on this cluster already; end it (`serve shutdown`), or use `serve deploy`")
    machines = sum(bool(node["Alive"]) for node in ray.nodes())
    if machines > 1 and ip != ALL:
        raise InputError(f"the cluster has {machines} machines, which have to reach each other; give --host {ALL}")


@contextlib.contextmanager
def connected(what: str, **options: Any) -> Iterator[None]:
    """To a cluster, as `ray.init` does it. What Ray prints goes to standard error. InputError: it can't."""
    import ray

    with contextlib.redirect_stdout(sys.stderr):
        try:
            ray.init(log_to_driver=False, logging_level=logging.WARNING, **options)
        except Exception as error:  # many kinds, with no base of their own
            raise InputError(f"can't {what} a Ray cluster: {one_line(error)}; {LOGS}") from error
        try:
            yield
        finally:
            with contextlib.redirect_stdout(io.StringIO()):  # that what it ends has ended
                ray.shutdown()


def environment(deployed: Deployed) -> dict[str, str]:
    """Ray's settings, for all its processes. It reads them when it is imported, so that has to come later."""
    limits = deployed.limits
    return {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # or Ray warns that it will be so
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_MAXCONN": str(limits.max_connections),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(FRONT_THREADS, os.cpu_count() or 1)),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": seconds(limits.idle_s + limits.request_s),  # the replica is first
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # a message to Python for each request
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # on a busy machine a process may take long to start
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": f"{REACHABLE_S:g}",
        "RAY_SERVE_SHUTDOWN_TIER_TIMEOUT_S": seconds(deployed.end_s),
        "RAY_SERVE_LOG_TO_STDERR": "0",
        REQUEST_S: seconds(limits.request_s),
    }


def of_this_machine(folder: Path, ip: str) -> dict[str, str]:
    """More of them, for a cluster that nobody else should reach: `ip` is for HAProxy alone, `folder` private."""
    launcher = folder / "haproxy"
    launcher.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m bottlenet.cloud.haproxy "$@"\n')
    launcher.chmod(0o700)
    counters, statistics, fallback = map(str, free_ports(3))
    return {
        HOST: ip,
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(launcher),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": counters,
        "RAY_SERVE_HAPROXY_STATS_PORT": statistics,
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": fallback,
        "RAY_ADDRESS": "",  # that of another
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # so Ray's own addresses are on loopback, as there
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # Ray would leave one in a file that others can read
        "RAY_worker_niceness": "0",  # nothing else that Ray does here would have to come first
    }


def free_ports(count: int) -> list[int]:
    """On loopback, and none that a system gives out by itself: Ray's processes take dozens of those before these are
    listened on. InputError: there are not so many.
    """
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        for port in random.sample(OWN_PORTS, len(OWN_PORTS)):
            if len(found) == count:
                break
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_server((LOOPBACK, port)))
                found.append(port)
    if len(found) < count:
        raise InputError(f"of ports {OWN_PORTS[0]} to {OWN_PORTS[-1]} fewer than {count} are free; end what has them")
    return found


@contextlib.contextmanager
def environ(settings: dict[str, str]) -> Iterator[dict[str, str]]:
    """This process's environment, and that of what it starts, with these in it. What was there stays; gives what is."""
    settings = {name: value if name in ALWAYS else os.environ.get(name, value) for name, value in settings.items()}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield settings
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """For this user alone, and gone afterwards."""
    return tempfile.TemporaryDirectory(prefix="bottlenet-", dir=SOCKETS, ignore_cleanup_errors=True)


def staged(bundles: tuple[str, ...], folder: Path) -> Iterator[str]:
    """Copies of bundles in `folder`, each alone; gives their paths in there."""
    for number, path in enumerate(bundles):
        bundle = Bundle.load(path)
        files = {name: bundle.graph(name) if name in GRAPHS else bundle.path / name for name in bundle.manifest.files}
        yield write_bundle(folder / f"bundle-{number}", bundle.manifest, files).path.name


def head() -> str:
    """The address of Ray's head, which always has a HAProxy."""
    import ray

    return str(ray.get_runtime_context().gcs_address).rpartition(":")[0].strip("[]")


def one_line(error: Exception) -> str:
    """What it says; of what another process raised, the end, which says why."""
    said = SAID.findall(str(error))
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    return str((said or lines or [type(error).__name__])[-1])[:300]


def seconds(value: float) -> str:
    """Whole ones, as HAProxy wants them."""
    return str(math.ceil(value))
