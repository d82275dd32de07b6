"""`bottlenet serve --engine ray`: `bottlenet.cloud.ray:app` on a Ray cluster, until it is told to stop.

    check -> own_cluster:    Ray's settings, a token, a private folder -> ray.init          -> app -> announce the URL
             joined_cluster: bundles copied for its machines -> ray.init -> is it free?
    SIGINT, SIGTERM or end of input -> drain -> end the cluster, or leave it

Of the ports of an own cluster only HAProxy's can be used from other machines without Ray's token. Needs bottlenet[ray],
which reads most settings when it is imported: never before they are made here.
"""

import contextlib
import dataclasses
import http.client
import importlib
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
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from bottlenet.bundle import GRAPHS, Bundle, write_bundle
from bottlenet.cloud.admission import LOG_LEVELS, Access, Limits
from bottlenet.cloud.app import create_app
from bottlenet.cloud.ray.haproxy import HOST, REQUEST_S
from bottlenet.cloud.run import SPARE_FILES, address, allow_files, open_port, told_to
from bottlenet.errors import BottleNetError, InputError
from bottlenet.records import check_number, convert, one_of, record

NAME = "bottlenet"  # of the application, the deployment and the metric that it is scaled by
MAX_REPLICAS = 1000
REACHABLE_S = 5.0  # a replica that ends takes frames for so long, until every HAProxy has heard of it
MARGIN_S = 10.0  # to end, after all is answered

AtLeastOne = Annotated[int, Field(ge=1, le=MAX_REPLICAS)]


@record
class Deployed:
    """The options of replicas; paths are of their machines. InputError: a value that can't be, or nothing to serve."""

    bundles: tuple[str, ...] = ()
    tokens: str | None = None
    watch: str | None = None
    threads: AtLeastOne = 1
    max_batch: AtLeastOne = 16
    page: bool = True
    insecure: bool = False
    replicas: AtLeastOne = 1
    max_replicas: AtLeastOne | None = None
    replica_frames: Annotated[float, Field(ge=0.1, le=1e6)] = 2.0  # without an answer, that a replica should have
    log_level: Annotated[str, one_of(*LOG_LEVELS)] = "warning"
    log_json: bool = False
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not self.bundles and self.watch is None:
            raise InputError("no bundle to serve; give at least one, or a folder to watch")
        if self.max_replicas is not None:
            check_number("max_replicas", self.max_replicas, self.replicas, MAX_REPLICAS)

    @property
    def end_s(self) -> float:
        """Seconds that a replica has to end: until nothing comes any more, all is answered, and it is gone."""
        return REACHABLE_S + self.limits.grace_s + MARGIN_S


def parse_deployed(args: Mapping[str, object]) -> Deployed:
    """Read the fields of `Deployed`, with `limits` by name. InputError: it is open to all, or can't be used."""
    if not args.get("tokens") and args.get("insecure") is not True:
        raise InputError("args has no tokens, so any client would be served; name a file, or say insecure: true")
    return convert(Deployed, dict(args), 'see docs/operating.md, "Many replicas"')


LOOPBACK, ALL = "127.0.0.1", "0.0.0.0"
OWN_PORTS = range(20_000, 30_000)  # above Ray's for workers, below those of replicas and those that systems give out
FRONT_THREADS = 4  # of HAProxy, at most
STORE_BYTES = 100 * 2**20  # Ray's memory for objects, of which there are next to none
SOCKETS = "/tmp"  # for paths that are short: a socket's may have 107 bytes, and Ray's names take most of them
AUTH_MODE = "RAY_AUTH_MODE"
LOGS = "Ray's logs are in /tmp/ray/session_latest/logs"
SAID = re.compile(r"(?m)^(?:\S+ )?bottlenet\.errors\.\w+: (.+)$")
ALWAYS = ("RAY_ADDRESS", "RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_HAPROXY_BINARY_PATH")  # whatever the environment says
EVERYWHERE = (ALL, "::")
LOOK_EVERY_S = 0.2
FRONT_S = 60.0


