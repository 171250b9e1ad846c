"""Every rewrite of the table, on its examples."""

import pytest

from pubswap_jax.verifier.rewrites import REWRITES

CASES = [(number, before, after) for number, rewrite in enumerate(REWRITES) for before, after in rewrite.examples.items()]


@pytest.mark.parametrize(("number", "before", "after"), CASES)
def test_a_rewrite_does_what_its_examples_say(number, before, after):
    rewrite = REWRITES[number]
    assert rewrite.pattern.sub(rewrite.spelling, before) == after
    assert before == after or rewrite.needs in before, "texts without `needs` skip the rewrite"


def test_every_rewrite_has_an_example():
    assert [rewrite.pattern.pattern for rewrite in REWRITES if all(a == b for a, b in rewrite.examples.items())] == []
