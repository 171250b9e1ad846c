"""Swaps: the section, and M·β beside the distance where there is something to draw."""

import pytest

from pubswap_jax.report.swaps import distances, swaps, unswapped

NAN = float("nan")


def step(at, bound=None, distance=None, beta=None, replacements=(3, None)):
    """A public step of two clients, the second of them absent."""
    shares = {f"public/{name}": [0.25, None] for name in ("swapped", "rescued")}
    flat = {f"public/{name}_{when}": [0.5, None] for name in ("zero_variance", "variance") for when in ("before", "after")}
    row = {"at": at, "public/donors": [[1, 2], None], "swap/replacements": list(replacements), **shares, **flat}
    if bound is not None:
        row |= {"swap/bound": bound, "swap/distance": distance, "swap/beta": beta}
    return row


def test_the_distance_stands_beside_its_bound():
    text = distances([step(1, [0.4, None], [0.1, None], [0.2, None]), step(2, [0.5, NAN], [0.4, 0.1], [0.25, 0.1]), step(3)])
    assert "M·β, the bound, step 1: 0.4" in text and "the distance, step 2: 0.25" in text
    assert "25 to 80 % of the bound in 2 measurements" in text


@pytest.mark.parametrize(
    "measured", [[], [step(1)], [step(1, [0.0, 0.0], [0.0, 0.0], [0.0, 0.0])], [step(1, [None, NAN], [None, 0.0], [None, NAN])]]
)
def test_without_a_replacement_there_is_no_chart(measured):
    assert distances(measured) == ""


def test_measured_steps_without_a_replacement_are_counted():
    drawn, zero = step(1, [0.4, None], [0.1, None], [0.2, None]), step(2, [0.0, None], [0.0, None], [0.0, None])
    assert unswapped([step(1), drawn]) == "" == unswapped([])
    assert "measured in 2 public steps. In 1 of them" in unswapped([drawn, zero])
    assert unswapped([step(1, [NAN, None], [NAN, None], [NAN, None])]) == "", "a bound that is not finite has replacements"


def test_the_section_says_what_was_swapped_and_never_that_there_is_nothing_to_draw():
    text = swaps([step(1), step(2, [0.0, None], [0.0, None], [0.0, None])])
    assert "client 0, client 1: 4" in text and "responses swapped, step 2: 0.25" in text
    assert "nothing to draw" not in text and "How far the swap moved" not in text
    assert "How far the swap moved a gradient" in swaps([step(1, [0.4, None], [0.1, None], [0.2, None])])


def test_a_run_without_a_public_step_has_no_such_section():
    assert swaps([{"at": 1, "private/reward": [0.5, 0.5]}]) == ""
