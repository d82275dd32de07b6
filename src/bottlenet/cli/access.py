"""Who may reach the server, whom it reaches, and whether the way there is encrypted."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bottlenet.errors import InputError
from bottlenet.secret import PASSWORD
from bottlenet.wire.mqtt import GROUP

if TYPE_CHECKING:
    from bottlenet.broker import Broker


@dataclass(frozen=True)
class Access:
    """Tokens and TLS; none of both is for this machine alone."""

    tokens: str | None = None  # File of bearer tokens, one a line
    tls_cert: str | None = None  # File with the certificate and its chain, PEM
    tls_key: str | None = None  # File with the certificate's key, PEM, without a passphrase
    insecure: bool = False  # Listen beyond this machine without tokens and TLS

    def context(self) -> ssl.SSLContext | None:
        """For TLS 1.2 and up. InputError: one file without the other, or files that can't be used."""
        if self.tls_cert is None and self.tls_key is None:
            return None
        for option, path in (("--tls-cert", self.tls_cert), ("--tls-key", self.tls_key)):
            if path is not None:
                check_readable(option, path)
        if self.tls_cert is None or self.tls_key is None:
            raise InputError("a certificate needs its key, and a key its certificate; give --tls-cert and --tls-key")
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            # A function that is asked for a passphrase keeps OpenSSL from asking on the terminal.
            made.load_cert_chain(self.tls_cert, self.tls_key, password=lambda: "")
        except OSError as error:  # ssl.SSLError is one
            files = f"{self.tls_cert} and {self.tls_key}"
            raise InputError(f"can't use {files} for TLS: {why(error)}; give a PEM certificate and its key") from error
        return made

    def check(self, host: str) -> None:
        """InputError: an IP address that others reach, with neither tokens nor TLS."""
        if self.tokens or self.tls_cert or self.insecure:
            return
        if not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
            raise InputError(
                f"{host} can be reached from other machines, and nobody is asked who he is; "
                "give --tokens, or --tls-cert and --tls-key, or say --insecure"
            )


@dataclass(frozen=True)
class Mqtt:
    """A broker that devices send their frames to."""

    mqtt: str | None = None  # Also take frames from a broker: mqtt://[USER@]HOST[:PORT], or mqtts:// for TLS
    mqtt_password: str | None = None  # File with the user's password there
    mqtt_ca: str | None = None  # File of certificates to trust there, PEM; else the system's
    mqtt_group: str = GROUP  # Servers of one group share the frames; better a secret one, see docs/operating.md

    def broker(self) -> Broker | None:
        """InputError: not a broker's address, or files that can't be used. Needs bottlenet[mqtt]."""
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
    """For a client that trusts these certificates, and no others. InputError: no such file, or not of PEM."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise InputError(f"can't use the certificates in {ca_file}: {why(error)}; give a PEM file") from error


def check_readable(option: str, path: str) -> None:
    """InputError: it can't be read."""
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise InputError(f"{option} {path}: {error.strerror}; give a PEM file") from error


def why(error: OSError) -> str | None:
    """In words, a file is of no use for TLS."""
    return (error.reason or "no PEM") if isinstance(error, ssl.SSLError) else error.strerror
