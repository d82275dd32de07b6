"""Sockets that count: the only honest place to ask what a photo cost on the network.

    WebSocket -> [TLS ->] CountingSocket -> TCP/IP

What is above a counting socket is in its numbers, framing and encryption too; TCP/IP headers are not.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import threading
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

RECEIVE_BYTES = 65536


class CountingSocket(socket.socket):
    """A socket that knows how many bytes went through it."""

    sent_bytes = 0
    received_bytes = 0

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        """Counted."""
        count = super().send(data, flags)
        self.sent_bytes += count
        return count

    def sendall(self, data: ReadableBuffer, flags: int = 0, /) -> None:
        """Counted as it goes: what went out before a failure was sent as well."""
        with memoryview(data).cast("B") as view:
            done = 0
            while done < len(view):
                done += CountingSocket.send(self, view[done:], flags)

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Counted."""
        data = super().recv(size, flags)
        self.received_bytes += len(data)
        return data

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """Counted."""
        count = super().recv_into(buffer, nbytes, flags)
        self.received_bytes += count
        return count

    def close(self) -> None:
        """Wakes a thread that waits in `recv`, which closing alone does not."""
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)
        super().close()


class TlsSocket(CountingSocket):
    """TLS over a counting socket. `ssl.SSLSocket` would take the connection away from the socket that counts."""

    def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Handshake as a client. ssl.SSLError: it isn't TLS, or the certificate isn't good for `host`."""
        self._lock = threading.Lock()  # one thread sends while another receives
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                if not self._fill():
                    raise ConnectionResetError("closed during the TLS handshake") from None
        self._flush()

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        """Encrypt and send all of it."""
        self.sendall(data)
        return memoryview(data).nbytes

    def sendall(self, data: ReadableBuffer, flags: int = 0, /) -> None:
        """Encrypt and send."""
        with self._lock:
            if memoryview(data).nbytes:
                self._tls.write(data)
            self._flush()

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """All that has come and can be decrypted, up to `size` bytes; waits for some; b"" at the end."""
        while True:
            with self._lock:
                data, ended = self._decrypt(size)
            if data or ended or not self._fill():
                return data

    def _decrypt(self, size: int) -> tuple[bytes, bool]:
        """What is there, and whether the other side said that this was all. TLS hands out one record at a time."""
        data = bytearray()
        ended = False
        try:
            while len(data) < size and not ended:
                part = self._tls.read(size - len(data))
                data += part
                ended = not part
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            ended = True
        if ended:
            # The other side waits for our goodbye before it closes, and who polls this socket waits for that.
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
        self._flush()  # TLS may have something to say itself
        return bytes(data), ended

    def _fill(self) -> bool:
        """Wait for bytes from the network; False at the end."""
        data = super().recv(RECEIVE_BYTES)
        with self._lock:
            self._incoming.write(data)
        return bool(data)

    def _flush(self) -> None:
        if self._outgoing.pending:
            super().sendall(self._outgoing.read())


def open_socket(host: str, port: int, timeout_s: float, tls: ssl.SSLContext | None = None) -> CountingSocket:
    """A connected socket that counts, through TLS where a context is given. OSError: nothing there, or too slow."""
    deadline = monotonic() + timeout_s
    failure: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = (CountingSocket if tls is None else TlsSocket)(family, kind, protocol)
        try:
            sock.settimeout(max(0.001, deadline - monotonic()))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if isinstance(sock, TlsSocket) and tls is not None:
                sock.start_tls(tls, host)
            sock.settimeout(None)
            limit_sending(sock, timeout_s)
            return sock
        except OSError as error:
            failure = error
            sock.close()
    raise failure or OSError(f"{host} has no address")


def limit_sending(sock: socket.socket, timeout_s: float) -> None:
    """Let `send` fail when the other side takes nothing for that long, while `recv` may wait for ever.

    A socket's timeout would hold for both, and a thread waits for answers that may be hours away.
    """
    if os.name == "posix":
        seconds, rest = divmod(timeout_s, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(seconds), int(rest * 1e6)))
