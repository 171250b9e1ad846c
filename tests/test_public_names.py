"""The public names: each can be imported from the package, none is hidden by a module, and the snippet of the design runs."""

import importlib
import pathlib
import pkgutil
import subprocess
import sys
import types

import jax.numpy as jnp
import pytest

import pubswap_jax

PACKAGE = pathlib.Path(pubswap_jax.__file__).parent

TYPES = """
Prompts Rollout Verdict SwapPlan Batch ClientState ServerState Hparams ModelConfig Event Record StepRecord
Planner Loss Advantages Normaliser Judge Correction Aggregator Adapter Timeline Client Server Channel Federation
"""
SIGNATURES = """
pubswap round_step over_clients grpo_term gspo_term cispo_term proximal scaffold fedecado
mean alone median trimmed_mean norm_clip robust_pca fedopt fedexp product_svd buffered lora ffa_lora ravan
"""
FUNCTIONS = """
masked_mean group_advantages kl_k1 kl_k2 kl_k3 grpo_loss gspo_loss cispo_loss per_sequence per_token fixed_length
balanced random_swap rescue swap_all max_variance no_swap apply_swap broadcast fedavg proximal_penalty aggregation_residual
one_replacement_distortion distortion_bound Transformer init_adapter response_logps sample toy toy_batches parity_judge
toy_targets Problem score load_pretrained export_adapter load_adapter merge_adapter pass_at_k train train_and_evaluate best
"""
NAMES = sorted({name for text in (TYPES, SIGNATURES, FUNCTIONS) for name in text.split()})

SNIPPET = """
import jax, optax, pubswap_jax as ps
model, base, adapter = ps.toy(jax.random.key(0))
federation = ps.pubswap(model, optax.scale_by_adam(eps_root=1e-16), num_clients=4, group=8)
batches = ps.toy_batches(jax.random.key(1), num_clients=4)
def heldout(hparams, weights):
    state, _ = ps.round_step(federation, base, federation.init(adapter), batches, ps.parity_judge, jax.random.key(2), hparams, weights)
    return -ps.response_logps(model, base, federation.shared(state), *ps.toy_targets).mean()
"""  # noqa: E501 the design writes the round in one line


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_the_design_is_public(name):
    assert name in pubswap_jax.__all__ and getattr(pubswap_jax, name) is not None


def test_no_public_name_is_a_module_whatever_was_imported_before():
    """Python binds an imported submodule as an attribute of its package, over a public name of the same spelling."""
    for module in pkgutil.walk_packages([str(PACKAGE)], "pubswap_jax."):
        importlib.import_module(module.name)
    directly = {path.stem for path in PACKAGE.iterdir()}
    for name in pubswap_jax.__all__:
        assert not isinstance(getattr(pubswap_jax, name), types.ModuleType) and name not in directly, name
    assert set(pubswap_jax.__all__) == set(dir(pubswap_jax))


def test_importing_the_package_loads_no_jax():
    code = "import sys, pubswap_jax; sys.exit('jax' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_the_snippet_of_the_design_runs_as_it_is_written():
    names = {}
    exec(SNIPPET, names)
    hparams = names["ps"].Hparams.create(lr=1e-2)
    before = -names["ps"].response_logps(names["model"], names["base"], names["adapter"], *names["ps"].toy_targets).mean()
    after = names["jax"].jit(names["heldout"])(hparams, jnp.ones(4))
    assert jnp.isfinite(after) and after.shape == () and after != before
