"""Our losses against the released functions of TRL and verl: their recorded results everywhere, the functions themselves where
they are installed. Value and gradient with respect to the log-probs, on ratios on both sides of every clip.
"""

import functools
import importlib.util
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pubswap_jax import Hparams, cispo_loss, group_advantages, grpo_loss, gspo_loss, kl_k1, kl_k2, kl_k3
from pubswap_jax.algorithm.losses import fixed_length, per_sequence, per_token

GOLDEN = pathlib.Path(__file__).parent / "golden"
BETA, DUAL, LENGTH = 0.04, 3.0, 7
HPARAMS = Hparams.create(clip_low=0.2, clip_high=0.28, dual_clip=DUAL, kl_coef=BETA)
# TRL's `epsilon_high` of CISPO is the bound itself, 1.5; ours and verl's are what it exceeds 1 by.
CISPO = Hparams.create(clip_high=0.5)

# verl always clips negative advantages from below; TRL does with `delta`. TRL's min(ρ, δ) also binds on positive advantages,
# but there 1 + ε has bound before.
dual_grpo = functools.partial(grpo_loss, hparams=HPARAMS, dual_clip=True)
plain_grpo = functools.partial(grpo_loss, hparams=HPARAMS)
gspo = functools.partial(gspo_loss, hparams=HPARAMS)
cispo = functools.partial(cispo_loss, hparams=CISPO)

# name -> (ours, normaliser, KL estimator)
OURS = {
    "trl/grpo": (plain_grpo, per_sequence, None),
    "trl/grpo+kl": (plain_grpo, per_sequence, kl_k3),
    "trl/grpo+delta": (dual_grpo, per_sequence, None),
    "trl/bnpo": (plain_grpo, per_token, None),
    "trl/dapo": (plain_grpo, per_token, None),
    "trl/dapo+kl": (plain_grpo, per_token, kl_k3),
    "trl/dr_grpo": (plain_grpo, fixed_length(LENGTH), None),
    "trl/gspo": (gspo, per_sequence, None),
    "trl/gspo+kl": (gspo, per_sequence, kl_k3),
    "trl/cispo": (cispo, per_token, None),
    "verl/token-mean": (dual_grpo, per_token, None),
    "verl/seq-mean-token-mean": (dual_grpo, per_sequence, None),
    "verl/seq-mean-token-sum": (dual_grpo, fixed_length(1), None),
    "verl/seq-mean-token-sum-norm": (dual_grpo, fixed_length(LENGTH), None),
    "verl/token-mean+k1": (dual_grpo, per_token, kl_k1),
    "verl/token-mean+k2": (dual_grpo, per_token, kl_k2),
    "verl/token-mean+k3": (dual_grpo, per_token, kl_k3),
    "verl/gspo": (gspo, per_sequence, None),
    "verl/gspo/token-mean": (gspo, per_token, None),
    "verl/cispo": (cispo, per_token, None),
}


def check(name, given, theirs):
    loss, normalise, kl = OURS[name]
    given = {key: jnp.asarray(value) for key, value in given.items()}
    with_kl = {} if kl is None else {"kl": kl, "ref_logps": given["ref_logps"]}

    def value(logps):
        return loss(logps, given["old_logps"], given["advantages"], given["mask"], normalise=normalise, **with_kl)[0]

    ours, gradient = jax.value_and_grad(value)(given["logps"])
    np.testing.assert_allclose(ours, theirs["loss"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, np.asarray(theirs["gradient"]), rtol=1e-5, atol=1e-5)


def check_advantages(given, scaled, unscaled):
    reward = jnp.asarray(given["reward"])
    np.testing.assert_allclose(group_advantages(reward, scale=False), unscaled["advantages"], atol=1e-5)
    # By definition: verl divides by the sample deviation, we by the population's, which makes Balanced's advantages +1 and -1.
    group = reward.shape[-1]
    np.testing.assert_allclose(group_advantages(reward) * np.sqrt((group - 1) / group), scaled["advantages"], atol=1e-5)


@pytest.fixture(scope="module")
def goldens():
    return json.loads((GOLDEN / "losses.json").read_text())


@pytest.mark.parametrize("name", OURS)
def test_losses_equal_the_recorded_ones_of_the_peers(goldens, name):
    case = goldens["cases"][name]
    check(name, goldens["inputs"][str(case["empty"]).lower()], case)


def test_advantages_equal_the_recorded_ones_up_to_the_deviations_definition(goldens):
    cases = goldens["cases"]
    check_advantages(goldens["inputs"]["false"], cases["verl/advantages"], cases["verl/advantages/unscaled"])


def test_every_recorded_case_is_compared(goldens):
    assert set(goldens["cases"]) - {"verl/advantages", "verl/advantages/unscaled"} == set(OURS)


def test_the_recorded_inputs_reach_every_branch(goldens):
    for given in goldens["inputs"].values():
        given = {key: np.asarray(value) for key, value in given.items()}
        ratio = np.exp(given["logps"] - given["old_logps"])
        sign = np.broadcast_to(np.sign(given["advantages"])[..., None], ratio.shape)
        for reached in (ratio < 0.8, ratio > 1.28, (ratio > 0.8) & (ratio < 1.28)):
            assert {-1, 1} <= set(sign[reached & given["mask"]])
        assert ((ratio > DUAL) & (sign < 0) & given["mask"]).any()


@pytest.fixture(scope="module")
def peers():
    """The script that recorded the goldens; its functions call TRL and verl."""
    spec = importlib.util.spec_from_file_location("make_loss_goldens", GOLDEN / "make_loss_goldens.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in OURS if name.startswith("trl/")])
def test_losses_equal_trl_as_installed(peers, name):
    pytest.importorskip("trl", reason="needs TRL: pip install 'pubswap_jax[parity]'")
    check(name, *peers.run(name, seed=1))


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in OURS if name.startswith("verl/")])
def test_losses_equal_verl_as_installed(peers, name):
    pytest.importorskip(
        "verl.trainer.ppo.core_algos", reason="needs verl: see tests/golden/make_loss_goldens.py", exc_type=ImportError
    )
    check(name, *peers.run(name, seed=1))
