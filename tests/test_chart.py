"""Charts as SVG: where things are, that they can be told apart without colour, and that words stay words."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bottlenet.report.charts import (
    DASHES,
    LINE_ROOM,
    MARKERS,
    SHAPES,
    Axis,
    Bar,
    Box,
    Drawing,
    Group,
    Rule,
    Scale,
    Series,
    along,
    bar_chart,
    decades,
    free_box,
    label_heights,
    line_chart,
    look_numbers,
    percents,
    round_steps,
    shortened,
    spanning,
    words,
)


def overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


NAMESPACE = "{http://www.w3.org/2000/svg}"
NASTY = "<script>\"&'\x1b[31m\n</title>"
FINITE = st.floats(-1e9, 1e9)
POSITIVE = st.floats(1e-6, 1e12)


def parsed(drawing: Drawing) -> ElementTree.Element:
    return ElementTree.fromstring(drawing.document(b"<!-- test -->"))


def texts(root: ElementTree.Element) -> list[str]:
    return [each.text or "" for each in root.iter(f"{NAMESPACE}text")]


def numbers(*values: float) -> Axis:
    return Axis("what", spanning(values))


class TestScale:
    @given(st.lists(POSITIVE, min_size=1, max_size=9), st.booleans())
    def test_values_are_within_and_in_order(self, values: list[float], log: bool) -> None:
        scale = spanning(values, log=log, margin=0.05)
        shares = [scale.share(value) for value in sorted(values)]
        assert all(0 <= share <= 1 for share in shares)
        assert shares == sorted(shares)

    @given(POSITIVE, st.floats(1.01, 1e6))
    def test_ticks_are_round_within_and_not_many(self, low: float, factor: float) -> None:
        for found in (decades(low, low * factor), round_steps(low, low * factor)):
            assert 1 <= len(found) <= 20 or factor < 1.1
            assert all(low * 0.999 <= tick <= low * factor * 1.001 for tick in found)
            assert all(a < b for a, b in pairwise(found))

    @pytest.mark.parametrize("log", [False, True])
    def test_nothing_and_one_value(self, log: bool) -> None:
        for values in ([], [5.0], [math.nan, math.inf], [0.0]):
            scale = spanning(values, log=log)
            assert scale.low < scale.high
            assert scale.ticks()

    def test_rates_end_at_100(self) -> None:
        assert percents([0, 99]) == Scale(0, 100)
        assert percents([50, 60]).low == pytest.approx(49.2)


@given(st.lists(st.floats(0, 500), min_size=1, max_size=12))
def test_labels_do_not_cover_each_other_and_keep_their_order(wanted: list[float]) -> None:
    heights = label_heights(wanted, 40, 410)
    assert min((b - a for a, b in pairwise(sorted(heights))), default=LINE_ROOM) >= LINE_ROOM - 1e-9
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    assert [heights[i] for i in order] == sorted(heights)
    assert min(heights) >= 40


class TestLines:
    def test_every_line_looks_different_without_colour(self) -> None:
        series = [Series(f"line {n}", ((1, n), (2, n + 1))) for n in range(8)]
        root = parsed(line_chart("title", "words", series, numbers(1, 2), numbers(0, 9)))
        dashes = [each.get("stroke-dasharray") or "" for each in root.iter(f"{NAMESPACE}polyline")]
        assert len(dashes) == 8
        assert len(set(dashes)) == 8 == len(DASHES)
        shapes = [each.get("d") for each in root.iter(f"{NAMESPACE}path") if each.get("d") in SHAPES.values()]
        assert {shapes.count(shape) for shape in SHAPES.values()} == {3}  # two points and the name's
        assert len(MARKERS) == 8

    def test_every_line_has_its_name_in_the_order_of_the_ends(self) -> None:
        series = [Series("low", ((0, 0), (1, 0.1))), Series("high", ((0, 0), (1, 0.9)), bold=True)]
        root = parsed(line_chart("title", "words", series, numbers(0, 1), numbers(0, 1)))
        at = {each.text: float(each.get("y", "")) for each in root.iter(f"{NAMESPACE}text")}
        assert at["high"] < at["low"]
        bold = [each.text for each in root.iter(f"{NAMESPACE}text") if each.get("font-weight") == "bold"]
        assert bold == ["high"]

    def test_a_name_keeps_its_look_from_chart_to_chart(self) -> None:
        looks: dict[str, int] = {}
        assert look_numbers(["a", "b"], looks) == [0, 1]
        assert look_numbers(["c", "b"], looks) == [2, 1]
        many = look_numbers([f"line {n}" for n in range(12)], looks)
        assert len(set(many)) == 12
        assert look_numbers(["line 11", "a"], looks) == [many[11], 0]
        taken = {"x": 3, "y": 3}  # they met in no chart before
        assert look_numbers(["x", "y"], taken) == [3, 3 + 8]
        assert look_numbers(["y"], taken) == [3]

    def test_points_are_where_their_values_are(self) -> None:
        axis = Axis("bytes", Scale(1, 100, True))
        root = parsed(
            line_chart("t", "d", [Series("s", ((1, 0), (10, 50), (100, 100)))], axis, Axis("%", Scale(0, 100)))
        )
        (line,) = root.iter(f"{NAMESPACE}polyline")
        places = [tuple(map(float, place.split(","))) for place in line.get("points", "").split()]
        assert places == [(66, 350), (306, 183), (546, 16)]

    def test_words_are_words(self) -> None:
        series = [Series(NASTY, ((1, 1), (2, 2)), notes=(NASTY, ""))]
        drawing = line_chart(NASTY, NASTY, series, Axis(NASTY, Scale(1, 2)), numbers(1, 2), rules=[Rule(1.5, NASTY)])
        root = parsed(drawing)
        assert not list(root.iter(f"{NAMESPACE}script"))
        assert {root[0].tag, root[1].tag} == {f"{NAMESPACE}title", f"{NAMESPACE}desc"}
        clean = "<script>\"&' [31m </title>"
        assert root[0].text == root[1].text == clean
        assert texts(root).count(clean) >= 3
        inline = drawing.inline("x")
        assert "<script" not in inline
        assert inline.count('id="x-title"') == inline.count('id="x-desc"') == 1

    def test_no_points_at_all(self) -> None:
        for series in ([], [Series("none", ())]):
            parsed(line_chart("t", "d", series, numbers(), Axis("y", spanning([], log=True))))

    def test_rules_beyond_the_axes_are_left_out(self) -> None:
        rules = [Rule(5, "in"), Rule(50, "out"), Rule(5, "flat in", upright=False), Rule(50, "flat out", upright=False)]
        root = parsed(line_chart("t", "d", [], Axis("x", Scale(0, 10)), Axis("y", Scale(0, 10)), rules=rules))
        assert {"in", "flat in"} <= set(texts(root))
        assert not {"out", "flat out"} & set(texts(root))

    @given(st.lists(st.tuples(st.floats(70, 540), st.floats(20, 340)), min_size=1, max_size=30))
    def test_notes_cover_neither_points_nor_each_other(self, places: list[tuple[float, float]]) -> None:
        points = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
        taken: list[Box] = [*points, *along(places)]
        notes = []
        for place in places:
            box = free_box(place, "a note", taken)
            if box is not None:
                notes.append(box)
                taken.append(box)
        assert not any(overlap(note, point) for note, point in product(notes, points))
        assert not any(overlap(a, b) for a, b in product(notes, notes) if a is not b)


class TestBars:
    def test_parts_are_as_long_as_their_values(self) -> None:
        bar = Bar("split", (10, 30, 20), "60 ms", whisker=80, mark=50)
        root = parsed(bar_chart("t", "d", [Group("3G", (bar,))], ("device", "link", "server"), "ms"))
        legend, drawn = list(root.iter(f"{NAMESPACE}rect"))[1:4], list(root.iter(f"{NAMESPACE}rect"))[4:]
        widths = [float(each.get("width", "")) for each in drawn]
        assert widths[1] == pytest.approx(3 * widths[0], abs=0.2)
        assert widths[2] == pytest.approx(2 * widths[0], abs=0.2)
        assert len({each.get("fill") for each in drawn}) == 3  # shades, not hues
        assert [each.get("fill") for each in legend] == [each.get("fill") for each in drawn]
        assert {"device", "link", "server", "95 of 100", "the bound", "60 ms", "3G", "split"} <= set(texts(root))

    def test_the_legend_says_only_what_is_drawn(self) -> None:
        root = parsed(bar_chart("t", "d", [Group("g", (Bar("b", (1.0,), "1"),))], ("device",), "ms"))
        assert not {"95 of 100", "the bound"} & set(texts(root))

    def test_what_is_missing_says_why(self) -> None:
        group = Group("LoRaWAN", (), (("JPEG 95", "too large"),))
        root = parsed(bar_chart("t", "d", [group, Group("all zero", (Bar("b", (0.0,), "0"),))], ("device",), "ms"))
        assert {"JPEG 95", "too large"} <= set(texts(root))


class TestDocument:
    def test_it_is_legible_in_light_and_dark_and_without_css(self) -> None:
        drawing = line_chart("title", "words", [Series("s", ((0, 0), (1, 1)))], numbers(0, 1), numbers(0, 1))
        made = drawing.document(b"<!-- mark -->")
        assert b"<!-- mark -->" in made.encode()[:512]
        assert "@media (prefers-color-scheme: dark)" in made
        root = ElementTree.fromstring(made)
        assert root.get("role") == "img"
        for line in root.iter(f"{NAMESPACE}path"):
            assert line.get("stroke") in ("black", "white")

    def test_long_names_are_cut(self) -> None:
        assert shortened("a" * 50, 64) == "a" * 9 + "…"
        assert shortened("short", 64) == "short"
        assert words("a\nb<") == "a b&lt;"
