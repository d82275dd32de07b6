"""Photos to answers under whichever partition is best just now: `Auto`, which is behind `Edge(partition="auto")`.

    photo -> Pilot: which partition? -> Side: what the device does -> answer                        edge-only
                                             `-> frame -> Stream -> server -> answer                a split, cloud-only
                                                            `- gone: edge-only, at once
    when nothing is sent: a probe of 4 bytes now and then, in a thread of its own -> Pilot

There is a connection for each bundle that has been used. Photos are sent one after the other: what one takes tells what
the link is like.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic

from bottlenet.bundle import Bundle
from bottlenet.bundle.ladder import by_depth, ladder_id
from bottlenet.edge.connection import Backoff, Reply, Stream, hint_s
from bottlenet.edge.encoder import EDGE_ONLY, Processed, Side, codecs_of, sides_of, split
from bottlenet.edge.pilot import Exchange, Move, Pilot, Policy, sent
from bottlenet.edge.prediction import LOCAL, SERVER, Cost, Prediction, Times, predicted, replied
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
    """Safe to use from several threads. `wrap` may change what the device does under a partition of that
    name, as to make it a slower one.

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
        made = profile_of(bundles, profile)
        sides = sides_of(bundles, codecs_of(made.candidates))
        self._sides = {partition.name: wrap(partition.name, side) for partition, side in sides.items()}
        self.encoder = self._sides[split(bundles[0]).name].encoder
        self._policy = policy or Policy()
        self._pilot = Pilot(made, self._policy)
        self._bundle = bundles[0]  # all have the same classes
        self._streams = {bundle.tag: open_stream(bundle, self._opening_s) for bundle in bundles}
        self._home = bundles[0].tag  # whose connection the probes take: the last that was used
        self._link = threading.Lock()  # one exchange at a time
        self._state = threading.Condition()  # of the pilot and what follows
        self._backoff = Backoff(
            first_s=min(FIRST_TRY_S, self._policy.longest_away_s), cap_s=self._policy.longest_away_s
        )
        self._last = monotonic()  # exchange
        self._pings = 0  # since the last photo
        self._watcher: threading.Thread | None = None

    @property
    def moves(self) -> tuple[Move, ...]:
        """From one partition to another, and why; the last 1,000."""
        with self._state:
            return tuple(self._pilot.moves)

    @property
    def partition(self) -> str:
        """What the next photo would use, by its name."""
        with self._state:
            return self._pilot.choice.name

    def classify(self, photo: Source) -> Prediction:
        """What the photo shows, whatever becomes of the server. PhotoError: it can't be used."""
        self._watch()
        spent = (0, 0)
        name = self.partition
        processed = self._sides[name].work(photo, 0)
        with self._state:
            self._pilot.computed(name, processed)
        if isinstance(processed.result, Frame):
            answered, spent = self._ask(name, processed)
            if answered is not None:
                return answered
            name = EDGE_ONLY.name
            processed = self._sides[name].work(photo, 0)
        else:
            with self._state:
                self._pilot.decide()
        assert isinstance(processed.result, Answer), "edge-only sends nothing"
        times = Times(processed.prepare_ms, processed.compute_ms, processed.encode_ms, 0.0, 0.0, 0.0)
        cost = Cost(socket_bytes=spent[0], received_bytes=spent[1])
        return predicted(self._bundle, processed.result, cost, times, answered_by=LOCAL, partition=name)

    def connect(self) -> None:
        """Find out now what link and server are like, so that the first photo has what is best for it."""
        self._watch()
        self._ping()

    def close(self) -> None:
        """Close the connections. A later photo opens them again."""
        with self._state:
            watcher, self._watcher = self._watcher, None
            self._state.notify_all()
        if watcher is not None:
            watcher.join()
        with self._link:
            self._close_streams()

    def _ask(self, name: str, processed: Processed) -> tuple[Prediction | None, tuple[int, int]]:
        """The server's answer, or None where it can't give one; and the bytes that went and came."""
        frame = processed.result
        assert isinstance(frame, Frame)
        with self._link:
            stream = self._streams[frame.bundle_tag]
            before = stream.total_bytes
            with self._state:
                patience_s = self._pilot.patience_s(len(frame.payload))
            try:
                reply, answer = exchange(stream, frame, patience_s)
                prediction = self._prediction(name, processed, reply, answer)
            except BottleNetError as error:
                late = isinstance(error, OverdueError)
                self._failed(name, error, Exchange(sent(len(frame.payload)), patience_s) if late else None)
                after = stream.total_bytes
                return None, (after[0] - before[0], after[1] - before[1])
            self._home = frame.bundle_tag
        with self._state:
            self._last, self._pings = monotonic(), 0
            self._pilot.answered(name, len(frame.payload), reply.round_trip_ms / 1e3, answer)
            self._pilot.decide()
        return prediction, (reply.sent_bytes, reply.received_bytes)

    def _prediction(self, name: str, processed: Processed, reply: Reply, answer: Answer) -> Prediction:
        """WireError: an answer that does not fit the bundle."""
        assert isinstance(processed.result, Frame)
        return replied(
            self._bundle,
            reply,
            answer,
            len(processed.result.payload),
            (processed.prepare_ms, processed.compute_ms, processed.encode_ms),
            answered_by=SERVER,
            partition=name,
        )

    def _failed(self, name: str, error: BottleNetError, overdue: Exchange | None) -> None:
        """A photo got no answer: it was refused, or the server is gone. The connections are closed then."""
        if isinstance(error, FrameError):
            with self._state:
                self._pilot.refused(name, reason(error))
        else:
            self._lost(error, overdue)

    def _lost(self, error: BottleNetError, overdue: Exchange | None = None) -> None:
        """There is no server, or it has no room: close the connections, and look for it later."""
        with self._state:
            self._pilot.lost(reason(error), overdue)
            self._backoff.failed(hint_s(error))
            self._state.notify_all()
        self._close_streams()

    def _close_streams(self) -> None:
        for stream in self._streams.values():
            stream.close()

    def _opening_s(self) -> float:
        """How long opening a connection may take."""
        with self._state:
            return self._pilot.patience_s(0)

    def _watch(self) -> None:
        """Have a thread that looks after the link when nothing is sent. A photo wants it: it looks more often again."""
        with self._state:
            if self._pings:
                self._pings = 0
                self._state.notify_all()  # it may be asleep for minutes
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._ping_for_ever, name="bottlenet-probe", daemon=True)
                self._watcher.start()

    def _ping_for_ever(self) -> None:
        """Until `close`."""
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
        """Seconds until the next probe."""
        if self._pilot.away:
            return self._backoff.wait_s
        # What was odd is looked at again soon, as nothing moves until it is known to be chance or another link.
        first_s = self._policy.ping_s if self._pilot.link.settled else min(FIRST_TRY_S, self._policy.ping_s)
        every_s = min(first_s * 2.0 ** min(self._pings, 60), self._policy.longest_ping_s)
        return self._last + every_s - monotonic()

    def _ping(self) -> None:
        """Ask what the link and the server are like. Whatever goes wrong, the server is gone."""
        with self._link:
            stream = self._streams[self._home]
            try:
                if self._pilot.away:
                    self._probe(stream)  # the first of a connection takes longer, and tells nothing
                replies = [self._probe(stream) for _ in range(PINGS if self._pilot.away else 1)]
            except (LinkError, WireError, InputError) as error:  # InputError: the token's file is being replaced
                if isinstance(error, FrameError):  # this bundle is not served; another may be
                    tags = list(self._streams)
                    self._home = tags[(tags.index(self._home) + 1) % len(tags)]
                self._lost(error)
                return
        round_trips_s = [reply.round_trip_ms / 1e3 for reply, _ in replies]
        load = replies[-1][1].load
        with self._state:
            self._last, self._pings = monotonic(), self._pings + 1
            self._backoff.worked()
            if self._pilot.away:
                self._pilot.found(round_trips_s, load)
            else:
                self._pilot.pinged(round_trips_s[0], load)

    def _probe(self, stream: Stream) -> tuple[Reply, Answer]:
        """Errors as `exchange`."""
        with self._state:
            patience_s = self._pilot.patience_s(0)
        return exchange(stream, Frame(PROBE, 0, self._home, 0, b""), patience_s)


