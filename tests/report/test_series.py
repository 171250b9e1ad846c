"""Curves and sums in which an absent client is None."""

import pytest

from pubswap_jax.report.series import banded, cell, drawable, mean_of_known, numbered, over_steps, total


def test_steps_are_counted_from_one_over_the_whole_run_and_the_base_is_no_round():
    rows = [{"round": 0}, {"round": 0, "step": 0}, {"round": 0, "step": 1}, {"round": 1}, {"round": 1, "step": 0}, {"round": 2}]
    steps, rounds = numbered(rows)
    assert [(row["round"], row["step"], row["at"]) for row in steps] == [(0, 0, 1), (0, 1, 2), (1, 0, 3)]
    assert [row["round"] for row in rounds] == [1, 2] and "at" not in rows[1]


def test_a_curve_over_the_steps_that_have_the_metric_is_a_mean_over_clients():
    line = over_steps(
        [{"at": 1, "private/x": [1.0, 3.0]}, {"at": 2}, {"at": 3, "private/x": [5.0, None]}], "private/x", "label"
    )
    assert (line.name, line.x, line.y) == ("label", [1, 3], [2.0, 5.0])


def test_a_band_reaches_from_the_least_to_the_most():
    line = banded([(1, [1.0, 3.0]), (4, [2.0])], "label")
    assert (line.x, line.y, line.low, line.high) == ([1, 4], [2.0, 2.0], [1.0, 2.0], [3.0, 2.0])


def test_none_is_left_out():
    assert total([1, None, 2]) == 3 and total([None]) is None and total([]) is None
    assert mean_of_known([1.0, None, 3.0]) == 2.0 and mean_of_known([None]) is None
    assert cell([[1, 2], None], 0, 1) == 2 and cell([[1, 2], None], 1, 1) is None


@pytest.mark.parametrize(
    ("x", "shown"), [(0.5, True), (0.0, False), (None, False), (float("nan"), False), (float("inf"), False)]
)
def test_what_a_logarithmic_axis_can_show(x, shown):
    assert drawable(x) == shown
