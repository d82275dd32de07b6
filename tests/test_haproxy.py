"""What is mended in the configuration that Ray writes for HAProxy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bottlenet.cloud.ray.haproxy import mended

# As Ray 2.60 writes it, shortened.
RAYS = """global
    log 127.0.0.1:514 local0 info
    stats socket /tmp/haproxy-serve/abc/admin.sock mode 666 level admin expose-fd listeners
    maxconn 4096
defaults
    mode http
    option log-health-checks
    timeout client 3600s
    errorfile 502 /tmp/haproxy-serve/abc/500.http
    errorfile 503 /tmp/haproxy-serve/abc/500.http
    errorfile 504 /tmp/haproxy-serve/abc/500.http
frontend prometheus
    bind :9101
    mode http
frontend http_frontend
    bind {host}:8000
    acl healthcheck path -i /-/healthz
backend http-bottlenet
    server one 127.0.0.1:30001 check
    server SERVE_PROXY_ACTOR-fallback-abc 127.0.0.1:8500 check backup
listen stats
  bind *:8404
  stats enable
"""
AWAY = Path("/private/away.http")


@pytest.mark.parametrize("host", ["127.0.0.1", "*", "::1"])
def test_what_is_mended(host: str) -> None:
    lines = mended(RAYS.format(host=host), {}, AWAY).splitlines()
    assert [line.split()[1] for line in lines if "bind " in line] == [
        "127.0.0.1:9101",
        f"{host}:8000",
        "127.0.0.1:8404",
    ]
    assert [line for line in lines if "errorfile" in line] == [f"    errorfile 50{n} {AWAY}" for n in (2, 3, 4)]
    assert "    timeout http-request 30s" in lines[lines.index("defaults") :][:3]
    assert any("mode 600 level admin" in line for line in lines)
    at = lines.index(f"    bind {host}:8000")
    assert "set-header X-Forwarded-For %[src]" in lines[at + 1]
    assert "del-header X-Forwarded-Proto" in lines[at + 2]
    assert [line.split()[1] for line in lines if line.startswith("    server ")] == ["one"]
    assert len(lines) == len(RAYS.splitlines()) + 3 - 1


def test_as_the_environment_says() -> None:
    environment = {"BOTTLENET_HAPROXY_HOST": "0.0.0.0", "BOTTLENET_HAPROXY_REQUEST_S": "7"}
    text = mended(RAYS.format(host="127.0.0.1"), environment, AWAY)
    assert "bind 0.0.0.0:8000\n" in text
    assert "timeout http-request 7s\n" in text
    assert "bind 127.0.0.1:9101\n" in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BOTTLENET_HAPROXY_HOST", "127.0.0.1:80\n    bind *"),
        ("BOTTLENET_HAPROXY_HOST", ""),
        ("BOTTLENET_HAPROXY_REQUEST_S", "1s\n"),
        ("BOTTLENET_HAPROXY_REQUEST_S", ""),
    ],
)
def test_settings_that_are_none(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is "):
        mended(RAYS.format(host="*"), {name: value}, AWAY)


@pytest.mark.parametrize(
    "line", ["bind :9101", "bind *:8404", "mode 666", "bind *:8000", "    mode http\n    opt", "errorfile 502"]
)
def test_another_ray_wrote_it(line: str) -> None:
    """A gap that is not found is not left open."""
    text = RAYS.format(host="*")
    assert line in text
    with pytest.raises(ValueError, match="times, not .; use Ray 2.60"):
        mended(text.replace(line, "# "), {}, AWAY)


def test_no_server_for_when_there_is_none() -> None:
    text = RAYS.format(host="*").replace("SERVE_PROXY_ACTOR", "ANOTHER")
    with pytest.raises(ValueError, match="a server for when there is none; use Ray 2.60"):
        mended(text, {}, AWAY)


def test_the_command_says_why_it_stops(tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text("global\n")
    for arguments, why in ((["-db", "-f", str(config)], "use Ray 2.60"), (["-db"], "bottlenet-haproxy: ")):
        command = [sys.executable, "-W", "error", "-m", "bottlenet.cloud.ray.haproxy", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert why in done.stderr
    assert config.read_text() == "global\n"
