"""`bottlenet serve --engine ray`: `cloud.ray.replica` on a cluster, until it is told to stop.

    check -> cluster -> deploy -> announce the URL -> SIGINT, SIGTERM or end of input -> drain -> end, or leave it

Needs bottlenet[ray].
"""

from __future__ import annotations

import contextlib
import http.client
import io
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from bottlenet.bundle import Bundle
from bottlenet.cloud.admission import Access
from bottlenet.cloud.app import create_app
from bottlenet.cloud.ray.cluster import (
    ALL,
    LOGS,
    LOOPBACK,
    NAME,
    Deployed,
    free_ports,
    head,
    joined_cluster,
    one_line,
    own_cluster,
    seconds,
)
from bottlenet.cloud.run import SIGNALS, SPARE_FILES, address, allow_files, open_port, stop_at_end_of_input
from bottlenet.errors import BottleNetError, InputError

EVERYWHERE = (ALL, "::")
LOOK_EVERY_S = 0.2
FRONT_S = 60.0


def serve(
    deployed: Deployed,
    announce: Callable[[str], None],
    *,
    host: str = LOOPBACK,
    port: int = 8000,
    access: Access | None = None,
    ray_address: str | None = None,
    stop_with_input: bool = False,
) -> None:
    """Serves until SIGINT or SIGTERM, then returns; what was taken is answered first, for up to `limits.grace_s`.

    As `cloud.run.serve` in all that is named alike there. Errors as for `running`.
    """
    stopped, stdout = threading.Event(), sys.stdout

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    with running(deployed, host=host, port=port, access=access, ray_address=ray_address) as where:
        before = {number: signal.signal(number, stop) for number in SIGNALS}  # in place of Ray's
        if stop_with_input:
            stop_at_end_of_input(stopped.set)
        with contextlib.redirect_stdout(stdout):
            announce(where)
        stopped.wait()
    for number, handler in before.items():
        signal.signal(number, handler)


@contextlib.contextmanager
def running(
    deployed: Deployed,
    *,
    host: str = LOOPBACK,
    port: int = 8000,
    access: Access | None = None,
    ray_address: str | None = None,
) -> Iterator[str]:
    """Inside, it serves at the "host:port" that is given. At the end it is drained.

    InputError: an address that can't be listened on, or would be open to all without a word, no such cluster, one that
    serves already, or see `create_app`. BundleError: see `create_app`.
    """
    with open_port(host, port or free_ports(1)[0]) as listener:
        ip, port = listener.getsockname()[:2]
        (access or Access()).check(ip)
        where = address(listener)
    check(deployed, own=ray_address is None)
    allow_files(2 * deployed.limits.max_connections + SPARE_FILES)  # HAProxy has two for each
    with contextlib.ExitStack() as stack:
        if ray_address is None:
            stack.enter_context(own_cluster(deployed, ip))
            stack.enter_context(served(deployed, LOOPBACK, port))
            await_front(LOOPBACK if ip in EVERYWHERE else ip, port)
        else:
            deployed = stack.enter_context(joined_cluster(deployed, ray_address, ip))
            stack.enter_context(served(deployed, ip, port))
            await_front(head() if ip in EVERYWHERE else ip, port)
        yield where


def check(deployed: Deployed, *, own: bool) -> None:
    """That a replica will start, as far as can be told here. Errors as for `create_app`."""
    bundles = [Bundle.load(path) for path in deployed.bundles]
    if own:
        create_app(bundles, deployed.limits, tokens=deployed.tokens, watch=deployed.watch)
    elif bundles:
        create_app(bundles, deployed.limits)


@contextlib.contextmanager
def served(deployed: Deployed, host: str, port: int) -> Iterator[None]:
    """Ray Serve with the application. InputError: replicas or HAProxy don't start."""
    from ray import serve

    from bottlenet.cloud.ray.replica import application

    quiet = {"log_level": "WARNING", "enable_access_log": False}
    kept_s = int(seconds(min(deployed.limits.idle_s, deployed.limits.request_s)))
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        try:
            options = {"host": host, "port": port, "keep_alive_timeout_s": kept_s}
            serve.start(proxy_location="EveryNode", http_options=options, logging_config=quiet)
            serve.run(application(deployed), name=NAME, route_prefix="/", logging_config=quiet)
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
    """Until HAProxy has a replica, which is a moment after Ray Serve says so. InputError: it has none."""
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
