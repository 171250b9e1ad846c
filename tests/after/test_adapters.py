"""Own adapters as blocks of factors: the same ΔW for every family, and mistakes that are named in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import TINY
from small_world import finished

import pubswap_jax as ps
from pubswap_jax.after import adapters, merging
from pubswap_jax.policy.adapter import each_layer, init_adapter, init_basis
from pubswap_jax.policy.model import Transformer
from pubswap_jax.questions.problem import Problem
from pubswap_jax.run.pass_at_k import Evaluation
from pubswap_jax.weights.peft_tensors import layer_arrays
from pubswap_jax.weights.pretrained import param_shapes

FAMILIES = {"lora": ps.lora(2, 5.0), "ffa_lora": ps.ffa_lora(2, 4.0), "ravan": ps.ravan(2, 2)}


def three(config):
    """The basis and three adapters of this config that are not zero."""
    model, shapes = Transformer(config), {"params": param_shapes(config)}
    basis, fresh = init_basis(jax.random.key(1), model, shapes), init_adapter(jax.random.key(0), model, shapes)
    rng = np.random.default_rng(0)
    return basis, [jax.tree.map(lambda x: x + 0.3 * rng.standard_normal(x.shape).astype("f"), fresh) for _ in range(3)]


def deltas(config, basis, adapter):
    """{path of a linear layer: ΔW [in, out] or, scanned, [layers, in, out]}."""
    return each_layer(lambda trained, frozen: {"delta": config.adapter.delta(frozen, trained)}, adapter, basis)


@pytest.mark.parametrize(("family", "scan"), [("lora", True), ("ffa_lora", False), ("ravan", False)])
def test_a_client_or_the_average_as_lora_has_the_same_change(family, scan):
    config = TINY.replace(adapter=FAMILIES[family], scan_layers=scan)
    basis, clients = three(config)
    blocks = adapters.blocks_of(config, [layer_arrays(config, one, basis) for one in clients])
    assert len(blocks) == 2 and all(len(block) == 7 for block in blocks)
    models = {1: [merging.own(block, 1) for block in blocks]}
    models["mean"] = [merging.average()(block, (0, 1, 2)).block for block in blocks]
    each = [deltas(config, basis, one) for one in clients]
    expected = {1: each[1], "mean": jax.tree.map(lambda *x: sum(x) / 3, *each)}
    for name, model in models.items():
        rank = adapters.rank_of(model)
        assert rank == adapters.rank_of([merging.own(block, 0) for block in blocks]) * (1 if name == 1 else 3)
        adapted, adapter = adapters.lora_of(config, model, rank + 1)  # one column of zeros
        jax.tree.map(
            lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-5),
            deltas(adapted, {}, adapter),
            expected[name],
        )


def test_blocks_count_by_the_parameters_of_their_matrices():
    config = TINY.replace(adapter=ps.lora(2, 4.0))
    basis, clients = three(config)
    blocks = adapters.blocks_of(config, [layer_arrays(config, one, basis) for one in clients])
    attention, mlp = 2 * 16 * 32 + 2 * 16 * 16, 3 * 16 * 24
    assert adapters.sizes_of(blocks).tolist() == [attention + mlp] * 2


def with_own(run, own):
    return run._replace(federation=run.federation._replace(own=own))


@pytest.mark.slow
def test_own_adapters_of_a_run_are_those_before_the_averaging():
    run, workdir = finished()
    found = adapters.own_adapters(run, workdir)
    at = adapters.last_state(run, workdir).federation
    assert found.clients == [0, 1, 2] and found.round == 2, "the last round, whichever is the best"
    for ours, theirs in zip(jax.tree.leaves(found.adapters), jax.tree.leaves(at.clients.adapter), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert found.sent == sum(x[0].nbytes for x in jax.tree.leaves(at.clients.adapter))


@pytest.mark.slow
def test_a_run_without_two_adapters_that_differ_is_one_line(monkeypatch):
    run, workdir = finished()
    first = lambda state: jax.tree.map(lambda x: x[:1], state.clients.adapter)  # noqa: E731
    equal = lambda state: jax.tree.map(lambda x: jnp.stack([x[0]] * 3), state.clients.adapter)  # noqa: E731
    for own, message in (
        (lambda state: None, "no client of this run has an adapter of its own"),
        (first, "it has one client's adapter, and two or more are needed"),
        (equal, "the adapters of its 3 clients are equal; give a run with federation.average=False"),
    ):
        changed = with_own(run, own)
        monkeypatch.setattr(adapters, "with_own", lambda run, at, own=own: list(range(1 if own is first else 3)))
        with pytest.raises(ValueError, match=message) as error:
            adapters.own_adapters(changed, workdir)
        assert "\n" not in str(error.value)
    monkeypatch.setattr(adapters, "place_of", lambda run, number: (0, 0))
    with pytest.raises(ValueError, match="no round of it has ended, and so no adapter is trained"):
        adapters.own_adapters(run, workdir)


def test_accuracy_weighs_topics_by_the_clients_questions():
    problems = [Problem(str(i), "", "", "ab"[i > 1], "") for i in range(3)]
    found = Evaluation(problems, np.array([[1, 1], [0, 1], [0, 0]], bool), np.full((3, 2), ""), np.ones((3, 2)))
    assert adapters.accuracy(found, {"a": 1.0}) == 0.75
    assert adapters.accuracy(found, {"a": 0.5, "b": 0.25, "c": 0.25}) == pytest.approx(0.5)  # (0.5 · 0.75 + 0.25 · 0) / 0.75
    assert adapters.accuracy(found, {"c": 1.0}) == pytest.approx(0.5)
    run, _ = finished()
    shares = adapters.mixture(run, 0)
    assert set(shares) <= {"nought", "one", "two"} and sum(shares.values()) == pytest.approx(1)
