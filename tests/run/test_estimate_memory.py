"""The peak holds the largest of rollout, update and evaluation, and on a host the program itself."""

import pytest
from small_world import config_of, finished

from pubswap_jax import system
from pubswap_jax.run import estimate, estimate_memory, policy


@pytest.fixture(scope="module")
def needs():
    """What is needed with few evaluation samples, and with many."""
    run, _ = finished()
    few, many = (config_of(run, evaluation__samples=samples, evaluation__clients=False) for samples in (2, 4096))
    return [estimate_memory.needed(config, policy.model_of(config)) for config in (few, many)]


@pytest.mark.slow
def test_an_evaluation_of_many_samples_makes_the_peak(needs):
    few, many = needs
    name = "while evaluating: caches and the rest"
    assert many[name] > 5 * few[name] and many[name] > many["while updating: activations and the rest"]
    own = "this program and its compiler"
    assert many[estimate.PEAK] - many[own] > few[estimate.PEAK] - few[own]
    assert many[estimate.PEAK] - many[own] > many[name]


@pytest.mark.slow
def test_a_host_holds_the_program_itself(needs):
    assert 50e6 < needs[0]["this program and its compiler"] <= system.peak_bytes()
