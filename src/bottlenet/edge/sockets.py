"""Sockets that count their bytes, and open within a deadline, TLS included.

    open_socket: connect_host -> CountingSocket, or TlsSocket -> start_tls

Counting is below WebSocket and TLS, so framing and encryption are in the numbers; the headers of TCP/IP are not.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import socket
import ssl
import struct
import threading
from time import monotonic
from typing import TYPE_CHECKING

from bottlenet.dial import connect_host, seconds_until, without_scope

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

RECEIVE_BYTES = 65536


def open_socket(host: str, port: int, timeout_s: float, tls: ssl.SSLContext | None = None) -> CountingSocket:
    """Connect a socket that counts, with a context through TLS, in `timeout_s`. OSError: nothing there, or too slow."""
    deadline = monotonic() + timeout_s
    sock = connect_host(host, port, CountingSocket if tls is None else TlsSocket, deadline)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if isinstance(sock, TlsSocket) and tls is not None:
            sock.start_tls(tls, without_scope(host), deadline)
        sock.settimeout(None)
        sock.limit_sending(timeout_s)
    except BaseException:
        sock.close()
        raise
    return sock


class CountingSocket(socket.socket):
    """A socket that knows how many bytes went through it."""

    sent_bytes = 0
    received_bytes = 0
    _send_s = math.inf

    def limit_sending(self, timeout_s: float) -> None:
        """Let `sendall` fail where it takes longer than that; `recv` may wait for hours, as another thread does."""
        self._send_s = timeout_s
        if os.name == "posix":
            seconds, rest = divmod(timeout_s, 1)
            limit = struct.pack("@ll", int(seconds), int(rest * 1e6))
            self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        count = super().send(data, flags)
        self.sent_bytes += count
        return count

    def sendall(self, data: ReadableBuffer, flags: int = 0, /) -> None:
        """Send and count as it goes: what went out before a failure was sent as well."""
        deadline = monotonic() + self._send_s
        with memoryview(data).cast("B") as view:
            done = 0
            while done < len(view):
                if monotonic() > deadline:
                    raise TimeoutError("the other side takes too little")
                done += CountingSocket.send(self, view[done:], flags)

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        data = super().recv(size, flags)
        self.received_bytes += len(data)
        return data

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        count = super().recv_into(buffer, nbytes, flags)
        self.received_bytes += count
        return count

    def close(self) -> None:
        """Wake a thread that waits in `recv`, which closing alone does not."""
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)
        super().close()


class TlsSocket(CountingSocket):
    """TLS over a counting socket. `ssl.SSLSocket` would take the connection away from the socket that counts."""

    def start_tls(self, context: ssl.SSLContext, host: str, deadline: float) -> None:
        """Shake hands until `deadline` (monotonic). ssl.SSLError: no TLS, or not `host`. TimeoutError: too slow."""
        self._lock = threading.Lock()  # one thread sends while another receives
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                # What is left of all the time: bytes that trickle in must not start it again.
                self.settimeout(seconds_until(deadline))
                self._flush()
                if not self._fill():
                    raise ConnectionResetError("closed during the TLS handshake") from None
        self._flush()

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        self.sendall(data)
        return memoryview(data).nbytes

    def sendall(self, data: ReadableBuffer, flags: int = 0, /) -> None:
        with self._lock:
            if memoryview(data).nbytes:
                self._tls.write(data)
            self._flush()

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Return all that has come and can be decrypted, up to `size` bytes; wait for some; b"" at the end."""
        while True:
            with self._lock:
                data, ended = self._decrypt(size)
            if data or ended or not self._fill():
                return data

    def _decrypt(self, size: int) -> tuple[bytes, bool]:
        """Take what is there, and tell whether the other side said that this was all."""
        data = bytearray()
        ended = False
        try:
            while len(data) < size and not ended:  # TLS gives one record at a time
                record = self._tls.read(size - len(data))
                data += record
                ended = not record
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
        data = super().recv(RECEIVE_BYTES)
        with self._lock:
            self._incoming.write(data)
        return bool(data)

    def _flush(self) -> None:
        if self._outgoing.pending:
            super().sendall(self._outgoing.read())


def network_cause(error: Exception) -> str:
    """Say why a connection can't be had or failed, in the system's words where there are any."""
    if isinstance(error, TimeoutError):
        return "it took too long"
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ssl.SSLError):
        return error.strerror.lower()
    return " ".join(str(error).split())[:200] or type(error).__name__


def advice(error: Exception, what: str, plain: str) -> str:
    """Say what to do about a server or broker that can't be reached; `plain` is its scheme without TLS."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "give the certificate that it should show: --ca FILE"
    if isinstance(error, ssl.SSLError):
        return f"does it speak TLS? Without, its address begins with {plain}://"
    if isinstance(error, socket.gaierror):
        return "is the name right, and this device on the network?"
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return "this device has no file handle left: close some, or raise the limit with ulimit -n"
    return f"is the {what} running there?"
