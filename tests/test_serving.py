from __future__ import annotations

import dataclasses
import socket
import subprocess
import sys

import pytest

from bottlenet.bundle import Bundle
from bottlenet.cloud import Limits, create_app
from bottlenet.cloud.admission import Access
from bottlenet.cloud.run import address, configure, open_port
from bottlenet.errors import InputError


def test_it_sends_no_pings(bundle: Bundle) -> None:
    """A connection that waits costs nothing: `edge.connection` promises it, and it takes both sides."""
    assert configure(create_app([bundle]), Limits()).ws_ping_interval is None


@pytest.mark.parametrize(("idle_s", "request_s", "kept_s"), [(3600, 5, 5), (3, 30, 3)])
def test_an_http_connection_is_not_kept_as_long_as_a_stream(
    bundle: Bundle, idle_s: float, request_s: float, kept_s: float
) -> None:
    """Health checks need no token, so anybody could fill the server with connections that say nothing more."""
    limits = Limits(idle_s=idle_s, request_s=request_s)
    assert configure(create_app([bundle]), limits).timeout_keep_alive == kept_s


def test_a_device_that_vanished_is_noticed() -> None:
    with open_port("127.0.0.1", 0) as listener:
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "fe80::1%eth0", "0.0.0.0", "::", "192.0.2.1"])
def test_beyond_this_machine_only_with_tokens_or_tls(host: str) -> None:
    if host.startswith(("127.", "::1")):
        Access().check(host)
    else:
        with pytest.raises(InputError, match=f"^{host} can be reached"):
            Access().check(host)
    for access in (Access(tokens="file"), Access(tls_cert="c", tls_key="k"), Access(insecure=True)):
        access.check(host)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Limits)])
@pytest.mark.parametrize("value", [0, -1, 2**40, float("nan")])
def test_limits_that_are_none(field: str, value: float) -> None:
    with pytest.raises(InputError, match=f"^{field} is {value}; give "):
        Limits(**{field: value})


def test_times_may_be_short() -> None:
    assert Limits(idle_s=0.001, grace_s=1).idle_s == 0.001


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [("no.such.host.invalid", 0, "no.such.host.invalid"), ("x" * 70, 0, "can't listen"), ("127.0.0.1", 70000, "70000")],
)
def test_an_address_that_is_none(host: str, port: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        open_port(host, port)


def test_commands_start_without_a_web_server() -> None:
    """The base install is the device: it has none, and would start later with one."""
    code = "import sys, bottlenet.cli, bottlenet.cloud.admission; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"starlette", "anyio", "uvicorn"} & set(done.stdout.split())


def test_an_address_with_a_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    """fe80::1%eth0 can be listened on only with the number of eth0."""
    bound: list[object] = []
    scoped = ("fe80::1%eth0", 8000, 0, 3)
    family = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", scoped)

    class Listener:
        def setsockopt(self, *_: object) -> None:
            pass

        def getsockname(self) -> object:
            return scoped

    def create_server(where: object, **_: object) -> Listener:
        bound.append(where)
        return Listener()

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [family])
    monkeypatch.setattr(socket, "create_server", create_server)
    listener = open_port("fe80::1%eth0", 8000)
    assert bound == [scoped]
    assert address(listener) == "[fe80::1%25eth0]:8000"  # RFC 6874


def test_names_cannot_break_or_colour_a_log_line() -> None:
    code = (
        "import logging; from bottlenet.cloud.run import set_up_logging; set_up_logging('info', as_json=False);"
        "log = logging.getLogger('bottlenet.x'); log.info('folder %s', 'a\\nb\\x1b[31m\\u202e');\n"
        "try: raise ValueError('c\\x1b[31m')\nexcept ValueError: log.exception('caught')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "folder a\\nb\\x1b[31m\\u202e\n" in done.stderr
    assert "ValueError: c\\x1b[31m\n" in done.stderr
    assert "\x1b" not in done.stderr
