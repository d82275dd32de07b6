"""What replicas are told, and which options go with which engine. No Ray is needed for any of it."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from typing import Any

import pytest

from bottlenet.bundle import Bundle
from bottlenet.cli.server import Cluster, check_options
from bottlenet.cloud.admission import Access, Limits, Mqtt
from bottlenet.cloud.ray.cluster import Deployed, free_ports, parse_deployed
from bottlenet.errors import InputError
from processes import refused_to_start

TOKENS = {"tokens": "/secrets/tokens.txt"}


def test_a_configuration() -> None:
    args = {"bundles": ["/a", "/b"], "max_replicas": 4, "limits": {"max_waiting": 9}, **TOKENS}
    expected = Deployed(
        bundles=("/a", "/b"), tokens="/secrets/tokens.txt", max_replicas=4, limits=Limits(max_waiting=9)
    )
    assert parse_deployed(args) == expected
    assert parse_deployed({"watch": "/srv", "insecure": True}) == Deployed(watch="/srv", insecure=True)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"bundles": ["/a"]}, "args has no tokens, .*; name a file, or say insecure: true"),
        ({"bundles": ["/a"], "tokens": ""}, "args has no tokens"),
        ({"bundles": ["/a"], "insecure": "yes"}, "args has no tokens"),
        (TOKENS, "no bundle to serve"),
        ({"bundles": "/a", **TOKENS}, "bundles is '/a'; give a list"),
        ({"bundles": [1], **TOKENS}, "bundles.0 is 1; give text"),
        ({"bundles": ["/a"], "replica": 2, **TOKENS}, "unknown field 'replica'"),
        (
            {"bundles": ["/a"], "limits": {"idle": 2}, **TOKENS},
            "unknown field 'limits.idle'",
        ),
        ({"bundles": ["/a"], "limits": 3, **TOKENS}, "limits is 3; give an object"),
        ({"bundles": ["/a"], "limits": {"idle_s": -1}, **TOKENS}, "idle_s is -1"),
        ({"bundles": ["/a"], "limits": {"idle_s": "1"}, **TOKENS}, "limits.idle_s is '1'"),
        ({"bundles": ["/a"], "replicas": 0, **TOKENS}, "replicas is 0; give a number of 1 or more"),
        ({"bundles": ["/a"], "replicas": "2", **TOKENS}, "replicas is '2'"),
        ({"bundles": ["/a"], "replicas": 3, "max_replicas": 2, **TOKENS}, "max_replicas is 2; give a number from 3"),
        ({"bundles": ["/a"], "replica_frames": 0, **TOKENS}, "replica_frames is 0"),
        ({"bundles": ["/a"], "log_level": "loud", **TOKENS}, "log_level is 'loud'"),
        ({"bundles": ["/a"], "tokens": 7}, "tokens is 7; give text"),
    ],
)
def test_a_configuration_that_is_none(args: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_deployed(args)


def test_a_replica_has_time_to_end() -> None:
    assert Deployed(("/a",), limits=Limits(grace_s=50)).end_s > 50


@pytest.mark.parametrize("field", dataclasses.fields(Cluster), ids=lambda field: field.name)
def test_options_for_a_cluster_alone(field: dataclasses.Field[Any]) -> None:
    check_options("embedded", Access(tls_cert="c", tls_key="k"), Mqtt("mqtt://b"), Limits(first_byte_s=1), Cluster())
    cluster = Cluster(**{field.name: 7})
    check_options("ray", Access(tokens="t", insecure=True), Mqtt(), Limits(idle_s=9), cluster)
    with pytest.raises(InputError, match=f"--{field.name.replace('_', '-')} is for --engine ray; leave it out"):
        check_options("embedded", Access(), Mqtt(), Limits(), cluster)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            Access(tls_cert="c", tls_key="k"),
            "--tls-cert is not for --engine ray: HAProxy takes connections",
        ),
        (Access(tls_key="k"), "--tls-key is not .*, so put what speaks TLS in front of it"),
        (Mqtt("mqtt://b"), "--mqtt is not for --engine ray: a broker shares frames out by itself"),
        (Mqtt(mqtt_group="mine"), "--mqtt-group is not"),
        (Limits(first_byte_s=3), "--first-byte-s is not for --engine ray: HAProxy has --request-s"),
        (Limits(max_per_address=3), "--max-per-address is not for --engine ray: to a replica all come from HAProxy"),
    ],
)
def test_options_for_this_process_alone(given: Access | Mqtt | Limits, says: str) -> None:
    values = {kind: given if isinstance(given, kind) else kind() for kind in (Access, Mqtt, Limits)}
    with pytest.raises(InputError, match=says):
        check_options("ray", values[Access], values[Mqtt], values[Limits], Cluster())  # type: ignore[arg-type]


def test_another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    check_options("embedded", Access(), Mqtt(), Limits(), Cluster())
    with pytest.raises(InputError, match="--engine ray needs Linux, .*; use --engine embedded"):
        check_options("ray", Access(), Mqtt(), Limits(), Cluster())


def test_another_engine(bundle: Bundle) -> None:
    said = refused_to_start(bundle.path, "--engine", "steam")
    assert said == "error: --engine is 'steam'; choose one of embedded, ray\n"
    said = refused_to_start(bundle.path, "--engine", "ray", "--tls-cert", "c")
    assert said.startswith("error: --tls-cert is not for --engine ray")


def test_without_ray_it_says_what_to_install(bundle: Bundle) -> None:
    """In a process that can't find it, wherever it is installed."""
    code = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "ray" else find(name, *rest)
from bottlenet import cli
cli.main()
"""
    command = [sys.executable, "-W", "error", "-c", code, "serve", str(bundle.path), "--engine", "ray"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith('error: bottlenet serve --engine ray needs an optional part: pip install ".[ray]"')
    assert done.stderr.count("\n") == 1


class TestFreePorts:
    def test_all_are_free_and_none_is_given_out_by_the_system(self) -> None:
        found = free_ports(3)
        assert len(set(found)) == 3
        assert set(found) <= set(range(20_000, 30_000))  # below what systems give out
        for port in found:
            socket.create_server(("127.0.0.1", port)).close()

    def test_one_that_is_taken_is_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        first, second = free_ports(2)
        monkeypatch.setattr("bottlenet.cloud.ray.cluster.OWN_PORTS", [first, second])
        with socket.create_server(("127.0.0.1", first)):
            assert free_ports(1) == [second]
            with pytest.raises(InputError, match=f"of ports {first} to {second} fewer than 2 are free; end what has"):
                free_ports(2)
