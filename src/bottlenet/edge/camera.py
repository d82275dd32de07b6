"""The newest frame of a camera: a thread reads the source, and what is not taken in time is dropped.

    rtsp://..., /dev/video0, a video file -> PyAV --.
    http://..., -, which are JPEGs ------------------+-> newest frame -> Camera.take -> Shot
         ^- lost: opened again, after a pause

A video file waits until a frame is taken, so none of its frames is dropped for lack of time.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import re
import ssl
import stat
import string
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from http.client import HTTPException, responses
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import SplitResult, quote, unquote, urlsplit

import numpy as np

from bottlenet.edge.changes import Changes
from bottlenet.edge.connection import Backoff, hint_s
from bottlenet.edge.prediction import Answered, Findings, Photo, Prediction, answered_now
from bottlenet.errors import BottleNetError, InputError, LinkError, MissingExtraError, PhotoError, WireError
from bottlenet.photo import END_OF_IMAGE, MARKER, START_OF_SCAN, Pixels, Source
from bottlenet.wire.answer import one_line

if TYPE_CHECKING:
    import av

Pictures: TypeAlias = "Generator[tuple[Callable[[], Source], float | None]]"
"""Frames: what makes a photo of each, and its place in the video, seconds, where that has one."""

STDIN = "-"
CHANGED, ALWAYS = "changed", "always"
WORDS = {CHANGED: 1.0, ALWAYS: 0.0}  # of `when`, and the seconds between two frames
MAX_EVERY_S = 1e6
SLICE_S = 1.0  # the longest wait for the next frame
RETRY_S = 5.0  # the longest pause before a camera is tried again: it is near, so that costs little
STILL_S = 1.0  # between two fetches of a JPEG
BURST = 1000  # frames that come at once, at most, or so many milliseconds that the clock went back
CLOSE_S = 1.0  # that closing waits for a reader; one that hangs ends by itself after `timeout_s`
FPS = 25  # of a video that does not say it
CHUNK_BYTES = 2**16
MAX_JPEG_BYTES = 2**25
MAX_NO_JPEG_BYTES = 2**24  # that may come before the first JPEG
MAX_NAME = 200
SECRETIVE = re.compile("[@?=]")  # of an address without its scheme, which may have a password in it
START_OF_IMAGE = b"\xff\xd8\xff"
BARE = re.compile(rb"\xff[\x01\xd0-\xd7]")  # markers of a JPEG that no length follows


@dataclass(frozen=True)
class Shot:
    """One frame of a camera."""

    name: str  # the camera's, "@", and `at`
    at: str  # when it came, by the device's clock: "2026-12-01T04:20:11.212Z"; of a file, its place: "0:00:12.480"
    at_s: float  # seconds that never go back: in the video, or since the camera was started
    picture: Callable[[], Source]

    def read(self) -> tuple[Photo, Source]:
        """Decode it. PhotoError: it can't be."""
        data = self.picture()
        digest = hashlib.sha256(data if isinstance(data, bytes) else np.ascontiguousarray(data).data)
        return Photo(self.name, digest.hexdigest()), data


