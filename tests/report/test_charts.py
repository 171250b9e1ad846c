"""Charts: well-formed, to scale, and hostile names stay text."""

from xml.etree import ElementTree

import pytest

from pubswap_jax.report import charts
from pubswap_jax.report.charts import Line


def elements(text, name):
    return [e for e in ElementTree.fromstring(f"<div>{text}</div>").iter() if e.tag == name]


def test_lines_are_to_scale_and_gaps_stay_gaps():
    text = charts.lines([Line("a", [0, 1, 2, 3], [0.0, 0.5, None, 1.0], [], [])], "step", "reward", (0.0, 1.0))
    dots = [(float(e.get("cx")), float(e.get("cy"))) for e in elements(text, "circle")]
    assert len(dots) == 3 and dots[0][1] - dots[1][1] == pytest.approx(dots[1][1] - dots[2][1], abs=0.2)
    assert dots[2][0] - dots[0][0] == pytest.approx(3 * (dots[1][0] - dots[0][0]), abs=0.3)
    assert len(elements(text, "polyline")) == 1, "a single point after the gap is no line"
    assert elements(text, "title")[0].text == "a, step 0: 0"


def test_decades_are_equally_far_apart():
    text = charts.lines([Line("a", [0, 1, 2], [0.02, 0.2, 2.0])], "x", "y", decades=True)
    heights = [float(e.get("cy")) for e in elements(text, "circle")]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)
    assert [e.text for e in elements(text, "text") if e.get("text-anchor") == "end"] == ["0.01", "0.1", "1", "10"]


def test_a_band_goes_around_its_line():
    text = charts.lines([Line("a", [0, 1], [0.5, 0.6], [0.4, 0.5], [0.6, 0.7])], "x", "y", (0.0, 1.0))
    assert len(elements(text, "polygon")[0].get("points").split()) == 4


def test_heat_map_depth_follows_the_value_and_hue_its_sign():
    cells = elements(charts.heat_map(["r"], ["a", "b", "c"], [[1.0, 0.5, -1.0]]), "rect")
    depth = [float(cell.get("fill-opacity")) for cell in cells]
    assert depth[0] == depth[2] > depth[1] and ["c1" in cell.get("class") for cell in cells] == [False, False, True]


def test_bubbles_areas_are_counts():
    radii = [float(e.get("r")) for e in elements(charts.bubbles(["t"], ["public", "0", "1"], [[4, 0, 16]]), "circle")]
    assert len(radii) == 2 and radii[1] == pytest.approx(2 * radii[0], abs=0.2)


def test_bars_add_up():
    bars = elements(charts.stacked_bars(["1"], {"a": [1.0], "b": [3.0]}, "s"), "rect")
    heights = [float(bar.get("height")) for bar in bars]
    assert heights[1] == pytest.approx(3 * heights[0], abs=0.1)
    assert float(bars[0].get("y")) == pytest.approx(float(bars[1].get("y")) + heights[1], abs=0.2)


def test_what_a_model_wrote_stays_text():
    evil = '<script>alert(1)</script>"'
    for text in (
        charts.lines([Line(evil, [0, 1], [0, 1])], evil, evil),
        charts.heat_map([evil], [evil], [[1.0]]),
        charts.bubbles([evil], [evil], [[1]]),
        charts.stacked_bars([evil], {evil: [1.0]}, evil),
        charts.note(evil),
    ):
        assert "<script" not in text and not elements(text, "script")


@pytest.mark.parametrize("low, high", [(0, 1), (3, 4000), (-0.02, 0.01), (0.99, 1.0)])
def test_ticks_are_round_and_inside(low, high):
    found = charts.ticks(low, high)
    assert 2 <= len(found) <= 11 and all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)
    step = found[1] - found[0]
    assert f"{step:e}"[0] in "125" and all(tick / step == pytest.approx(round(tick / step), abs=1e-6) for tick in found)


def test_nothing_to_draw_says_so():
    assert "nothing to draw" in charts.lines([], "x", "y") and "nothing to draw" in charts.stacked_bars([], {"a": []}, "s")


def test_one_point_has_one_tick_and_it_is_its_own():
    text = charts.lines([Line("a", [2], [0.5])], "round", "y", (0.0, 1.0))
    assert [e.text for e in elements(text, "text") if e.get("text-anchor") == "middle"] == ["round", "2"]


def test_a_curve_of_zeros_has_no_values_below_zero():
    assert ">-" not in charts.lines([Line("nothing", [1, 2], [0.0, 0.0])], "step", "share")
