"""Who may reach the server, how much of it they may take, and whether the way there is encrypted.

    Limits      sizes, numbers and times: nothing is unbounded
    Access      the options for tokens and TLS
    Mqtt        the options for a broker
    Tokens      bearer tokens (RFC 6750) from a file
    Addresses   connections of each address that have shown no token

Of this file commands take their options, so it needs no web server.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import hmac
import ipaddress
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from bottlenet.errors import InputError
from bottlenet.files import PASSWORD, read_bounded
from bottlenet.wire.frame import BEARER, DEFAULT_MAX_PAYLOAD_BYTES, MAX_PAYLOAD_BYTES, SUBPROTOCOL, TOKEN_SUBPROTOCOL
from bottlenet.wire.mqtt import GROUP

if TYPE_CHECKING:
    from starlette.types import Scope

    from bottlenet.broker import Broker

log = logging.getLogger(__name__)

LOG_LEVELS = ("debug", "info", "warning", "error")
# Under this name in a scope's "state" whoever runs the application may leave a function, called when a token was good.
AUTHORIZED = "bottlenet.authorized"
HIGHEST = {"max_payload_bytes": MAX_PAYLOAD_BYTES, "max_photo_bytes": MAX_PAYLOAD_BYTES}


@dataclass(frozen=True)
class Limits:
    """Sizes, numbers and times. InputError: one that is below 1, or a time that is not above 0."""

    max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES  # Largest payload of a frame
    max_photo_bytes: int = 2**22  # Largest whole photo that may be posted
    max_photos: int = 16  # Whole photos posted at once; senders of more are told to come later
    max_in_flight: int = 32  # Unanswered frames per connection; at the limit it is not read until one is answered
    max_waiting: int = 256  # Frames of a bundle that wait for the network; senders of more are told to come later
    max_connections: int = 4096  # Requests and streams at once; further ones are told to come later
    max_per_address: int = 256  # Connections of an address without a good token; further ones are told to come later
    idle_s: float = 3600.0  # Seconds without a message after which a stream is closed
    first_byte_s: float = 10.0  # Seconds from connecting, or from the end of the TLS handshake, to the first byte
    request_s: float = 30.0  # Seconds for a request's header, for its body, and for the client to take the answer
    grace_s: float = 20.0  # Seconds to finish accepted work after the server is told to stop

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, is_time = getattr(self, field.name), isinstance(field.default, float)
            high = HIGHEST.get(field.name, 10**9)
            if not (0 < value <= high if is_time else 1 <= value <= high):  # so refuses NaN
                allowed = f"a number above 0, at most {high}" if is_time else f"1 or more, at most {high}"
                raise InputError(f"{field.name} is {value}; give {allowed}")


@dataclass(frozen=True)
class Access:
    """Tokens and TLS; none of both is for this machine alone."""

    tokens: str | None = None  # File of bearer tokens, one a line
    tls_cert: str | None = None  # File with the certificate and its chain, PEM
    tls_key: str | None = None  # File with the certificate's key, PEM, without a passphrase
    insecure: bool = False  # Allow listening beyond this machine without tokens and TLS

    def context(self) -> ssl.SSLContext | None:
        """Load the files for TLS 1.2 and up. InputError: one without the other, or files that can't be used."""
        if self.tls_cert is None and self.tls_key is None:
            return None
        for option, path in (("--tls-cert", self.tls_cert), ("--tls-key", self.tls_key)):
            try:
                if path is not None:
                    read_bounded(path, MAX_PEM_BYTES)  # ssl would not say which file it is, and wait for a pipe
            except (OSError, InputError) as error:
                raise InputError(f"{option} {path}: {why(error)}; give a PEM file") from error
        if self.tls_cert is None or self.tls_key is None:
            raise InputError("a certificate needs its key, and a key its certificate; give --tls-cert and --tls-key")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            # A function that is asked for a passphrase keeps OpenSSL from asking on the terminal.
            context.load_cert_chain(self.tls_cert, self.tls_key, password=lambda: "")
        except OSError as error:  # ssl.SSLError is one
            files = f"{self.tls_cert} and {self.tls_key}"
            raise InputError(f"can't use {files} for TLS: {why(error)}; give a PEM certificate and its key") from error
        return context

    def check(self, host: str) -> None:
        """Refuse, with InputError, an IP address that others reach, with neither tokens nor TLS."""
        if self.tokens or self.tls_cert or self.insecure:
            return
        if not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
            what = f"{host} can be reached from other machines, and any client would be served"
            raise InputError(f"{what}; give --tokens, or --tls-cert and --tls-key, or say --insecure")


@dataclass(frozen=True)
class Mqtt:
    """A broker that devices send their frames to."""

    mqtt: str | None = None  # Also take frames from a broker: mqtt://USER@HOST, or mqtts:// for TLS
    mqtt_password: str | None = None  # File with the password of that user
    mqtt_ca: str | None = None  # File of certificates to trust for the broker, PEM. Default: the system's
    mqtt_group: str = GROUP  # Servers of a group share the frames; choose a secret name, see docs/operating.md

    def broker(self) -> Broker | None:
        """Find the broker, if there is one. InputError: no address of one, or files that can't be used."""
        if self.mqtt is None:
            if self.mqtt_password or self.mqtt_ca:
                raise InputError("--mqtt-password and --mqtt-ca are for a broker; give --mqtt mqtt://USER@HOST")
            return None
        from bottlenet.broker import broker_at

        password = None
        if self.mqtt_password is not None:
            PASSWORD.read(self.mqtt_password)  # a wrong path shows now
            password = partial(PASSWORD.read, self.mqtt_password)
        tls = None if self.mqtt_ca is None else trust(self.mqtt_ca)
        return broker_at(self.mqtt, password=password, tls=tls, group=self.mqtt_group)