def serve(deployed: Deployed, announce: Callable[[str], None], *, stop_with_input: bool = False, **where: Any) -> None:
    """Serve until SIGINT or SIGTERM, as `cloud.run.serve` does. Other arguments and errors: as for `running`."""
    stopped, stdout = threading.Event(), sys.stdout
    with contextlib.ExitStack() as handlers, running(deployed, **where) as reached:
        handlers.enter_context(told_to(stopped.set, stop_with_input))  # in place of Ray's, until all is drained
        with contextlib.redirect_stdout(stdout):
            announce(reached)
        stopped.wait()


@contextlib.contextmanager
def running(
    deployed: Deployed,
    *,
    host: str = LOOPBACK,
    port: int = 8000,
    access: Access | None = None,
    ray_address: str | None = None,
) -> Iterator[str]:
    """Serve inside the block, at the "host:port" that it gets; then drain.

    InputError: as `cloud.run.serve`, no such cluster, or one that serves already. BundleError: see `create_app`.
    """
    with open_port(host, port or free_ports(1)[0]) as listener:
        ip, port = listener.getsockname()[:2]
        (access or Access()).check(ip)
        where = address(listener)
    # A replica will start, as far as can be told here: the file of tokens and the folder may be other machines'.
    bundles = [Bundle.load(path) for path in deployed.bundles]
    if ray_address is None:
        create_app(bundles, deployed.limits, tokens=deployed.tokens, watch=deployed.watch)
    elif bundles:
        create_app(bundles, deployed.limits)
    allow_files(2 * deployed.limits.max_connections + SPARE_FILES)  # HAProxy has two for each
    with contextlib.ExitStack() as stack:
        if ray_address is None:
            stack.enter_context(own_cluster(deployed, ip))
            stack.enter_context(served(deployed, LOOPBACK, port))
            await_front(LOOPBACK if ip in EVERYWHERE else ip, port)
        else:
            deployed = stack.enter_context(joined_cluster(deployed, ray_address, ip))
            stack.enter_context(served(deployed, ip, port))
            import ray

            # Ray's head always has a HAProxy.
            head = str(ray.get_runtime_context().gcs_address).rpartition(":")[0].strip("[]")
            await_front(head if ip in EVERYWHERE else ip, port)
        yield where


@contextlib.contextmanager
def served(deployed: Deployed, host: str, port: int) -> Iterator[None]:
    """Run the application on Ray Serve. InputError: replicas or HAProxy don't start."""
    from ray import serve

    # By name, as Ray itself finds it: replicas need no cluster to be built.
    replica = importlib.import_module("bottlenet.cloud.ray.replica")
    quiet = {"log_level": "WARNING", "enable_access_log": False}
    kept_s = int(seconds(min(deployed.limits.idle_s, deployed.limits.request_s)))
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        try:
            options = {"host": host, "port": port, "keep_alive_timeout_s": kept_s}
            serve.start(proxy_location="EveryNode", http_options=options, logging_config=quiet)
            serve.run(replica.application(deployed), name=NAME, route_prefix="/", logging_config=quiet)
        except BottleNetError:
            raise
        except Exception as error:  # as above
            raise InputError(f"Ray Serve does not start: {one_line(error)}; {LOGS}") from error
        yield
    finally:
        with contextlib.redirect_stdout(io.StringIO()):
            drain(deployed.end_s)
            serve.shutdown()


def await_front(host: str, port: int) -> None:
    """Wait until HAProxy has a replica, which is a moment after Ray Serve says so. InputError: it has none."""
    deadline = time.monotonic() + FRONT_S
    while True:
        front = http.client.HTTPConnection(host, port, timeout=LOOK_EVERY_S * 10)
        with contextlib.closing(front), contextlib.suppress(OSError, http.client.HTTPException):
            front.request("GET", "/healthz")
            if front.getresponse().status == 200:
                return
        if time.monotonic() > deadline:
            raise InputError(f"HAProxy at {host} port {port} finds no replica within {FRONT_S:g} s; {LOGS}")
        time.sleep(LOOK_EVERY_S)


