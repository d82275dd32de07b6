"""What runs on the device: numpy, onnxruntime, Pillow, simplejpeg and websockets, never torch.

    photo -> encoder -> frame -> [spool ->] stream -> transport -> network -> ... -> answer [-> spool]

encoder.py     photo to symbols to payload, within a budget
client.py      frame to answer: `Edge`
prediction.py  what comes of it; seen.py what an answer means for the photo
local.py       the tail on the device, where the server can't answer
stream.py      frames on one connection, several in flight
transport.py   the connection, a seam for tests and shaped links
mqtt.py        the connection through a broker, which needs bottlenet[mqtt]
sockets.py     sockets that count bytes
tokens.py      the device's bearer token
partitions.py  edge-only, cloud-only, split: what the device does under each
auto.py        whichever is best just now; pilot.py when to move; probe.py what the link is like; recent.py

sender.py      photos that must not be lost: `Sender`
autosender.py  the same where nothing has to wait: `AutoSender`
spool.py       what was not answered yet, on disk; spoolfiles.py its files
outcome.py     what became of a photo
retry.py       when to try again
folder.py      photos as they come into a folder
meter.py       what computing takes in energy
"""

from bottlenet.edge.autosender import AutoSender
from bottlenet.edge.client import Edge
from bottlenet.edge.connection import Backoff, Connect, Transport, open_websocket
from bottlenet.edge.encoder import Encoded, Encoder
from bottlenet.edge.folder import Folder
from bottlenet.edge.pilot import Move, Policy
from bottlenet.edge.prediction import Answered, Choice, Failed, Object, Outcome, Prediction, Segments, Times
from bottlenet.edge.sender import Sender
from bottlenet.edge.spool import Spool
from bottlenet.photo import photo_to_pixels, prepare, read_photo

__all__ = [
    "Answered",
    "AutoSender",
    "Backoff",
    "Choice",
    "Connect",
    "Edge",
    "Encoded",
    "Encoder",
    "Failed",
    "Folder",
    "Move",
    "Object",
    "Outcome",
    "Policy",
    "Prediction",
    "Segments",
    "Sender",
    "Spool",
    "Times",
    "Transport",
    "open_websocket",
    "photo_to_pixels",
    "prepare",
    "read_photo",
]
