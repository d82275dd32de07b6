"""A server hears what devices answer by themselves, and compares a share of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.applications import Starlette

from bottlenet.bundle import Bundle
from bottlenet.cloud import create_app
from bottlenet.edge import Encoder
from bottlenet.wire.answer import parse_answer
from bottlenet.wire.frame import AUDIT, REPORT, Frame, Report
from conftest import CLASSES
from network import make_album
from test_app import ask, refused

COUNT = 12


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sorted(make_album(tmp_path_factory.mktemp("album"), COUNT).iterdir())


@pytest.fixture
def app(exit_bundle: Bundle) -> Starlette:
    return create_app([exit_bundle])


def counted(app: Starlette, bundle: Bundle) -> tuple[int, int, int]:
    """Return the reports, audits and agreements of a bundle."""
    lines = ask(app, "GET", "/metrics").text.splitlines()
    found = [line.rpartition(" ") for line in lines if f'{{bundle="{bundle.id.hex()[:12]}"}}' in line]
    values = {name.partition("{")[0]: int(float(value)) for name, _, value in found}
    reports, audits, agreements = (
        values[f"bottlenet_{name}_total"] for name in ("reports", "audits", "audit_agreements")
    )
    return reports, audits, agreements


class TestServer:
    def test_a_report_is_counted(self, app: Starlette, exit_bundle: Bundle) -> None:
        assert counted(app, exit_bundle) == (0, 0, 0)
        response = ask(app, "POST", "/v1/classify", Report(3, 0.9).to_frame(exit_bundle.tag, 77).to_bytes())
        answer = parse_answer(response.content)
        assert (response.status_code, len(response.content)) == (200, 14)
        assert (answer.sequence, answer.top, answer.server_us) == (77, (), 0)
        assert counted(app, exit_bundle) == (1, 0, 0)

    def test_an_audit_is_answered_and_compared(self, app: Starlette, exit_bundle: Bundle, photos: list[Path]) -> None:
        frame = Encoder(exit_bundle).encode(photos[0], 77).frame
        plain = parse_answer(ask(app, "POST", "/v1/classify", frame.to_bytes()).content)
        best = plain.top[0][0]
        for index in (best, (best + 1) % CLASSES):
            audit = Report(index, 0.9, frame).to_frame(exit_bundle.tag, 77)
            answer = parse_answer(ask(app, "POST", "/v1/classify", audit.to_bytes()).content)
            assert (answer.sequence, answer.top) == (77, plain.top)
        assert counted(app, exit_bundle) == (2, 2, 1)

    @pytest.mark.parametrize(
        ("setting", "payload", "says"),
        [
            (0, bytes(3), "report of 3 bytes, but it should have 4"),
            (0, bytes([0, CLASSES, 255, 255]), f"report of class {CLASSES}, but bundle tiny has {CLASSES} classes"),
            (AUDIT, bytes([0, 0, 0, 0, 9, 0]), "frame is of codec 9; this side knows 0 (raw)"),
            (AUDIT, bytes([0, 0, 0, 0, 2, 90]), "jpeg payload"),
        ],
    )
    def test_what_is_refused_is_not_counted(
        self, app: Starlette, exit_bundle: Bundle, setting: int, payload: bytes, says: str
    ) -> None:
        frame = Frame(REPORT, setting, exit_bundle.tag, 0, payload)
        assert says in refused(ask(app, "POST", "/v1/classify", frame.to_bytes()), 400)
        assert counted(app, exit_bundle) == (0, 0, 0)

    def test_a_bundle_without_an_exit(self, bundle: Bundle) -> None:
        app = create_app([bundle])
        frame = Report(3, 0.9).to_frame(bundle.tag)
        text = "report of class 3, but bundle tiny has no exit"
        assert text in refused(ask(app, "POST", "/v1/classify", frame.to_bytes()), 400)
        assert 'bundle="' not in ask(app, "GET", "/metrics").text
