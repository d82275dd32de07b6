"""What runs on the device: numpy, onnxruntime, Pillow, simplejpeg and websockets, never torch.

    photo -> encoder -> frame -> [spool ->] stream -> transport -> network -> ... -> answer [-> spool]

client.py      the public face: `Edge`, a photo to its label; the tail on the device
encoder.py     photo to symbols to payload, within a budget; what the device does under each partition
connection.py  frames on one connection, several in flight; WebSocket; when to try again
sockets.py     sockets that count, TLS, and whichever address of a host answers first
mqtt.py        the connection through a broker, which needs bottlenet[mqtt]
prediction.py  what an answer means for the photo, and what becomes of photos in a spool
auto.py        whichever partition is best just now; pilot.py says when to move, and what the link is like
meter.py       what computing takes in energy

sender.py      photos that must not be lost: `Sender`; the same where nothing has to wait: `AutoSender`
spool.py       what was not answered yet, on disk; old_spool.py what older versions kept in files
photo_files.py photos on disk, and as they come into a folder
"""

from bottlenet.edge.client import Edge
from bottlenet.edge.connection import Backoff, Connect, Transport, open_websocket
from bottlenet.edge.encoder import Encoded, Encoder
from bottlenet.edge.photo_files import Folder
from bottlenet.edge.pilot import Move, Policy
from bottlenet.edge.prediction import Answered, Choice, Failed, Object, Outcome, Prediction, Segments, Times
from bottlenet.edge.sender import AutoSender, Sender
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