class Camera:
    """A source of frames: rtsp://, http:// or https://, a video device, a video file, or "-" for standard input.

        with closing(Camera("rtsp://camera/stream")) as camera:
            while not camera.ended:
                if (shot := camera.take()) is None:
                    camera.wait(1)

    http:// and standard input are JPEGs, one after the other as in MJPEG, or one that is fetched again and again; the
    others need bottlenet[video]. `every_s` is the shortest time between two frames that are taken; `key_frames` decodes
    no others. A camera that gives no frame for `timeout_s` is opened again. `name` is part of each frame's name, and by
    default the host or file; the rest of a URL may hold a password, and is shown nowhere. `tls` replaces the system's
    certificates for https://. `tell` gets a line for people when the source is lost.

    InputError: no source, or a name that is none. MissingExtraError: see above.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        name: str | None = None,
        every_s: float = 0.0,
        key_frames: bool = False,
        timeout_s: float = 10.0,
        tls: ssl.SSLContext | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        text = os.fspath(source)
        address = check_source(text)
        self.name = name_of(text, name)
        self.waits = is_file = not address.scheme and text != STDIN and not is_device(text)
        self.frames = 0  # that came
        self.dropped = 0  # of these: a newer one came first, or it was too early for another
        self.failed = 0  # of these: there was no server, or the frame could not be used
        self.losses = 0  # times that the source was lost
        self._ends = is_file or text == STDIN
        self._every_s = every_s
        self._tell = tell
        self._backoff = Backoff(cap_s=RETRY_S)
        self._closed = threading.Event()
        self._open = self._opener_of(text, address, key_frames, timeout_s, tls)
        self._started = time.monotonic()
        self._last_ms = 0
        self._due_s = 0.0  # no frame before that is taken
        self._newest: Shot | None = None
        self._error: BottleNetError | None = None
        self._change = threading.Condition()
        self._done = False
        self._thread = threading.Thread(target=self._run, name=f"bottlenet-camera-{self.name}", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether no more frames will come. InputError: none ever came, or a file is damaged from here on."""
        with self._change:
            if not self._done or self._newest is not None:
                return False
            if self._error is not None:
                raise self._error
            return True

    def take(self) -> Shot | None:
        """Take the newest frame, once; None: there is none yet, or it is too early for another."""
        with self._change:
            if self._newest is None or self._wait_s() > 0:
                return None
            shot, self._newest = self._newest, None
            self._due_s = shot.at_s + self._every_s
            self._change.notify_all()
            return shot

    def wait(self, seconds: float) -> None:
        """Sleep until there is a frame to take, or none will come, but no longer than that."""
        ends = time.monotonic() + seconds
        with self._change:
            while (left_s := ends - time.monotonic()) > 0 and not (self._done and self._newest is None):
                early_s = self._wait_s()
                if self._newest is not None and early_s <= 0:
                    return
                self._change.wait(min(left_s, early_s) if early_s > 0 else left_s)

    def close(self) -> None:
        self._closed.set()
        with self._change:
            self._done, self._newest = True, None
            self._change.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join(CLOSE_S)

    def _wait_s(self) -> float:
        """Count the seconds until a frame may be taken. A file has only those that may."""
        return 0.0 if self.waits else self._due_s - (time.monotonic() - self._started)

    def _opener_of(
        self, source: str, address: SplitResult, key_frames: bool, timeout_s: float, tls: ssl.SSLContext | None
    ) -> Callable[[], Pictures]:
        if source == STDIN:
            return lambda: ((partial(bytes, jpeg), None) for jpeg in jpegs(partial(os.read, 0)))
        if address.scheme in ("http", "https"):
            return partial(fetched, address, timeout_s, self._pause, tls)
        if importlib.util.find_spec("av") is None:
            raise MissingExtraError(f"{address.scheme}://" if address.scheme else source, "video")
        return partial(decoded, source, "v4l2" if is_device(source) else None, key_frames, timeout_s)

    def _pause(self, since: float) -> bool:
        """Wait until it is time for another fetch; tell whether the camera was closed."""
        return self._closed.wait(since + max(self._every_s, STILL_S) - time.monotonic())

    def _run(self) -> None:
        try:
            self._read()
        finally:  # nobody sees a thread end
            with self._change:
                self._done = True
                self._change.notify_all()

    def _read(self) -> None:
        while not self._closed.is_set():
            why = "it ended"
            try:
                with closing(self._open()) as pictures:
                    for picture, place_s in pictures:
                        if self._closed.is_set():
                            return
                        self._put(picture, place_s)
                        self._backoff.worked()
                if self._ends:
                    self._error = None if self.frames else InputError(f"{self.name}: there is no picture in it")
                    break
            except BottleNetError as error:
                if self._ends:
                    self._error = InputError(f"{self.name}: {error}")
                    break
                why = str(error)
            except Exception as error:  # of a library, whose words may have a password in them
                why = type(error).__name__
                if self._ends:
                    self._error = InputError(f"{self.name}: it can't be read ({why})")
                    break
            if self._closed.is_set():
                return
            self.losses += 1
            wait_s = self._backoff.failed()
            self._tell(f"{self.name}: {why}; the camera is tried again (next try in {wait_s:.1f} s)")
            self._closed.wait(wait_s)

    def _now_ms(self) -> int:
        """Read the clock, and give each frame a time of its own. It may jump."""
        now_ms = time.time_ns() // 10**6
        self._last_ms = self._last_ms + 1 if 0 <= self._last_ms - now_ms < BURST else now_ms
        return self._last_ms

    def _put(self, picture: Callable[[], Source], place_s: float | None) -> None:
        with self._change:
            self.frames += 1
            if self.waits:
                at_s = max(self._due_s - self._every_s, place_s or 0.0)  # times in a file may go back, or be missing
                if at_s < self._due_s:
                    self.dropped += 1
                    return
                while self._newest is not None and not self._closed.is_set():
                    self._change.wait()
                if at_s < self._due_s:
                    self.dropped += 1
                    return
                at = clock_face(at_s)
            else:
                at_s, at = time.monotonic() - self._started, utc(self._now_ms())
                self.dropped += self._newest is not None
            if not self._closed.is_set():
                self._newest = Shot(f"{self.name}@{at}", at, at_s, picture)
            self._change.notify_all()


