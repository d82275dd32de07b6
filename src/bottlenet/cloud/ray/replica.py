"""The same application on Ray Serve: any number of replicas, on one machine or many, behind HAProxy.

    device -> HAProxy -> Connection -> ReadDirectly -> Ray Serve -> create_app -> Batcher -> Decoder
                         `-------------------- one process: a replica --------------------'
                                                         `-> frames without an answer -> replicas_for -> more, or fewer

A stream stays with its replica, so that a frame costs no hop between processes. Every replica holds every bundle.
`bottlenet serve --engine ray` deploys it, and so does Ray itself: `app` is for `serve run` and Serve config files.
Needs bottlenet[ray].
"""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry, Metric
from ray import serve
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from bottlenet.bundle.ladder import load_rungs
from bottlenet.cloud.app import create_app
from bottlenet.cloud.connections import Connection, StreamConnection, stream_options
from bottlenet.cloud.ray.cluster import NAME, REACHABLE_S, Deployed, parse_deployed
from bottlenet.cloud.run import set_up_logging
from bottlenet.cloud.service import Service

ROOM = 64  # requests that Ray Serve lets through or keeps, above those that `Guard` turns away with a reason
HEALTH_S = 3.0
WINDOW_S = 15.0  # the load of so long counts
MORE_AFTER_S = 10.0
FEWER_AFTER_S = 600.0  # a change of replicas moves streams, so not for every lull
# Of a replica's process.
ENVIRONMENT = {
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",  # it never blocks, and two threads would pass on every message
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": f"{__name__}:middlewares",
    "RAY_SERVE_AUTOSCALING_METRIC_RECORD_INTERVAL_FACTOR": "0.02",  # of WINDOW_S: the length of a line changes fast
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": f"{REACHABLE_S:g}",
}


def app(args: dict[str, Any]) -> Any:
    """Build the application for `serve run` and Serve config files, as `bottlenet.cloud.ray:app`; see `parse_deployed`.

        serve run bottlenet.cloud.ray:app bundles=/srv/a.bundle,/srv/b.bundle tokens=/srv/tokens.txt replicas=2

    On a command line all is text: several bundles are separated by commas, and numbers, true and limits are JSON.
    """
    values = dict(args)
    for name in values.keys() - {"tokens", "watch", "log_level"}:
        if isinstance(values[name], str):
            with contextlib.suppress(ValueError):
                values[name] = values[name].split(",") if name == "bundles" else json.loads(values[name])
    return application(parse_deployed(values))


def application(deployed: Deployed) -> Any:
    limits = deployed.limits
    environment = {**ENVIRONMENT, "OMP_NUM_THREADS": str(deployed.threads)}
    options: dict[str, Any] = {
        "name": NAME,
        "max_ongoing_requests": limits.max_connections + ROOM,  # a stream is one for as long as it is open
        "max_queued_requests": ROOM,
        "backpressure_config": {"status_code": 503, "retry_after_s": 1},
        "graceful_shutdown_timeout_s": deployed.end_s,
        "graceful_shutdown_wait_loop_s": 0.5,
        "health_check_period_s": HEALTH_S,
        "ray_actor_options": {"num_cpus": deployed.threads, "runtime_env": {"env_vars": environment}},
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
    }
    if deployed.max_replicas in (None, deployed.replicas):
        options["num_replicas"] = deployed.replicas
    else:
        options["autoscaling_config"] = {
            "min_replicas": deployed.replicas,
            "max_replicas": deployed.max_replicas,
            "target_ongoing_requests": deployed.replica_frames,
            "look_back_period_s": WINDOW_S,
            "upscale_delay_s": MORE_AFTER_S,
            "downscale_delay_s": FEWER_AFTER_S,
            "policy": {"policy_function": f"{__name__}:replicas_for"},
        }
    return serve.deployment(**options)(serve.ingress()(Replica)).bind(deployed)


def replicas_for(context: Any) -> tuple[float, dict[str, Any]]:
    """Compute how many replicas the frames need. Ray Serve alone would count streams, which mostly say nothing.

    A replica that works through r of its time has r + r^2 / (2 (1 - r)) frames on the average, if they come at random
    and take the same time each (M/D/1): 2 of them mean that it is busy for 77 % of the time.
    """
    frames = (context.aggregated_metrics or {}).get(NAME, {})
    return sum(frames.values()) / context.config.target_ongoing_requests, {}


class Replica:
    """One process: all bundles, loaded once. Ray Serve calls its methods by these names."""

    def __init__(self, deployed: Deployed) -> None:
        self._deployed = deployed
        self._service: Service | None = None

    def __serve_build_asgi_app__(self) -> Starlette:
        deployed = self._deployed
        set_up_logging(deployed.log_level, as_json=deployed.log_json)
        names = ("tokens", "watch", "threads", "max_batch", "page", "insecure")
        bundles = [rung for path in deployed.bundles for rung in load_rungs(path)]
        app = create_app(bundles, deployed.limits, **{name: getattr(deployed, name) for name in names})
        self._service = service = app.state.service
        registry = CollectorRegistry()
        registry.register(Named(service.metrics.registry, serve.get_replica_context().replica_id.unique_id))
        service.metrics.registry = registry
        # Ray Serve has its HTTP server made with uvicorn's defaults, which leave most without a bound.
        uvicorn.config.HTTP_PROTOCOLS["auto"] = Connections(service)  # type: ignore[assignment]
        return app

    def record_autoscaling_stats(self) -> dict[str, float]:
        return {NAME: 0.0 if self._service is None else float(self._service.ongoing)}


class Connections:
    """Gives each connection its limits, and ends streams as the application wants it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stopping: asyncio.Task[None] | None = None

    def __call__(self, config: uvicorn.Config, app_state: dict[str, Any], **options: Any) -> Connection:
        """Make a connection, as uvicorn asks for it. `config` is that of all of them."""
        limits = self._service.limits
        for name, value in stream_options(limits).items():
            setattr(config, name, value)
        config.ws_protocol_class = self.stream  # type: ignore[assignment]

        # None is counted: all come from HAProxy's address.
        def refused(kind: str) -> None:
            self._service.metrics.refused("connection", kind)

        return Connection(limits, lambda: None, refused, app_state, config=config, **options)

    def stream(self, **options: Any) -> StreamConnection:
        connection = StreamConnection(**options)
        # uvicorn would cut it when the replica ends, whatever is not answered yet.
        connection.shutdown = self.stop  # type: ignore[method-assign]
        return connection

    def stop(self) -> None:
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._service.stop())


class ReadDirectly:
    """ASGI middleware in front of Ray Serve, which would read from a stream without end, and obey what clients say."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kept = [one for one in scope["headers"] if one[0].lower().replace(b"_", b"-") not in TO_RAY]
        scope["headers"] = [*kept, (b"x-request-disconnect-disabled", b"?1")]
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    return [Middleware(ReadDirectly)]


class Named:
    """All metrics of a registry with one more label: through HAProxy come those of any replica."""

    def __init__(self, registry: CollectorRegistry, replica: str) -> None:
        self._registry = registry
        self._replica = replica

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [one._replace(labels={**one.labels, "replica": self._replica}) for one in metric.samples]
            yield metric


# Of what clients may say, for Ray Serve.
TO_RAY = frozenset(
    {b"x-request-disconnect-disabled", b"x-request-timeout-seconds", b"serve-multiplexed-model-id", b"x-session-id"}
)
