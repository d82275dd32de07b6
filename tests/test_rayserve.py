"""Replicas on Ray Serve behind HAProxy: the same answers, refusals and guards as from one process, and none is lost
when a replica is killed.

One cluster, of this process, serves all of it. What needs no Ray is in test_deployed.py and test_haproxy.py.
"""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from bottlenet.bundle import Bundle
from bottlenet.bundle.ladder import write_ladder
from bottlenet.cloud.admission import Limits
from bottlenet.cloud.ray.cluster import Deployed
from bottlenet.edge import Edge
from bottlenet.edge.connection import Backoff
from bottlenet.edge.prediction import Answered
from bottlenet.edge.sender import Sender
from bottlenet.edge.spool import Spool
from bottlenet.wire.answer import parse_answer
from conftest import MakeBundle, needs_ray, until
from network import make_album
from processes import close_code, frame_of, open_stream, serving

pytestmark = [
    needs_ray,
    pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`"),  # Ray's
]

TOKEN = "camera-1-0123456789abcdef"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
PHOTOS = 120  # of each of two devices
LIMITS = Limits(max_waiting=64, max_in_flight=200, max_payload_bytes=1000)
LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")


class Front:
    """What HAProxy listens on."""

    def __init__(self, port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self.http = httpx.Client(base_url=f"http://{self.address}", timeout=30)

    def stream(self, bundle_id: str, token: str | None = TOKEN) -> ClientConnection:
        return open_stream(f"ws://{self.address}", bundle_id, token)

    def replicas(self) -> set[str]:
        """Their names, of those that have answered lately. HAProxy asks whoever has least to do."""
        text = self.http.get("/metrics", headers=HEADERS).text
        return {line.partition('replica="')[2].partition('"')[0] for line in text.splitlines() if "replica=" in line}


@pytest.fixture(scope="module")
def other(make_bundle: MakeBundle) -> Bundle:
    return make_bundle(name="other", setting=70)


@pytest.fixture(scope="module")
def deployed(bundle: Bundle, other: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    tokens = tmp_path_factory.mktemp("tokens") / "tokens.txt"
    tokens.write_text(f"{TOKEN}\n")
    return Deployed(
        (str(bundle.path), str(other.path)),
        str(tokens),
        replicas=1,
        max_replicas=2,
        replica_frames=0.1,  # so that little is enough for the second
        limits=LIMITS,
    )


@pytest.fixture(scope="module")
def cluster(deployed: Deployed) -> Iterator[None]:
    from bottlenet.cloud.ray.cluster import own_cluster

    paths = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))  # replicas have folders of their own
        patch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # of another cluster: an own one is an own one
        if "ray" in sys.modules:  # for another test, without the settings that it reads when it is imported
            patch.setattr("ray._private.ray_constants.ENABLE_RAY_CLUSTER", False)
            forget_token()
        with own_cluster(deployed, "127.0.0.1"):
            yield
        forget_token()


def forget_token() -> None:
    """Ray keeps it for the process, and the next test may have a cluster with another."""
    from ray._raylet import AuthenticationTokenLoader

    AuthenticationTokenLoader.instance().reset_cache()


@pytest.fixture(scope="class")
def front(cluster: None, deployed: Deployed) -> Iterator[Front]:
    from bottlenet.cloud.ray import replica as rayserve
    from bottlenet.cloud.ray.cluster import await_front, free_ports, served

    (port,) = free_ports(1)
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr(rayserve, "MORE_AFTER_S", 0.5)
        patch.setitem(rayserve.ENVIRONMENT, "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "0.2")
        stack.enter_context(served(deployed, "127.0.0.1", port))
        await_front("127.0.0.1", port)
        front = Front(port)
        stack.callback(front.http.close)
        yield front


def processes() -> dict[int, tuple[int, str]]:
    """All of them: parent and name, by process id."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            found[int(entry.name)] = parent, (entry / "cmdline").read_text().replace("\0", " ")
    return found


def descendants(name: str = "") -> list[int]:
    """Of this process, those whose command starts so."""
    all_of_them = processes()

    def is_ours(pid: int) -> bool:
        while pid in all_of_them and pid != os.getpid():
            pid = all_of_them[pid][0]
        return pid == os.getpid()

    return [pid for pid, (_, command) in all_of_them.items() if command.startswith(name) and is_ours(pid)]


def replica_processes() -> list[int]:
    return descendants("ray::ServeReplica")


@pytest.mark.slow
class TestFront:
    def test_health(self, front: Front) -> None:
        for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"):
            assert front.http.get(path).status_code == 200
        assert front.http.get("/healthz").json() == {"status": "ok", "waiting": 0}

    def test_several_bundles_by_http(self, front: Front, bundle: Bundle, other: Bundle) -> None:
        served = front.http.get("/v1/bundles", headers=HEADERS).json()
        assert {one["id"] for one in served} == {bundle.id.hex(), other.id.hex()}
        for number, one in enumerate((bundle, other)):
            done = front.http.post("/v1/classify", content=frame_of(one, number).to_bytes(), headers=HEADERS)
            assert parse_answer(done.content).sequence == number
        refused = front.http.post("/v1/classify", content=frame_of(bundle).to_bytes()[:-3], headers=HEADERS)
        assert (refused.status_code, "error" in refused.json()) == (400, True)

    def test_a_stream(self, front: Front, bundle: Bundle, other: Bundle) -> None:
        for one in (bundle, other):
            with front.stream(one.id.hex()) as stream:
                for sequence in range(20):
                    stream.send(frame_of(one, sequence).to_stream_bytes())
                assert {parse_answer(stream.recv(timeout=30)).sequence for _ in range(20)} == set(range(20))

    def test_who_gets_in(self, front: Front, bundle: Bundle) -> None:
        refused = front.http.get("/v1/bundles")
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert close_code(front.stream(bundle.id.hex(), None)) == 4401
        assert close_code(front.stream("0" * 64)) == 4404

    def test_limits(self, front: Front, bundle: Bundle) -> None:
        assert close_code(front.stream(bundle.id.hex()), bytes(1100)) == 1009
        assert front.http.post("/v1/classify", content=bytes(1100), headers=HEADERS).status_code == 413
        with socket.create_connection(("127.0.0.1", front.http.base_url.port)) as sock:  # type: ignore[arg-type]
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"x: y\r\n" * 20_000)
            assert b" 400 " in sock.recv(4096)

    def test_busy_answers_say_when(self, front: Front, bundle: Bundle) -> None:
        """The line takes 64, and more than twice as many come at once."""
        with front.stream(bundle.id.hex()) as stream:
            for sequence in range(200):
                stream.send(frame_of(bundle, sequence).to_stream_bytes())
            kinds = Counter(stream.recv(timeout=30)[0] & 15 for _ in range(200))
        assert set(kinds) <= {0, 2}
        assert kinds[0] >= 64
        # A connection each: a client that closes idle ones while others read can take a socket from under them.
        alone = httpx.Limits(max_connections=100, max_keepalive_connections=0)
        with (
            ThreadPoolExecutor(100) as pool,
            httpx.Client(base_url=front.http.base_url, timeout=60, limits=alone) as client,
        ):
            body = frame_of(bundle).to_bytes()
            done = list(pool.map(lambda _: client.post("/v1/classify", content=body, headers=HEADERS), range(400)))
        statuses = Counter(one.status_code for one in done)
        assert set(statuses) <= {200, 503}
        assert all(one.headers["retry-after"] == "1" for one in done if one.status_code == 503)

    def test_the_open_inference_protocol(self, front: Front, bundle: Bundle) -> None:
        data = base64.b64encode(frame_of(bundle).to_bytes()).decode()
        asked = {"inputs": [{"name": "frame", "datatype": "BYTES", "shape": [1], "data": [data]}]}
        document = front.http.post("/v2/models/tiny/infer", json=asked, headers=HEADERS).json()
        assert [one["name"] for one in document["outputs"]] == ["scores", "classes", "labels"]

    def test_more_replicas_when_frames_wait(self, front: Front, bundle: Bundle) -> None:
        """An open stream is no load, and Ray would count it as one; frames are."""
        assert len(replica_processes()) == 1
        stop = threading.Event()

        def send() -> None:
            with front.stream(bundle.id.hex()) as stream:
                while not stop.is_set():
                    for sequence in range(32):
                        stream.send(frame_of(bundle, sequence).to_stream_bytes())
                    for _ in range(32):
                        stream.recv(timeout=30)

        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(send)
            try:
                until(lambda: len(replica_processes()) == 2, "there is no second replica", 90)
            finally:
                stop.set()
            sending.result(30)
        names: set[str] = set()
        until(lambda: len(names.update(front.replicas()) or names) == 2, "HAProxy does not know it", 60)

    def test_nobody_else_reaches_it(self, front: Front) -> None:
        """All of it is on loopback but for a port of each replica, where Ray asks for its token."""
        grpc = pytest.importorskip("grpc")
        ours = {
            link.rpartition("[")[2].rstrip("]")
            for pid in descendants()
            for link in links_of(pid)
            if link.startswith("socket:")
        }
        open_to_all = []
        for kind in ("tcp", "tcp6"):
            for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]:
                address, state, inode = (line.split()[at] for at in (1, 3, 9))
                host, _, port = address.partition(":")
                if state == "0A" and inode in ours and host not in LOOPBACK:
                    open_to_all.append(int(port, 16))
        assert len(open_to_all) == len(replica_processes())
        for port in open_to_all:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary("/ray.serve.ASGIService/HandleRequest")(b"", timeout=30)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED

    def test_a_killed_replica_loses_nothing(self, front: Front, bundle: Bundle, tmp_path: Path) -> None:
        """Two devices, a replica for each, and one of these is killed in the middle of its work."""
        before = replica_processes()
        assert len(before) == 2
        answered: list[Counter[str]] = [Counter(), Counter()]
        lost: list[str] = []

        def send(device: int) -> None:
            folder = tmp_path / str(device)
            (folder / "album").mkdir(parents=True)
            photos = sorted(make_album(folder / "album", PHOTOS).iterdir())
            edge = Edge(bundle, f"ws://{front.address}", token=TOKEN, timeout_s=5)
            with edge, Spool(folder / "spool", bundle) as spool:
                sender = Sender(edge, spool, backoff=Backoff(first_s=0.05, cap_s=1, deadline_s=60), tell=lost.append)
                for outcome in sender.send(map(str, photos)):
                    assert isinstance(outcome, Answered), outcome
                    answered[device][outcome.photo] += 1
                assert not sender.gave_up
            assert answered[device] == Counter(map(str, photos))

        with ThreadPoolExecutor(2) as pool:
            devices = [pool.submit(send, device) for device in range(2)]
            until(lambda: all(len(one) > PHOTOS // 4 for one in answered), "nothing is answered", 60)
            assert any(len(one) < PHOTOS for one in answered)
            os.kill(before[0], signal.SIGKILL)
            for device in devices:
                device.result(120)
        assert any("without a word" in line or "closed" in line for line in lost), lost
        until(lambda: len(set(replica_processes()) - {before[0]}) == 2, "it is not replaced", 90)


def links_of(pid: int) -> list[str]:
    """Its files and sockets."""
    links = []
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                links.append(os.readlink(entry))
    return links


@pytest.mark.slow
class TestJoined:
    def test_the_command_joins_serves_and_drains(self, cluster: None, bundle: Bundle, tmp_path: Path) -> None:
        """Its bundle gets to the cluster by itself. Told to stop, it answers what it took, and says goodbye."""
        import ray

        head = ray.get_runtime_context().gcs_address
        program = [sys.executable, "-m", "bottlenet.cli"]
        options = ("--engine", "ray", "--ray-address", head, "--grace-s", 5)
        with serving(bundle.path, *options, program=program) as process, process.stream(bundle) as stream:
            statuses: Counter[int] = Counter()
            sequence = 0
            stop_at = time.monotonic() + 1
            with contextlib.suppress(ConnectionClosed):
                while True:
                    stream.send(frame_of(bundle, sequence % 65536).to_stream_bytes())
                    sequence += 1
                    if sequence % 16 == 0:
                        statuses.update(stream.recv(timeout=30)[0] & 15 for _ in range(16))
                    if stop_at < time.monotonic():
                        process.popen.send_signal(signal.SIGTERM)
                        stop_at = float("inf")
            with contextlib.suppress(ConnectionClosed):
                while True:
                    statuses.update([stream.recv(timeout=30)[0] & 15])
            assert (stream.close_code, stream.close_reason) == (1012, "the server is shutting down; try again later")
            assert set(statuses) <= {0, 2}
            assert sequence - statuses.total() <= 16  # those that came when it had said goodbye
            out, err = process.popen.communicate(timeout=60)
            assert (process.popen.returncode, out, err) == (0, "", "")

    def test_a_cluster_that_is_not_there(self, bundle: Bundle) -> None:
        from bottlenet.cloud.ray.cluster import running
        from bottlenet.errors import InputError

        with (
            pytest.raises(
                InputError, match="--ray-address is 'ray://head:10001'; give host:port of Ray's head, or auto"
            ),
            running(Deployed((str(bundle.path),)), port=0, ray_address="ray://head:10001"),
        ):
            pass


class TestReplica:
    """In this process."""

    def test_as_ray_starts_it(self, tmp_path: Path) -> None:
        """`serve run` gives text, a config file values."""
        from ray._common.utils import import_attr

        from bottlenet.errors import InputError

        app = import_attr("bottlenet.cloud.ray:app")
        text = {"bundles": "/a,/b", "insecure": "true", "replicas": "2", "limits": '{"grace_s": 5}', "watch": "7"}
        values = {"bundles": ["/a", "/b"], "insecure": True, "replicas": 2, "limits": {"grace_s": 5}, "watch": "7"}
        for args in (text, values):
            (deployed,) = app(args)._bound_deployment.init_args
            expected = Deployed(("/a", "/b"), watch="7", insecure=True, replicas=2, limits=Limits(grace_s=5))
            assert deployed == expected
        for args in ({"bundles": "/a"}, {"bundles": "/a", "insecure": "yes"}, {"insecure": "true"}):
            with pytest.raises(InputError):
                app(args)

    def test_how_many(self) -> None:
        from bottlenet.cloud.ray.replica import replicas_for

        config = SimpleNamespace(target_ongoing_requests=2.0)
        for metrics, wanted in ((None, 0.0), ({}, 0.0), ({"bottlenet": {"a": 7.0, "b": 1.0}, "x": {"a": 9.0}}, 4.0)):
            assert replicas_for(SimpleNamespace(aggregated_metrics=metrics, config=config)) == (wanted, {})

    def test_every_bundle_is_loaded_once(self, deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
        import uvicorn

        from bottlenet import runtime
        from bottlenet.cloud import decoder
        from bottlenet.cloud.ray import replica as rayserve

        opened: list[tuple[Path, int]] = []

        def open_tail(bundle: Bundle, threads: int) -> Any:
            opened.append((bundle.path, threads))
            return runtime.open_tail(bundle, threads)

        monkeypatch.setattr(decoder, "open_tail", open_tail)
        monkeypatch.setattr(rayserve, "set_up_logging", lambda *args, **kwargs: None)
        name = SimpleNamespace(replica_id=SimpleNamespace(unique_id="abc"))
        monkeypatch.setattr(rayserve.serve, "get_replica_context", lambda: name)
        monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", uvicorn.config.HTTP_PROTOCOLS["auto"])
        replica = rayserve.Replica(deployed)
        replica.__serve_build_asgi_app__()
        assert opened == [(Path(path), 1) for path in deployed.bundles]
        assert replica.record_autoscaling_stats() == {"bottlenet": 0.0}
        config = uvicorn.Config(lambda: None, factory=True)
        config.load()
        made = config.http_protocol_class
        assert isinstance(made, rayserve.Connections)

    def test_bundles_get_to_other_machines(self, bundle: Bundle, other: Bundle, tmp_path: Path) -> None:
        """A rung of a ladder, too, whose graphs are elsewhere."""
        from bottlenet.cloud.ray.cluster import staged

        ladder = write_ladder(tmp_path / "ladder", [bundle])
        paths = (str(other.path), str(ladder.rungs[0].path))
        (tmp_path / "staged").mkdir()
        names = list(staged(paths, tmp_path / "staged"))
        assert [Bundle.load(tmp_path / "staged" / name).id for name in names] == [other.id, bundle.id]

    def test_a_replica_that_cannot_start(self, tmp_path: Path) -> None:
        """As far as can be told without a cluster."""
        from bottlenet.cloud.ray.cluster import one_line, running
        from bottlenet.errors import BundleError, InputError

        for deployed, kind in (
            (Deployed((str(tmp_path),)), BundleError),
            (Deployed(("demo",), tokens=str(tmp_path / "none")), InputError),
            (Deployed(watch=str(tmp_path / "none")), InputError),
        ):
            with pytest.raises(kind), running(deployed, port=0):
                pass
        says = "0.0.0.0 can be reached from other machines"
        with pytest.raises(InputError, match=says), running(Deployed(("demo",)), host="0.0.0.0", port=0):
            pass
        theirs = (
            "ray::ServeReplica.initialize() (pid=7)\n  ...\nbottlenet.errors.InputError: /x has no token in it\nmore"
        )
        assert one_line(RuntimeError(theirs)) == "/x has no token in it"
        assert one_line(RuntimeError("a\n  b  c\n")) == "b c"
        assert one_line(RuntimeError()) == "RuntimeError"
