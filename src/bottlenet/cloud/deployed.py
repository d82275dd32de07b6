"""What replicas on a cluster serve, and how many there are: as options and configurations say it, without Ray."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from bottlenet.check import check_choice, check_number, shown
from bottlenet.cloud.limits import Limits
from bottlenet.cloud.logs import LEVELS
from bottlenet.errors import InputError

NAME = "bottlenet"  # of the application, the deployment and the metric that it is scaled by
MAX_REPLICAS = 1000
REACHABLE_S = 5.0  # a replica that ends takes frames for so long, until every HAProxy has heard of it
MARGIN_S = 10.0  # to end, after all is answered


@dataclass(frozen=True)
class Deployed:
    """What replicas serve, and how many there are. Paths are those of the machines that they run on.

    InputError: a number or a name that can't be, or nothing to serve.
    """

    bundles: tuple[str, ...] = ()
    tokens: str | None = None
    watch: str | None = None
    threads: int = 1
    max_batch: int = 16
    page: bool = True
    replicas: int = 1
    max_replicas: int | None = None
    replica_frames: float = 2.0  # without an answer, that a replica should have; beyond that there should be more
    log_level: str = "warning"
    log_json: bool = False
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not self.bundles and self.watch is None:
            raise InputError("no bundle to serve; give at least one, or a folder to watch")
        for name in ("tokens", "watch"):
            if not isinstance(getattr(self, name), str | None):
                raise InputError(f"{name} is {shown(getattr(self, name))}; give a path")
        for name in ("threads", "max_batch", "replicas"):
            check_number(name, getattr(self, name), 1, MAX_REPLICAS)
        if self.max_replicas is not None:
            check_number("max_replicas", self.max_replicas, self.replicas, MAX_REPLICAS)
        check_number("replica_frames", self.replica_frames, 0.1, 1e6)
        check_choice("log_level", self.log_level, LEVELS)

    @property
    def end_s(self) -> float:
        """Seconds that a replica has to end: until nothing comes any more, all is answered, and it is gone."""
        return REACHABLE_S + self.limits.grace_s + MARGIN_S


def parse_deployed(args: Mapping[str, object]) -> Deployed:
    """From a configuration: the fields of `Deployed`, with `bundles` as a list and `limits` by name.

    As what is configured so is reached from other machines, it has `tokens`, or says `insecure: true`. InputError: it
    doesn't, or can't be used.
    """
    values = dict(args)
    insecure = values.pop("insecure", False)
    if not values.get("tokens") and insecure is not True:
        raise InputError("args has no tokens, so nobody would be asked who he is; name a file, or say insecure: true")
    bundles, limits = values.get("bundles") or [], values.get("limits") or {}
    if not isinstance(bundles, list | tuple) or not all(isinstance(one, str) for one in bundles):
        raise InputError(f"args has bundles {shown(bundles)}; give a list of folders")
    if not isinstance(limits, Mapping):
        raise InputError(f"args has limits {shown(limits)}; give names and numbers")
    for given, record in ((values, Deployed), (limits, Limits)):
        known = sorted(one.name for one in dataclasses.fields(record))
        if unknown := sorted(set(given) - set(known)):
            raise InputError(f"args has {shown(unknown[0])}; it may have {', '.join(known)}")
    for name, value in limits.items():
        check_number(name, value, 0, 1e9)
    values |= {"bundles": tuple(bundles), "limits": Limits(**limits)}
    return Deployed(**values)  # type: ignore[arg-type]  # checked in there