@dataclass(frozen=True)
class Seen:
    """What a camera showed at a time."""

    shot: Shot
    prediction: Prediction

    @property
    def outcome(self) -> Answered:
        """Return what a spool would keep of it."""
        found, one = Findings(self.prediction.top, self.prediction.objects), self.prediction
        tries = 1 if one.socket_bytes else 0
        return answered_now(self.shot.name, one.answered_by, found, frame_bytes=one.frame_bytes, tries=tries)


def shots(camera: Camera, changes: Changes | None, tell: Callable[[str], None]) -> Iterator[Shot | None]:
    """Yield the newest frame that is worth sending, again and again; None: there is none just now.

    InputError: as `Camera.ended`.
    """
    while not camera.ended:
        shot = camera.take()
        try:
            yield shot if shot is None or changes is None or changes.look(shot.picture(), shot.at_s) else None
        except PhotoError as error:
            camera.failed += 1
            tell(f"{camera.name}: {error}")


def watch(
    classify: Callable[[Source], Prediction], camera: Camera, changes: Changes | None, tell: Callable[[str], None]
) -> Iterator[Seen]:
    """Classify a camera's frames; while there is no server, a file waits, and the frames of a camera are lost."""
    backoff = Backoff()
    for shot in shots(camera, changes, tell):
        if shot is None:
            camera.wait(SLICE_S)
            continue
        prediction = None
        while prediction is None and (camera.waits or backoff.wait_s == 0):
            time.sleep(backoff.wait_s)
            try:
                prediction = classify(shot.picture())
            except InputError as error:
                tell(f"{camera.name}: {error}")
                break
            except (LinkError, WireError) as error:
                tell(f"{error} (next try in {backoff.failed(hint_s(error)):.1f} s)")
        if prediction is None:
            camera.failed += 1
        else:
            backoff.worked()
            if changes is not None:
                changes.sent()
            yield Seen(shot, prediction)


def pace_of(when: str | float) -> float:
    """Return the seconds between two frames. InputError: neither a word of `WORDS` nor seconds."""
    try:
        every_s = WORDS[when] if isinstance(when, str) and when in WORDS else float(when)
    except ValueError:
        every_s = -1.0
    if not 0 <= every_s < MAX_EVERY_S or (every_s == 0 and when != ALWAYS):
        paces = f"{CHANGED!r}, {ALWAYS!r}, or the seconds between two frames, above 0 and below {MAX_EVERY_S:,.0f}"
        raise InputError(f"when is {when!r}; give {paces}")
    return every_s