def drain(limit_s: float) -> None:
    """End the replicas, each when it has answered. `serve.shutdown` alone would cut HAProxy off first."""
    from ray import serve

    with contextlib.suppress(Exception):  # nothing was deployed, or nobody is there any more
        serve.delete(NAME, _blocking=False)
        deadline = time.monotonic() + limit_s
        while NAME in serve.status().applications and time.monotonic() < deadline:
            time.sleep(LOOK_EVERY_S)


@contextlib.contextmanager
def own_cluster(deployed: Deployed, ip: str) -> Iterator[None]:
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
    """Join a cluster that is there; give `deployed` with the bundles where its machines have them."""
    if ray_address.startswith("ray://"):
        raise InputError(f"--ray-address is {ray_address!a}; give host:port of Ray's head, or auto on a machine of it")
    with temporary_folder() as folder, environ(environment(deployed)) as settings:
        paths = tuple(staged(deployed.bundles, Path(folder)))
        with connected("join", address=ray_address, runtime_env={"env_vars": settings, "working_dir": folder}):
            check_cluster(ip)
            yield dataclasses.replace(deployed, bundles=paths)


def check_cluster(ip: str) -> None:
    """Refuse, with InputError, a cluster that serves already, or whose machines can't reach each other at `ip`."""
    import ray
    from ray import serve

    if serve.status().proxies:
        raise InputError("Ray Serve runs on this cluster already; end it (`serve shutdown`), or use `serve deploy`")
    machines = sum(bool(node["Alive"]) for node in ray.nodes())
    if machines > 1 and ip != ALL:
        raise InputError(f"the cluster has {machines} machines, which have to reach each other; give --host {ALL}")


@contextlib.contextmanager
def connected(what: str, **options: Any) -> Iterator[None]:
    """Connect to a cluster with `ray.init`. What Ray prints goes to standard error. InputError: it can't."""
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
    """Make Ray's settings, for all its processes. It reads them when it is imported, so that has to come later."""
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
    """Make those of a cluster that nobody else should reach: `ip` is for HAProxy alone, `folder` private."""
    launcher = folder / "haproxy"
    launcher.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m bottlenet.cloud.ray.haproxy "$@"\n')
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
    """Find ports on loopback that no system gives out by itself, as Ray takes dozens of those. InputError: too few."""
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        for port in random.sample(OWN_PORTS, len(OWN_PORTS)):
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_server((LOOPBACK, port)))
                found.append(port)
            if len(found) == count:
                return found
    raise InputError(f"of ports {OWN_PORTS[0]} to {OWN_PORTS[-1]} fewer than {count} are free; end what has them")


@contextlib.contextmanager
def environ(settings: dict[str, str]) -> Iterator[dict[str, str]]:
    """Set what this process's environment lacks, also for what it starts; give what is set."""
    settings = {name: value if name in ALWAYS else os.environ.get(name, value) for name, value in settings.items()}
    before = {name: os.environ[name] for name in settings if name in os.environ}
    os.environ.update(settings)
    try:
        yield settings
    finally:
        for name in settings:
            os.environ.pop(name, None)
        os.environ.update(before)


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="bottlenet-", dir=SOCKETS, ignore_cleanup_errors=True)


def staged(bundles: tuple[str, ...], folder: Path) -> Iterator[str]:
    """Copy bundles into `folder`, each alone; give their paths in there."""
    for number, path in enumerate(bundles):
        bundle = Bundle.load(path)
        files = {name: bundle.graph(name) if name in GRAPHS else bundle.path / name for name in bundle.manifest.files}
        yield write_bundle(folder / f"bundle-{number}", bundle.manifest, files).path.name


def one_line(error: Exception) -> str:
    """Shorten an error to one line: of one that another process raised, the end, which says why."""
    said = SAID.findall(str(error))
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    return str((said or lines or [type(error).__name__])[-1])[:300]


def seconds(value: float) -> str:
    """Round up to whole seconds, as HAProxy wants them."""
    return str(math.ceil(value))
