"""Answers under whichever partition is best just now: `Auto`, which is behind `Edge(partition="auto")`.

    photo -> Pilot: which partition? -> Side: what the device does -> answer                        edge-only
                                             `-> frame -> Stream -> server -> answer                a split, cloud-only
                                                            `- gone: edge-only, at once
    when nothing is sent: a probe of 4 bytes now and then, in a thread of its own -> Pilot

There is a connection for each bundle that has been used. Photos are sent one after the other: what one takes tells what
the link is like.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic

from bottlenet.bundle import Bundle
from bottlenet.bundle.ladder import by_depth, ladder_id
from bottlenet.edge.connection import Backoff, Reply, Stream, hint_s
from bottlenet.edge.encoder import EDGE_ONLY, Processed, Side, partition_of, sides_of
from bottlenet.edge.pilot import Move, Pilot, Policy, RoundTrip, network_bytes
from bottlenet.edge.prediction import DEVICE, LOCAL, SERVER, Prediction, predict
from bottlenet.errors import BottleNetError, FrameError, InputError, LinkError, OverdueError, WireError
from bottlenet.photo import Source
from bottlenet.plan.profile import Profile, merged
from bottlenet.task import needs_one_label
from bottlenet.wire.answer import Answer
from bottlenet.wire.frame import PROBE, Frame

log = logging.getLogger(__name__)

AUTO = "auto"
FIRST_TRY_S = 0.5  # after the server was lost; then twice as long each time
PINGS = 5  # when a server is found: one could be chance

OpenStream = Callable[[Bundle, Callable[[], float]], Stream]
"""(bundle, how long opening may take now) -> a connection for its frames, not open yet."""


class Auto:
    """A device that moves between partitions. Safe to use from several threads. `wrap` changes sides, by their names.

    InputError: as `sides_of` and `Pilot`, or a profile that is of none of the bundles, or lacks one's cut.
    """

    def __init__(
        self,
        bundles: Sequence[Bundle],
        profile: Profile | Sequence[Profile],
        open_stream: OpenStream,
        policy: Policy | None = None,
        *,
        wrap: Callable[[str, Side], Side] = lambda name, side: side,
    ) -> None:
        for bundle in bundles:
            needs_one_label(bundle.manifest.task, f"partition={AUTO!r}")
        own = profile_of(bundles, profile)
        sides = sides_of(bundles, [partition_of(each) for each in own.candidates], budget_bytes=own.budget_bytes)
        self._sides = {partition.name: wrap(partition.name, side) for partition, side in sides.items()}
        self.encoder = next(each.encoder for each in sides.values() if each.cut == bundles[0].manifest.cut)
        # Splits whose exit, if they have any, the profile knows nothing of
        self._unmeasured = {each.name for each in own.candidates if each.kind == "split" and each.exit is None}
        self._policy = policy or Policy()
        self._pilot = Pilot(own, self._policy)
        self._bundle = bundles[0]  # all have the same classes
        self._streams = {bundle.tag: open_stream(bundle, self._patience_s) for bundle in bundles}
        self._home = bundles[0].tag  # whose connection the probes take: the last that was used
        self._link = threading.Lock()  # one message at a time
        self._state = threading.Condition()  # of the pilot and what follows
        longest_s = self._policy.longest_away_s
        self._backoff = Backoff(first_s=min(FIRST_TRY_S, longest_s), cap_s=longest_s)
        self._last = monotonic()  # that something was answered
        self._pings = 0  # since the last photo
        self._watcher: threading.Thread | None = None

    @property
    def moves(self) -> tuple[Move, ...]:
        with self._state:
            return tuple(self._pilot.moves)

    @property
    def partition(self) -> str:
        with self._state:
            return self._pilot.choice.name

    def classify(self, photo: Source) -> Prediction:
        """Find out what the photo shows, whatever becomes of the server. PhotoError: it can't be used."""
        self._watch()
        name, socket_bytes = self.partition, (0, 0)
        processed = self._sides[name].work(photo, 0)
        with self._state:
            if not isinstance(processed.result, Answer) or name not in self._unmeasured:
                self._pilot.computed(name, processed)
        if isinstance(processed.result, Frame):
            prediction, socket_bytes = self._ask(name, processed, processed.result)
            if prediction is not None:
                return prediction
            with self._state:
                alone = self._pilot.alone.name
            for name in (alone, EDGE_ONLY.name):  # an exit may give no numbers
                processed = self._sides[name].work(photo, 0)
                if isinstance(processed.result, Answer):
                    break
        else:
            with self._state:
                self._pilot.reconsider()
        answer = processed.result
        assert isinstance(answer, Answer), "nothing is sent"
        by = DEVICE if self._sides[name].cut is not None else LOCAL
        return predict(self._bundle, answer, processed, socket_bytes, answered_by=by, partition=name)

    def connect(self) -> None:
        """Find out now what link and server are like, so that the first photo has what is best for it."""
        self._watch()
        self._ping()

    def close(self) -> None:
        with self._state:
            watcher, self._watcher = self._watcher, None
            self._state.notify_all()
        if watcher is not None:
            watcher.join()
        with self._link:
            self._close_streams()

    def _ask(self, name: str, processed: Processed, frame: Frame) -> tuple[Prediction | None, tuple[int, int]]:
        """Return the server's answer, or None where it can't give one; and the bytes that were sent and received."""
        with self._link:
            stream = self._streams[frame.bundle_tag]
            before = stream.total_bytes
            patience_s = self._patience_s(len(frame.payload))
            try:
                reply = stream.ask(frame, patience_s)
                answer, socket_bytes = reply.answer, (reply.sent_bytes, reply.received_bytes)
                prediction = predict(
                    *(self._bundle, answer, processed, socket_bytes),
                    answered_by=SERVER,
                    partition=name,
                    round_trip_ms=reply.round_trip_ms,
                )
            except BottleNetError as error:
                if isinstance(error, FrameError):
                    with self._state:
                        self._pilot.refused(name, without_advice(error))
                else:
                    late = isinstance(error, OverdueError)
                    self._lost(error, RoundTrip(network_bytes(len(frame.payload)), patience_s) if late else None)
                sent, received = stream.total_bytes
                return None, (sent - before[0], received - before[1])
            self._home = frame.bundle_tag
        with self._state:
            self._last, self._pings = monotonic(), 0
            self._pilot.answered(name, len(frame.payload), reply.round_trip_ms / 1e3, answer)
            self._pilot.reconsider()
        return prediction, socket_bytes

    def _lost(self, error: BottleNetError, overdue: RoundTrip | None = None) -> None:
        """Close the connections, as there is no server, or it has no room, and look for it later."""
        with self._state:
            self._pilot.lost(without_advice(error), overdue)
            self._backoff.failed(hint_s(error))
            self._state.notify_all()
        self._close_streams()

    def _close_streams(self) -> None:
        for stream in self._streams.values():
            stream.close()

    def _patience_s(self, payload_bytes: int = 0) -> float:
        with self._state:
            return self._pilot.patience_s(payload_bytes)

    def _watch(self) -> None:
        """Start the thread that looks after the link when nothing is sent; for a photo, it looks more often again."""
        with self._state:
            if self._pings:
                self._pings = 0
                self._state.notify_all()  # it may be asleep for minutes
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._ping_for_ever, name="bottlenet-probe", daemon=True)
                self._watcher.start()

    def _ping_for_ever(self) -> None:
        me = threading.current_thread()
        while True:
            with self._state:
                while self._watcher is me and (due_s := self._due_s()) > 0:
                    self._state.wait(due_s)
                if self._watcher is not me:
                    return
            try:
                self._ping()
            except Exception:  # nobody sees a thread end, and without this one no server is ever found again
                log.exception("a probe failed")
                with self._state:
                    self._pilot.lost("a probe failed")
                    self._backoff.failed()

    def _due_s(self) -> float:
        if self._pilot.away:
            return self._backoff.wait_s
        # What was odd is looked at again soon, as nothing moves until it is known to be chance or another link.
        first_s = self._policy.ping_s if self._pilot.link.settled else min(FIRST_TRY_S, self._policy.ping_s)
        every_s = min(first_s * 2.0 ** min(self._pings, 60), self._policy.longest_ping_s)
        return self._last + every_s - monotonic()

    def _ping(self) -> None:
        with self._link:
            stream = self._streams[self._home]
            try:
                if self._pilot.away:
                    self._probe(stream)  # the first of a connection takes longer, and tells nothing
                replies = [self._probe(stream) for _ in range(PINGS if self._pilot.away else 1)]
                load = replies[-1].answer.load
            except (LinkError, WireError, InputError) as error:  # InputError: the token's file is being replaced
                if isinstance(error, FrameError):  # this bundle is not served; another may be
                    tags = list(self._streams)
                    self._home = tags[(tags.index(self._home) + 1) % len(tags)]
                self._lost(error)
                return
        round_trips_s = [reply.round_trip_ms / 1e3 for reply in replies]
        with self._state:
            self._last, self._pings = monotonic(), self._pings + 1
            self._backoff.worked()
            if self._pilot.away:
                self._pilot.found(round_trips_s, load)
            else:
                self._pilot.pinged(round_trips_s[0], load)

    def _probe(self, stream: Stream) -> Reply:
        """Send 4 bytes and wait for their answer. LinkError, FrameError, BusyError, WireError: there is none."""
        return stream.ask(Frame(PROBE, 0, self._home, 0, b""), self._patience_s())


