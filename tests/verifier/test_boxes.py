r"""Boxes, nested, unbalanced, beside each other and with a percent sign after them."""

import pytest

from pubswap_jax.verifier.boxes import boxes_together, last_box


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"first \boxed{1}, then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed{7} and \boxed{8", "7"),
        (r"\fbox{7}", "7"),
        (r"\boxed 7", "7"),
        (r"$\boxed{5}\%$", r"5\%"),
        (r"\boxed{5} percent", r"5\%"),
        (r"\boxed{}", ""),
        ("no box", None),
        (r"\boxed", None),
    ],
)
def test_the_last_box(text, content):
    assert last_box(text) == content


@pytest.mark.parametrize(
    ("text", "together"),
    [
        (r"$\boxed{2}$ and $\boxed{5}$", "2, 5"),
        (r"\boxed{1}, \boxed{2}, and \boxed{3}.", "1, 2, 3"),
        (r"\[x_1 = \boxed{1} \quad \text{or} \quad x_2 = \boxed{-1}\]", "1, -1"),
        (r"\boxed{9} is first. Then $\boxed{2}$ and $\boxed{5}$", "2, 5"),
        (r"\boxed{2}. So \boxed{5}", None),
        (r"\boxed{2} \boxed{5}", None),
        (r"\boxed{2} and not \boxed{5}", None),
        (r"\boxed{2}", None),
        (r"\boxed{2} and \boxed{5", None),
        ("2 and 5", None),
    ],
)
def test_boxes_that_stand_together(text, together):
    assert boxes_together(text) == together
