"""What device and server agree on beside the bytes of frames and answers: docs/wire.md, "Transport"."""

from __future__ import annotations

import re

STREAM_PATH = "/v1/stream"  # WebSocket; the query says which bundle: ?bundle=<id, 64 hex digits>
CLASSIFY_PATH = "/v1/classify"  # POST
PHOTO_PATH = "/v1/photo"  # POST; the query says which bundle, as above

# In a frame's header, in place of a codec:
PROBE = 14  # no payload; answered at once with the load and no choice
PHOTO = 15  # the payload is a picture file, for the whole network; the setting says what is in the picture:
WHOLE_PHOTO = 0  # a photo as it was taken
NETWORK_INPUT = 1  # what the network takes: cropped, and of its size

# Where tokens are asked for, each request and each opening of a stream has the header Authorization: Bearer <token>.
TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{16,512}={0,2}")  # bearer token, RFC 6750
TOKEN_CHARACTERS = "16 to 512 of the characters A-Z a-z 0-9 - . _ ~ + /"  # for messages

# A browser can't set that header on a stream, but the list of subprotocols. It names the first of these, which is then
# the stream's, and behind the second the token in base64url, without "=".
SUBPROTOCOL = "bottlenet.v1"
TOKEN_SUBPROTOCOL = "bottlenet.token."

# Close codes of a stream:
GOING_AWAY = 1001  # nothing came for too long; open another when there is something to send (RFC 6455)
MESSAGE_TOO_BIG = 1009  # a frame above what the server takes (RFC 6455)
RESTARTING = 1012  # the server stops; what was sent and not answered may be sent again (registered with IANA)
TRY_LATER = 1013  # too many connections; the reason says when (registered with IANA)
UNAUTHORIZED = 4401  # no token that the server knows
UNKNOWN_BUNDLE = 4404  # the server doesn't have the bundle that was asked for, or not any more
