"""What device and server agree on beside the bytes of frames and answers: docs/wire.md, "Transport"."""

from __future__ import annotations

STREAM_PATH = "/v1/stream"  # WebSocket; the query says which bundle: ?bundle=<id, 64 hex digits>
CLASSIFY_PATH = "/v1/classify"  # POST
UNKNOWN_BUNDLE = 4404  # close code: the server doesn't have the bundle that was asked for
