"""The sample answers are judged quickly: a sample on which the parser never ends would keep every worker from starting."""

import time

from pubswap_jax.verifier.symbolic import judge
from pubswap_jax.verifier.warmup import FORMS


def test_every_form_is_judged_at_once_the_second_time():
    first = [judge(*form) for form in FORMS]
    assert set(first) == {"correct", "wrong", "unparsed"}
    started = time.process_time()
    assert [judge(*form) for form in FORMS] == first
    assert time.process_time() - started < 2
