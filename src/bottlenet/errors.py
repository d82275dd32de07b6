"""The errors, as one tree, and how to install what is missing.

    BottleNetError
    |-- InputError            an argument or a file of the user can't be used
    |   `-- PhotoError        a photo that can't be used
    |-- BundleError           a bundle that is damaged, truncated, foreign or of another version
    |-- WireError             bytes from the network are not BottleNet's
    |   |-- FrameError        header, checksum, version, another bundle
    |   `-- PayloadError      the payload does not decode
    |-- LinkError             the server is not there, refused, timed out or closed
    |   |-- OverdueError      no answer within the timeout; the connection is still open
    |   `-- BusyError         the server is full, and says when to try again
    `-- MissingExtraError     an optional part is not installed

`except BottleNetError` catches all of them and nothing else. Every message is one line that says what was given,
what is allowed and what to do. Errors of the libraries underneath are translated where they are called, with
`raise ... from`, so the cause is kept.
"""


class BottleNetError(Exception):
    """Any error that BottleNet raises on purpose."""


class InputError(BottleNetError):
    """An argument or a file given by the user can't be used."""


class PhotoError(InputError):
    """A photo can't be used: not an image, truncated, too small or too large."""


class BundleError(BottleNetError):
    """A bundle is damaged, truncated, foreign or of another version."""


class WireError(BottleNetError):
    """Bytes from the network are not BottleNet's."""


class FrameError(WireError):
    """A frame is refused: header, checksum, version or bundle don't match."""


class PayloadError(WireError):
    """A payload does not decode to the symbols it stands for."""


class LinkError(BottleNetError):
    """The server is not there, refused, timed out or closed the connection."""


class OverdueError(LinkError):
    """No answer came within the timeout, on a connection that is still open."""


class BusyError(LinkError):
    """The server is full. `retry_after_s` is the time after which it wants to be asked again."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type["BusyError"], tuple[str, float]]:
        # The default would call the constructor with the message alone.
        return BusyError, (str(self), self.retry_after_s)


def reason(error: BaseException) -> str:
    """Say on one line what failed: the system's words, ours, or the kind and first line of what others raise."""
    ours = isinstance(error, BottleNetError)
    words = getattr(error, "strerror", None) or (str(error) if ours else f"{type(error).__name__}: {error}")
    return words.strip().partition("\n")[0][:200]


BRINGS = {  # measured on Linux, Python 3.11
    "cloud": "26 MB",
    "mqtt": "1 MB",
    "ray": "0.4 GB",
    "train": "5.7 GB with PyPI's torch, which has CUDA; 1 GB with that of https://download.pytorch.org/whl/cpu",
    "models": "47 MB",
    "video": "103 MB",
}


def how_to_install(extra: str) -> str:
    """Say how to install an optional part, and how much it brings: BottleNet is on no package index."""
    size = f" ({BRINGS[extra]})" if extra in BRINGS else ""
    return f'pip install ".[{extra}]" in a checkout of BottleNet, or with its wheel in place of the dot{size}'


class MissingExtraError(BottleNetError):
    """An optional part, `extra` as in `pip install ".[extra]"`, is not installed; `needs` is what asked for it."""

    def __init__(self, needs: str, extra: str) -> None:
        super().__init__(f"{needs} needs an optional part: {how_to_install(extra)}")
        self.needs = needs
        self.extra = extra

    def __reduce__(self) -> tuple[type["MissingExtraError"], tuple[str, str]]:
        # The default would call the constructor with the finished message, so the error could not be copied
        # from a worker process.
        return MissingExtraError, (self.needs, self.extra)
