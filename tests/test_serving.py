from __future__ import annotations

import socket

import pytest

from bottlenet.bundle import Bundle
from bottlenet.cli.serving import configure, open_port
from bottlenet.cloud import create_app
from bottlenet.errors import InputError


def test_it_sends_no_pings(bundle: Bundle) -> None:
    """A connection that waits costs nothing: `edge.transport` promises it, and it takes both sides."""
    assert configure(create_app([bundle])).ws_ping_interval is None


def test_a_device_that_vanished_is_noticed() -> None:
    with open_port("127.0.0.1", 0) as listener:
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [("no.such.host.invalid", 0, "no.such.host.invalid"), ("x" * 70, 0, "can't listen"), ("127.0.0.1", 70000, "70000")],
)
def test_an_address_that_is_none(host: str, port: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        open_port(host, port)
