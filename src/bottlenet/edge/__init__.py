"""What runs on the device: numpy, onnxruntime, Pillow, simplejpeg and websockets, never torch.

decode.py     picture files to RGB
photo.py      photo to pixels
encoder.py    pixels to symbols to payload
client.py     frame to answer: `Edge`
transport.py  the connection, a seam for tests and shaped links
sockets.py    sockets that count bytes
"""

from bottlenet.edge.client import Choice, Edge, Prediction, Times
from bottlenet.edge.encoder import Encoded, Encoder
from bottlenet.edge.photo import photo_to_pixels, prepare, read_photo
from bottlenet.edge.transport import Connect, Transport, open_websocket

__all__ = [
    "Choice",
    "Connect",
    "Edge",
    "Encoded",
    "Encoder",
    "Prediction",
    "Times",
    "Transport",
    "open_websocket",
    "photo_to_pixels",
    "prepare",
    "read_photo",
]
