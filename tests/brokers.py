"""Mosquitto, a real MQTT broker, in a process of its own. Debian's package has it, and `.ci/run` installs that."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import textwrap
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))  # where Debian has it
MOSQUITTO = shutil.which("mosquitto", path=PATH)
needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="needs the broker mosquitto")
# As in docs/operating.md.
ACL = """
    pattern write bottlenet/v1/frames/+/%u/+
    pattern read bottlenet/v1/answers/%u/+

    user server
    topic read bottlenet/v1/frames/#
    topic write bottlenet/v1/answers/#
"""


class Mosquitto:
    """A broker on a free port, which it keeps when it is started again. With `users`, name to password, it asks for
    one, and holds each to its own topics. With `tls`, certificate and key, it speaks that."""

    def __init__(
        self,
        folder: Path,
        users: Mapping[str, str] | None = None,
        tls: tuple[Path, Path] | None = None,
        lines: str = "",
    ) -> None:
        assert MOSQUITTO is not None
        folder.mkdir(exist_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.port = sock.getsockname()[1]
        config = [f"listener {self.port} 127.0.0.1", f"allow_anonymous {'false' if users else 'true'}"]
        config.append("set_tcp_nodelay true")  # as in docs/operating.md
        if os.geteuid() == 0:
            config.append(f"user {getpass.getuser()}")  # else it becomes another one, who may read nothing
        if users:
            passwords, acl = folder / "passwords", folder / "acl"
            passwords.write_text("".join(f"{name}:{password}\n" for name, password in users.items()))
            passwords.chmod(0o600)
            tool = shutil.which("mosquitto_passwd", path=PATH)
            assert tool is not None
            subprocess.run([tool, "-U", str(passwords)], check=True, capture_output=True)
            acl.write_text(textwrap.dedent(ACL))
            config += [f"password_file {passwords}", f"acl_file {acl}"]
        if tls:
            config += [f"certfile {tls[0]}", f"keyfile {tls[1]}"]
        self._config = folder / "mosquitto.conf"
        self._config.write_text("\n".join([*config, lines, ""]))
        self._log = folder / "mosquitto.log"
        self._scheme = "mqtts" if tls else "mqtt"
        self.start()

    def url(self, user: str = "") -> str:
        return f"{self._scheme}://{f'{user}@' if user else ''}127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self._log.read_text()

    def start(self) -> None:
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen([str(MOSQUITTO), "-c", str(self._config), "-v"], stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while True:
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, "the broker does not start"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.02)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def broker(folder: Path, **options: object) -> Iterator[Mosquitto]:
    """One that is gone in the end."""
    made = Mosquitto(folder, **options)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.kill()
