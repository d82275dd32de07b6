"""In front of every way in: a request without a token, or beyond the limit, gets no further.

    request -> token? -> room? -> the application

Two pairs of health checks are open to all, and so is the page.
"""

from __future__ import annotations

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
NO_TOKEN = "no token that this server knows came with this; send the header Authorization: Bearer <token>"


class Guard:
    """ASGI middleware that lets requests in, counts those at work, and logs each when it is done."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

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
        if opened["http"] + opened["stream"] >= limit:
            text = f"{limit} requests and streams are open already; try again in {FULL_RETRY_S} s"
            return await self._refuse(scope, receive, send, 503, text)
        opened[via] += 1
        try:
            if log.isEnabledFor(logging.INFO):
                await self._log(scope, receive, send)
            else:
                await self._app(scope, receive, send)
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


REFUSALS = {
    401: ("unauthorized", UNAUTHORIZED, {"WWW-Authenticate": "Bearer", "Connection": "close"}),
    503: ("connections", TRY_LATER, {"Retry-After": str(FULL_RETRY_S), "Connection": "close"}),
}