def trust(ca_file: str) -> ssl.SSLContext:
    """Trust these certificates, and no others, as a client. InputError: no such file, or not of PEM."""
    try:
        read_bounded(ca_file, MAX_PEM_BYTES)  # OpenSSL would wait for a pipe
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, InputError) as error:  # ssl.SSLError is an OSError
        raise InputError(f"can't use the certificates in {ca_file}: {why(error)}; give a PEM file") from error


def why(error: OSError | InputError) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "no PEM"
    return getattr(error, "strerror", None) or str(error)


MAX_PEM_BYTES = 2**24
MAX_FILE_BYTES = 2**20
MAX_TOKENS = 10_000
LOOK_EVERY_S = 1.0
ALLOWED = f"one a line, {BEARER.characters}"


class Tokens:
    """The tokens of a file, one a line; blank lines and those that begin with # are left out.

    The file is read again when it changes, so tokens come and go without a restart. A changed file that can't be used
    leaves the tokens as they were, and the log says so; an empty one lets nobody in. InputError: no file, or no token.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._generation = 0
        self._looked = monotonic()
        self._problem = ""  # the last that was logged
        self._content = self._read()
        self._digests = self._parse(self._content)
        if not self._digests:
            raise InputError(f"{self._path} has no token in it; write {ALLOWED}")

    @property
    def generation(self) -> int:
        """A number that grows when other tokens are in the file, which is read once a second at most."""
        if monotonic() - self._looked >= LOOK_EVERY_S:
            self._look()
        return self._generation

    def allows(self, authorization: bytes) -> bool:
        """Tell whether this header Authorization names a token; all digests are compared, so time tells nothing."""
        self.generation  # noqa: B018  # looks at the file
        scheme, _, token = authorization.strip().partition(b" ")
        presented = digest(token.strip())
        known = False
        for one in self._digests:
            known |= hmac.compare_digest(one, presented)
        return known and scheme.lower() == b"bearer"

    def _look(self) -> None:
        self._looked = monotonic()
        try:
            content = self._read()
            if content == self._content:
                return
            digests = self._parse(content)
        except InputError as error:  # the next look tries again, whatever the file's time says
            if str(error) != self._problem:
                self._problem = str(error)
                log.error("tokens stay as they were: %s", error)
            return
        self._content, self._problem = content, ""
        if digests != self._digests:
            self._digests = digests
            self._generation += 1
            log.info("%d tokens read", len(digests))

    def _read(self) -> bytes:
        """Read the file. InputError: it can't be read, is too large, or no file."""
        try:
            return read_bounded(self._path, MAX_FILE_BYTES)
        except (OSError, InputError) as error:
            raise InputError(f"can't read the tokens in {self._path}: {why(error)}; give a text file") from error

    def _parse(self, content: bytes) -> tuple[bytes, ...]:
        """Hash each token. InputError: the file holds other things, which the message never shows."""
        try:
            lines = [line.strip() for line in content.decode("ascii").splitlines()]
        except UnicodeDecodeError:
            raise InputError(f"{self._path} is no list of tokens; write {ALLOWED}") from None
        tokens = {line: number for number, line in enumerate(lines, 1) if line and not line.startswith("#")}
        for token, number in tokens.items():
            if BEARER.pattern.fullmatch(token) is None:
                raise InputError(f"line {number} of {self._path} is no token; write {ALLOWED}")
        if len(tokens) > MAX_TOKENS:
            raise InputError(f"{self._path} is too large; {MAX_TOKENS} tokens and {MAX_FILE_BYTES} bytes are allowed")
        return tuple(digest(token.encode()) for token in tokens)


def digest(token: bytes) -> bytes:
    """Hash a token with SHA-256: comparing would tell how long it is."""
    return hashlib.sha256(token).digest()


def credentials(scope: Scope) -> bytes:
    """Read the header Authorization, or its substitute in the subprotocols of a browser's stream."""
    header = next((bytes(value) for name, value in scope["headers"] if name == b"authorization"), b"")
    if header or scope["type"] != "websocket":
        return header
    for name in scope.get("subprotocols", ()):
        if name.startswith(TOKEN_SUBPROTOCOL):
            encoded = name.removeprefix(TOKEN_SUBPROTOCOL)
            try:
                return b"Bearer " + base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
            except (binascii.Error, ValueError):
                return b""
    return b""


def subprotocol_of(scope: Scope) -> str | None:
    """Choose from a stream's list of subprotocols: ours, if it is there. Never the one with the token."""
    return SUBPROTOCOL if SUBPROTOCOL in scope.get("subprotocols", ()) else None


NETWORK_BITS = 64  # of IPv6: what one customer gets, and can choose addresses from as he likes


class Addresses:
    """Counts the connections of each address that have shown no token, at most `most` at once: none fills the server.

    accept -> Addresses.take -> leave, when a token came that the server knows, or the connection ended
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: dict[str, int] = {}

    def take(self, host: str) -> Callable[[], None] | None:
        """Take a place for a connection from an IP address, and return what gives it back; None: there is none left."""
        key, left = origin(host), False
        if self._taken.get(key, 0) >= self._most:
            return None
        self._taken[key] = self._taken.get(key, 0) + 1

        def leave() -> None:
            nonlocal left
            if left:
                return
            left = True
            self._taken[key] -= 1
            if not self._taken[key]:
                del self._taken[key]

        return leave


def origin(host: str) -> str:
    """Map an IP address to its holder: itself, or its network of IPv6. IPv4 in IPv6's notation is IPv4."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), NETWORK_BITS), strict=False))