def reason(error: BottleNetError) -> str:
    """Without what there is to do about it."""
    return str(error).partition(";")[0]


def exchange(stream: Stream, frame: Frame, patience_s: float) -> tuple[Reply, Answer]:
    """One frame and its answer. LinkError, FrameError, BusyError, WireError: there is none."""
    stream.send(frame)
    reply = stream.receive(patience_s)
    if not isinstance(reply.outcome, Answer):
        raise reply.outcome
    return reply, reply.outcome


def profile_of(bundles: Sequence[Bundle], profile: Profile | Sequence[Profile]) -> Profile:
    """One profile that has each bundle's cut, and of the candidates only what these bundles, in any order, can do.

    InputError: a profile of another bundle, or none that has a bundle's cut.
    """
    profiles = [profile] if isinstance(profile, Profile) else profile
    known = [ladder_id(by_depth(bundles)).hex(), *(bundle.id.hex() for bundle in bundles)]
    for each in profiles:
        if each.bundle_id not in known:
            named = " or ".join(one[:12] for one in known[len(bundles) < 2 :])
            raise InputError(
                f"the profile is of bundle {each.bundle_id[:12]}, not of {named}; measure that with bottlenet profile"
            )
    made = merged(profiles)
    cuts = {bundle.manifest.cut for bundle in bundles}
    if missing := cuts - {each.cut for each in made.candidates}:
        raise InputError(f"no profile has the cut {min(missing)}; measure its bundle with bottlenet profile")
    candidates = tuple(each for each in made.candidates if each.kind != "split" or each.cut in cuts)
    return replace(made, candidates=candidates)


def check_auto(partition: str, budget_bytes: int | None, fallback: str | None) -> None:
    """InputError: another partition, or what does not go with it."""
    if partition != AUTO:
        raise InputError(f"partition is {partition!r}; give {AUTO!r}, or leave it out")
    if budget_bytes is not None or fallback is not None:
        raise InputError(
            f"partition={AUTO!r} takes no budget and no fallback: it always falls back, and sizes are known"
        )
