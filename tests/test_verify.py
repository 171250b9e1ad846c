"""The verifier's front door: what a batch of completions scores."""

import subprocess
import sys

import numpy as np
import pytest

from pubswap_jax import pool, types, worker
from pubswap_jax.verify import readable, score, verify


@pytest.fixture(autouse=True, scope="module")
def closed_pool():
    yield
    pool.close()


def test_scores_are_numpy_bools_of_the_rows():
    found = score([r"so \boxed{\frac{1}{2}}", r"\boxed{3}"], ["0.5", "4"])
    assert found.dtype == np.bool_
    assert found.tolist() == [True, False]


def test_importing_it_loads_no_jax():
    code = "import sys, pubswap_jax.verify, pubswap_jax.symbolic; print([m for m in ('jax', 'flax') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_status_words_are_those_of_types():
    assert worker.STATUSES == types.STATUSES


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="kind must be"):
        score(["1"], ["1"], kind="maths")
    with pytest.raises(ValueError, match="same length"):
        score(["1"], [])
    with pytest.raises(ValueError, match="options must"):
        verify(["A"], ["A"], kind="choice", options=[])
    with pytest.raises(ValueError, match="timeout must"):
        score(["1"], ["1"], timeout=0)


def test_an_unreadable_gold_is_told():
    assert readable([r"\frac{1}{2}", r"\frac{", ""]).tolist() == [True, False, False]
