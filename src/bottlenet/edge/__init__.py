"""What runs on the device: numpy, onnxruntime, Pillow, simplejpeg and websockets, never torch.

photo -> encoder -> frame -> [spool ->] stream -> transport -> network -> ... -> answer [-> spool]
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