def without_advice(error: BottleNetError) -> str:
    """Leave out what there is to do about an error."""
    return str(error).partition(";")[0]


def profile_of(bundles: Sequence[Bundle], profile: Profile | Sequence[Profile]) -> Profile:
    """Merge profiles, with what these bundles can do. InputError: another bundle's, or none has a bundle's cut."""
    profiles = [profile] if isinstance(profile, Profile) else profile
    known = [ladder_id(by_depth(bundles)).hex(), *(bundle.id.hex() for bundle in bundles)]
    for each in profiles:
        if each.bundle_id not in known:
            expected = " or ".join(bundle_id[:12] for bundle_id in known[len(bundles) < 2 :])
            what = f"the profile is of bundle {each.bundle_id[:12]}, not of {expected}"
            raise InputError(f"{what}; measure that with bottlenet profile")
    whole = merged(profiles)
    cuts = {bundle.manifest.cut for bundle in bundles}
    if missing := cuts - {each.cut for each in whole.candidates}:
        raise InputError(f"no profile has the cut {min(missing)}; measure its bundle with bottlenet profile")
    candidates = tuple(each for each in whole.candidates if each.cut is None or each.cut in cuts)
    return replace(whole, candidates=candidates)


def check_auto(
    partition: str, budget_bytes: int | None, fallback: str | None, sure: float | None, reports: float
) -> None:
    """Check what goes with `partition`. InputError: another than "auto", a budget, a fallback, a bound, or reports."""
    if partition != AUTO:
        raise InputError(f"partition is {partition!r}; give {AUTO!r}, or leave it out")
    if budget_bytes is not None or fallback is not None or sure is not None:
        why = "it always falls back, and the rest is in its profile"
        raise InputError(f"partition={AUTO!r} takes no budget, no fallback and no sure: {why}")
    if reports:
        why = "its answers come from other places than the bundle's exit, too"
        raise InputError(f"partition={AUTO!r} takes no report_answers and no audit: {why}")
