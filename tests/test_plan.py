"""The plan's bytes are those of the arrays, and where it does not fit it says what would."""

import jax
import pytest
from small_world import finished

from pubswap_jax import plan


@pytest.fixture(scope="module")
def need():
    run, _ = finished()
    return plan.needed(run.config, plan._model_config(run.config))


def test_bytes_by_hand(need):
    run, _ = finished()
    clients = run.algorithm.init_clients(run.server)
    size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))  # noqa: E731
    assert need["base"] == size(run.params)
    assert need["adapters of 3 clients"] == size(clients.lora) + size(run.server.lora)
    assert need["their moments"] == size(clients.opt_state)
    assert need["peak"] > need["base"] + need["adapters of 3 clients"] + need["their moments"]


def test_a_plan_that_fits_and_one_that_does_not(need, monkeypatch):
    run, _ = finished()
    monkeypatch.setattr(plan, "needed", lambda config, _: need | {"peak": 2000 - 500 * config.training.client_microbatch})
    monkeypatch.setattr(plan, "memory", lambda: (4000, "host"))
    text = plan.plan(run.config)
    assert text.endswith("it fits") and "updates of a round" in text and "2.0 kB" in text
    monkeypatch.setattr(plan, "memory", lambda: (1700, "host"))
    lines = plan.plan(run.config).splitlines()
    assert lines[-5] == "it does not fit; the three settings that help most:"
    assert lines[-4] == "  --config.training.client_microbatch=1: peak 1.5 kB" and lines[-1].endswith("1.5 kB, which fits")


def test_time_grows_with_what_is_asked():
    run, _ = finished()
    config = run.config.copy_and_resolve_references()
    one = plan.round_seconds(config, run.model_config, 1e9, 1e9)
    config.federation.steps *= 2
    assert plan.round_seconds(config, run.model_config, 1e9, 1e9) == {name: 2 * value for name, value in one.items()}
    rate, bandwidth = plan.measured("float32", size=128, repeats=2)
    assert rate > 1e6 and bandwidth > 1e6


def test_savings_are_only_what_is_not_saved_yet():
    config = finished()[0].config.copy_and_resolve_references()
    names = [name for name, _ in plan.savings(config)]
    assert names == [
        "model.remat",
        "model.dtype",
        "training.client_microbatch",
        "training.microbatch",
        "data.max_prompt_tokens",
    ]
    config.training.group, config.training.client_microbatch, config.model.dtype = 8, 1, "bfloat16"
    names = [name for name, _ in plan.savings(config)]
    assert names == ["model.remat", "training.microbatch", "data.max_prompt_tokens", "training.group"]
