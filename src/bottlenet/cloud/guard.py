"""In front of every way in: a request without a token, or beyond the limit, gets no further.

    request -> token, or from this site? -> room? -> the application

Two pairs of health checks are open to all, and so is the page.
"""

from __future__ import annotations

import ipaddress
import logging
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bottlenet.cloud.admission import credentials, subprotocol_of
from bottlenet.cloud.http import failure, is_page
from bottlenet.cloud.service import Service
from bottlenet.cloud.stream import closing
from bottlenet.wire.answer import one_line
from bottlenet.wire.frame import TRY_LATER, UNAUTHORIZED

log = logging.getLogger(__name__)

# Whoever starts and watches the server asks these, and they tell nothing.
OPEN = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
# Under this name in a scope's "state" whoever runs the application may leave a function, called when a token was good.
AUTHORIZED = "bottlenet.authorized"
VIA = {"http": "http", "websocket": "stream"}
FULL_RETRY_S = 1
FORBIDDEN = 4403  # with which a stream is closed
REMEDY = "start the server with --tokens, or with --insecure to serve web pages of other sites, too"
NO_TOKEN = "no token that this server knows came with this; send the header Authorization: Bearer <token>"


class Guard:
    """ASGI middleware that lets requests in, counts those at work, and logs each when it is done."""

    def __init__(self, app: ASGIApp, service: Service, insecure: bool) -> None:
        self._app = app
        self._service = service
        self._insecure = insecure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        via = VIA.get(scope["type"])
        path = str(scope.get("path", "")).removeprefix(scope.get("root_path", ""))
        if via is None or path in OPEN:
            return await self._app(scope, receive, send)
        tokens, limit = self._service.tokens, self._service.limits.max_connections
        opened = self._service.metrics.open
        if tokens is not None and not is_page(path):
            if not tokens.allows(credentials(scope)):
                return await self._refuse(scope, receive, send, 401, NO_TOKEN)
            if (authorized := scope.get("state", {}).get(AUTHORIZED)) is not None:
                authorized()
        if tokens is None and not self._insecure and (problem := foreign(scope)):
            return await self._refuse(scope, receive, send, 403, problem)
        if opened["http"] + opened["stream"] >= limit:
            text = f"{limit} requests and streams are open already; try again in {FULL_RETRY_S} s"
            return await self._refuse(scope, receive, send, 503, text)
        opened[via] += 1
        try:
            if log.isEnabledFor(logging.INFO):
                await self._log(scope, receive, send)
            else:
                await self._app(scope, receive, send)
        except Exception:
            self._service.metrics.refused(via, "internal")
            raise
        finally:
            opened[via] -= 1

    async def _log(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, and log it: never the query, nor a header, as people put tokens there."""
        started = perf_counter()
        status = None

        async def watch(message: Message) -> None:
            nonlocal status
            status = message.get("status", message.get("code", status))
            await send(message)

        await self._app(scope, receive, watch)
        fields = {
            "method": scope.get("method", "WS"),
            "path": one_line(scope["path"]),
            "status": status,
            "ms": round((perf_counter() - started) * 1000, 1),
            "client": (scope.get("client") or ("?",))[0],
        }
        log.info("%(method)s %(path)s %(status)s, %(ms)s ms", fields, extra={"fields": fields})

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, status: int, text: str) -> None:
        """Answer with JSON, or close a WebSocket that was accepted: only then the code reaches the client."""
        kind, code, headers = REFUSALS[status]
        self._service.metrics.refused(VIA[scope["type"]], kind)
        log.info("refused: %s", kind, extra={"fields": {"client": (scope.get("client") or ("?",))[0]}})
        if scope["type"] == "http":
            return await failure(status, text, headers)(scope, receive, send)
        await receive()
        await send({"type": "websocket.accept", "subprotocol": subprotocol_of(scope)})
        await send(closing(code, text))


def foreign(scope: Scope) -> str:
    """Explain why a request may come from a web page of another site, which any browser would send; "" if it can't.

    Such a page names its own site as Origin. Or its site's name leads to this machine (DNS rebinding): then Host does,
    and no client on loopback has reason to use such a name.
    """
    headers = dict(scope["headers"])
    host = headers.get(b"host", b"").decode("latin-1").lower()
    origin = headers.get(b"origin", b"").decode("latin-1").lower()
    if origin and origin.partition("://")[2] != host:
        return f"Origin {origin!a:.80} is another site than {host!a:.80}; {REMEDY}"
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    if is_loopback((scope.get("server") or ("",))[0]) and not is_loopback(name.strip("[]")):
        return f"Host {host!a:.80} is no name of this machine; use localhost, {REMEDY}"
    return ""


def is_loopback(host: str) -> bool:
    """Tell whether a name or an address can only be this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


REFUSALS = {
    403: ("foreign", FORBIDDEN, {"Connection": "close"}),
    401: ("unauthorized", UNAUTHORIZED, {"WWW-Authenticate": "Bearer", "Connection": "close"}),
    503: ("connections", TRY_LATER, {"Retry-After": str(FULL_RETRY_S), "Connection": "close"}),
}