def check_source(source: str) -> SplitResult:
    """Split a source's address. InputError: it is none; the message shows nothing that may be a password."""
    kinds = "rtsp://, http://, a video device or file, or - for standard input"
    try:
        address = urlsplit(source) if "://" in source else urlsplit("")._replace(path=source)
        # With a / in a password, its start would be taken for the port, and shown.
        split = "@" in source and ":" in address.netloc and "@" not in address.netloc
        valid = not address.scheme or (address.scheme in SCHEMES and address.hostname and address.port != 0)
    except ValueError:
        split = valid = False
    if split or not valid or not source:
        what = "write %2F for /, %3F for ? and %23 for # in a password, and %40 for @ in a path"
        raise InputError(f"that is no source of frames; give {kinds}; {what}")
    if address.scheme or source == STDIN or source.startswith("/dev/"):
        return address
    if os.path.isdir(source):
        raise InputError(f"{source}: it is a folder; bottlenet send {source} --watch takes photos that come into it")
    if not os.path.exists(source):
        shown = "that source" if SECRETIVE.search(source) else source
        raise InputError(f"{shown}: there is no such file; give {kinds}")
    return address


def name_of(source: str, name: str | None = None) -> str:
    """Return a camera's name, on one line; without one, its host or file. InputError: none, or see `check_source`."""
    address = check_source(source)
    found = address.netloc.rpartition("@")[2] if address.scheme else "stdin" if source == STDIN else source
    name = one_line(found if name is None else name)
    if not 0 < len(name) <= MAX_NAME:
        raise InputError(f"a camera's name has {len(name)} characters; give 1 to {MAX_NAME} that can be printed")
    return name


def is_device(path: str) -> bool:
    """Tell a video device, plugged in or not, from a file."""
    try:
        return stat.S_ISCHR(os.stat(path).st_mode)
    except OSError:
        return path.startswith("/dev/")


def decoded(source: str, format: str | None, key_frames: bool, timeout_s: float) -> Pictures:
    """Read a video with PyAV. LinkError: it can't be; the words are FFmpeg's, without the address."""
    import av

    patient = format is None and "://" not in source
    options = {} if patient or format else {"rtsp_flags": "prefer_tcp"}
    last, packets = time.monotonic(), 0
    try:
        with av.open(source, format=format, options=options, timeout=None if patient else timeout_s) as container:
            if not container.streams.video:
                raise LinkError("there is no video in it")
            stream = container.streams.video[0]
            if key_frames:
                stream.codec_context.skip_frame = "NONKEY"
            start_s = float((stream.start_time or 0) * (stream.time_base or 0))
            for packet in container.demux():
                if not patient and time.monotonic() - last > timeout_s:
                    raise LinkError(f"no frame came for {timeout_s:g} s")
                if packet.stream is not stream:
                    continue
                if key_frames:  # which may be further apart
                    last = time.monotonic()
                for frame in frames_of(stream, packet):
                    last = time.monotonic()
                    counted_s = packets / float(stream.guessed_rate or FPS)  # of H.264 in no container, for example
                    yield partial(rgb, frame), counted_s if frame.pts is None else frame.time - start_s
                packets += 1
    except (av.FFmpegError, OSError) as error:
        why = (error.strerror or type(error).__name__).lower()
        if not patient and time.monotonic() - last >= timeout_s:
            why = f"no frame came for {timeout_s:g} s"
    else:
        return
    raise LinkError(f"it can't be read ({why})")  # not in the clause above: what FFmpeg says has the whole address


def frames_of(stream: av.VideoStream, packet: av.Packet[Any]) -> Iterator[av.VideoFrame]:
    """Decode a packet; leave out what is damaged, as the next one may be whole."""
    import av

    try:
        frames = stream.decode(packet)
    except av.InvalidDataError:
        return
    yield from (frame for frame in frames if not frame.is_corrupt)


