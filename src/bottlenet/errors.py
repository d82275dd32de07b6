"""Everything that can go wrong, as one tree.

    BottleNetError
    |-- InputError            an argument or a file of yours can't be used
    |   `-- PhotoError        a photo that can't be used
    |-- BundleError           a bundle that is damaged, truncated, foreign or of another version
    |-- WireError             what came over the network is not ours
    |   |-- FrameError        header, checksum, version, another bundle
    |   `-- PayloadError      the payload does not decode
    |-- LinkError             the server is not there, refused, timed out or closed
    |   |-- OverdueError      no answer in the time that was allowed; the connection is still there
    |   `-- BusyError         the server has no room just now, and says when to try again
    `-- MissingExtraError     an optional part is not installed

`except BottleNetError` catches all of it and nothing else. Every message is one line that says what was given,
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
    """What came over the network is not ours."""


class FrameError(WireError):
    """A frame is refused: header, checksum, version or bundle don't match."""


class PayloadError(WireError):
    """A payload does not decode to the symbols it stands for."""


class LinkError(BottleNetError):
    """The server is not there, refused, timed out or closed the connection."""


class OverdueError(LinkError):
    """No answer came in the time that was allowed, on a connection that is still there."""


class BusyError(LinkError):
    """The server has no room just now. `retry_after_s` is when it wants to be asked again, in seconds."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type["BusyError"], tuple[str, float]]:
        # The default would call the constructor with the message alone.
        return BusyError, (str(self), self.retry_after_s)


class MissingExtraError(BottleNetError):
    """An optional part of BottleNet is not installed.

    `needs` is what was being done and `extra` the name in `pip install "bottlenet[extra]"`.
    """

    def __init__(self, needs: str, extra: str) -> None:
        super().__init__(f'{needs} needs an optional part: pip install "bottlenet[{extra}]"')
        self.needs = needs
        self.extra = extra

    def __reduce__(self) -> tuple[type["MissingExtraError"], tuple[str, str]]:
        # The default would call the constructor with the finished message, so the error could not be copied
        # from a worker process.
        return MissingExtraError, (self.needs, self.extra)