def rgb(frame: av.VideoFrame) -> Source:
    """Turn a frame as people should see it."""
    pixels: Pixels = frame.to_ndarray(format="rgb24")  # type: ignore[assignment]  # (H, W, 3) uint8
    return np.rot90(pixels, frame.rotation // 90 % 4)


def fetched(
    address: SplitResult, timeout_s: float, pause: Callable[[float], bool], tls: ssl.SSLContext | None
) -> Pictures:
    """Fetch JPEGs: many in one answer, or one for each request. LinkError: there are none.

    `pause` gets the time of such a request, waits until the next one is due, and tells whether the camera was closed.
    """
    host = address.netloc.rpartition("@")[2]
    path, query = (quote(part, safe=string.punctuation) for part in (address.path, address.query))
    url = address._replace(netloc=host, path=path, query=query, fragment="").geturl()
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]  # a camera is near
    handlers.append(urllib.request.HTTPSHandler(context=tls))
    if address.username is not None:
        known = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        user, password = unquote(address.username), unquote(address.password or "")
        known.add_password(None, f"{address.scheme}://{host}/", user, password)
        handlers += [urllib.request.HTTPDigestAuthHandler(known), urllib.request.HTTPBasicAuthHandler(known)]
    opener = urllib.request.build_opener(*handlers)
    while True:
        started, count = time.monotonic(), 0
        last = started
        try:
            with opener.open(url, timeout=timeout_s) as answer:

                def read(size: int) -> bytes:
                    if time.monotonic() - last > timeout_s:  # noqa: B023  # it is called in this turn
                        raise LinkError(f"no frame came for {timeout_s:g} s")
                    return answer.read1(size)  # type: ignore[no-any-return]

                for jpeg in jpegs(read):
                    count, last = count + 1, time.monotonic()
                    yield partial(bytes, jpeg), None
        except urllib.error.HTTPError as error:
            error.close()
            words = responses.get(error.code, "unknown")  # its own may have the address in them
            raise LinkError(f"it can't be read ({error.code} {words})") from None
        except ValueError:  # of urllib
            raise LinkError(
                "it asks for a password in a way that is not known; Basic and Digest with MD5 are"
            ) from None
        except (OSError, HTTPException) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            why = getattr(cause, "strerror", None) or type(cause).__name__
            raise LinkError(f"it can't be read ({why.lower()})") from None
        if count != 1:
            raise LinkError("it ended" if count else "there is no JPEG in what it answers")
        if pause(started):
            return


def jpegs(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Cut a stream of bytes into the JPEGs in it, each as soon as its last byte is there. LinkError: there is none."""
    data, place = bytearray(), 0  # up to which the JPEG that it starts with is known; 0: it does not start with one
    passed = 0.0  # bytes, before there was one
    while True:
        chunk = read(CHUNK_BYTES)
        data += chunk
        while True:
            if not place:
                start = data.find(START_OF_IMAGE)
                before = start if start >= 0 else max(0, len(data) - 2)  # its first bytes may be there
                passed += before
                del data[:before]
                if start < 0:
                    break
                place = 2
            place, whole = walk(data, place)
            if whole:
                passed = -math.inf
                yield bytes(data[:place])
            elif place and chunk and len(data) <= MAX_JPEG_BYTES:
                break
            del data[: place if whole else 2]
            place = 0
        if passed > MAX_NO_JPEG_BYTES:
            raise LinkError("it gives no JPEGs; of rpicam-vid they come with --codec mjpeg")
        if not chunk:
            return


def walk(data: bytearray, place: int) -> tuple[int, bool]:
    """Go from marker to marker of a JPEG. Return how far it is whole, 0 if damaged, and whether that is its end."""
    while True:
        if data[place : place + 2] == bytes((0xFF, END_OF_IMAGE)):
            return place + 2, True
        if place + 4 > len(data):
            return place, False
        if data[place] != 0xFF or data[place + 1] in (0, START_OF_IMAGE[1]):
            return 0, False
        if data[place + 1] == 0xFF:  # that fills up
            place += 1
            continue
        if BARE.match(data, place):
            place += 2
            continue
        after = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if after > len(data):
            return place, False
        if data[place + 1] == START_OF_SCAN:
            marker = MARKER.search(data, after)
            if marker is None:
                return place, False
            after = marker.start()
        place = after


def utc(unix_ms: int) -> str:
    """Write a time: 2026-12-01T04:20:11.212Z."""
    seconds = datetime.fromtimestamp(unix_ms // 1000, timezone.utc)
    return f"{seconds:%Y-%m-%dT%H:%M:%S}.{unix_ms % 1000:03}Z"


def clock_face(seconds: float) -> str:
    """Write a place in a video: 0:00:12.480."""
    minutes, rest = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60}:{minutes % 60:02}:{rest / 1000:06.3f}"


SCHEMES = ("rtsp", "rtsps", "http", "https")
