"""What TRL's and verl's released losses say of small random inputs: losses.json, which test_grpo_parity.py holds ours against.

    python tests/golden/make_loss_goldens.py

needs torch, trl and verl (verl without its dependencies: `pip install --no-deps verl`, then ray tensordict omegaconf hydra-core
codetiming orjson). Their own functions are called, in float64, and differentiated by torch; nothing of them is copied here.
"""

import json
import pathlib
import sys
import types

import numpy as np

OUTPUT = pathlib.Path(__file__).with_name("losses.json")
EPS_LOW, EPS_HIGH, BETA, DUAL = 0.2, 0.28, 0.04, 3.0
CISPO_HIGH = 1.5  # the largest ratio that CISPO lets through


def inputs(seed: int, empty: bool) -> dict[str, np.ndarray]:
    """B = 2 prompts, G = 4 responses, R = 7 tokens, ratios beyond every clip; with `empty`, one response has no token."""
    rng = np.random.default_rng(seed)
    batch, group, length = 2, 4, 7
    old = -rng.gamma(2.0, 0.7, (batch, group, length))
    lengths = rng.integers(1, length + 1, (batch, group))
    lengths[0, 0], lengths[1, 3] = length, 0 if empty else 1
    ratio = rng.choice([0.1, 0.7, 0.9, 1.0, 1.1, 1.25, 1.4, 2.0, 4.5], (batch, group, length)) * rng.uniform(
        0.97, 1.03, old.shape
    )
    return {
        "logps": old + np.log(ratio),
        "old_logps": old,
        "ref_logps": old + rng.normal(0, 0.3, old.shape),
        "advantages": rng.normal(0, 1, (batch, group)),
        "mask": np.arange(length) < lengths[..., None],
        "reward": rng.integers(0, 2, (batch, group)).astype(float),
    }


def _tensors(given: dict[str, np.ndarray]) -> dict:
    import torch

    rows = {name: torch.tensor(value).flatten(0, 1) for name, value in given.items()}
    return rows | {"logps": rows["logps"].requires_grad_(), "mask": rows["mask"].double()}


def _with_gradient(loss, logps, shape) -> dict:
    loss.backward()
    return {"loss": loss.item(), "gradient": logps.grad.reshape(shape).tolist()}


def trl(given, *, loss_type, level="token", beta=0.0, delta=None, epsilon_high=EPS_HIGH) -> dict:
    """`GRPOTrainer._compute_loss` itself, on a stand-in for the trainer which hands it our log-probs instead of a model's."""
    import collections

    import torch
    from trl import GRPOTrainer

    t = _tensors(given)
    trainer = types.SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (t["logps"], torch.zeros_like(t["logps"]), None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=level,
        beta=beta,
        epsilon_low=EPS_LOW,
        epsilon_high=epsilon_high,
        args=types.SimpleNamespace(delta=delta, use_bias_correction_kl=False, steps_per_generation=1),
        loss_type=loss_type,
        use_vllm=False,
        model=types.SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        max_completion_length=t["logps"].shape[1],
        _entropy_bonus_enabled=False,
        accelerator=types.SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        _metrics={"train": collections.defaultdict(list)},
    )
    ids = torch.zeros(t["logps"].shape, dtype=torch.long)
    batch = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": torch.ones_like(ids[:, :1]),
        "completion_ids": ids,
        "completion_mask": t["mask"],
        "advantages": t["advantages"],
        "old_per_token_logps": t["old_logps"],
        "ref_per_token_logps": t["ref_logps"],
        "num_items_in_batch": t["mask"].sum(),
    }
    return _with_gradient(GRPOTrainer._compute_loss(trainer, None, batch), t["logps"], given["logps"].shape)


def verl(given, *, loss="vanilla", mode, kl=None, **clips) -> dict:
    """verl's registered policy loss, plus its KL penalty aggregated in the same way, as its actor adds them up."""
    from verl.trainer.ppo import core_algos
    from verl.workers.config import ActorConfig

    t = _tensors(given)
    fields = {"clip_ratio_low": EPS_LOW, "clip_ratio_high": EPS_HIGH, "clip_ratio_c": DUAL} | clips
    config = ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, **fields)
    advantages = t["advantages"][:, None].expand_as(t["logps"])
    compute = core_algos.get_policy_loss_fn(loss)
    total, _ = compute(t["old_logps"], t["logps"], advantages, t["mask"], loss_agg_mode=mode, config=config)
    if kl is not None:
        penalty = core_algos.kl_penalty(t["logps"], t["ref_logps"], kl)
        total = total + BETA * core_algos.agg_loss(penalty, t["mask"], loss_agg_mode=mode)
    return _with_gradient(total, t["logps"], given["logps"].shape)


def verl_advantages(given, *, scale: bool) -> dict:
    """verl's GRPO advantages of one reward a response, [B, G]."""
    import torch
    from verl.trainer.ppo import core_algos

    batch, group, length = given["mask"].shape
    rewards = torch.zeros(batch * group, length, dtype=torch.float64)
    rewards[:, 0] = torch.tensor(given["reward"]).flatten()
    index = np.repeat(np.arange(batch), group)
    out, _ = core_algos.compute_grpo_outcome_advantage(rewards, torch.ones_like(rewards), index, norm_adv_by_std_in_grpo=scale)
    return {"advantages": out[:, 0].reshape(batch, group).tolist()}


# name -> (peer, its arguments, whether a response without tokens is among the inputs). verl leaves such responses out of its
# means, TRL and we count them as sequences of loss 0: verl's cases have none.
CASES = {
    "trl/grpo": (trl, {"loss_type": "grpo"}, True),
    "trl/grpo+kl": (trl, {"loss_type": "grpo", "beta": BETA}, True),
    "trl/grpo+delta": (trl, {"loss_type": "grpo", "delta": DUAL}, True),
    "trl/bnpo": (trl, {"loss_type": "bnpo"}, True),
    "trl/dapo": (trl, {"loss_type": "dapo"}, True),
    "trl/dapo+kl": (trl, {"loss_type": "dapo", "beta": BETA}, True),
    "trl/dr_grpo": (trl, {"loss_type": "dr_grpo"}, True),
    "trl/gspo": (trl, {"loss_type": "grpo", "level": "sequence"}, True),
    "trl/gspo+kl": (trl, {"loss_type": "grpo", "level": "sequence", "beta": BETA}, True),
    "trl/cispo": (trl, {"loss_type": "cispo", "epsilon_high": CISPO_HIGH}, True),
    "verl/token-mean": (verl, {"mode": "token-mean"}, False),
    "verl/seq-mean-token-mean": (verl, {"mode": "seq-mean-token-mean"}, False),
    "verl/seq-mean-token-sum": (verl, {"mode": "seq-mean-token-sum"}, False),
    "verl/seq-mean-token-sum-norm": (verl, {"mode": "seq-mean-token-sum-norm"}, False),
    "verl/token-mean+k1": (verl, {"mode": "token-mean", "kl": "k1"}, False),
    "verl/token-mean+k2": (verl, {"mode": "token-mean", "kl": "k2"}, False),
    "verl/token-mean+k3": (verl, {"mode": "token-mean", "kl": "k3"}, False),
    "verl/gspo": (verl, {"loss": "gspo", "mode": "seq-mean-token-mean"}, False),
    "verl/gspo/token-mean": (verl, {"loss": "gspo", "mode": "token-mean"}, False),
    # Lower bound 1 - 1 = 0: none, as in the paper and in ours.
    "verl/cispo": (
        verl,
        {"loss": "cispo", "mode": "token-mean", "clip_ratio_low": 1.0, "clip_ratio_high": CISPO_HIGH - 1},
        False,
    ),
    "verl/advantages": (verl_advantages, {"scale": True}, False),
    "verl/advantages/unscaled": (verl_advantages, {"scale": False}, False),
}


def run(name: str, seed: int) -> tuple[dict[str, np.ndarray], dict]:
    """A case's inputs and what the peer makes of them."""
    peer, arguments, empty = CASES[name]
    given = inputs(seed, empty)
    return given, peer(given, **arguments)


def main():
    from importlib.metadata import version

    about = {
        "command": "python tests/golden/make_loss_goldens.py",
        "releases": {name: version(name) for name in ("torch", "trl", "verl")},
        "seed": 0,
    }
    given = {
        str(empty).lower(): {name: np.asarray(value).tolist() for name, value in inputs(0, empty).items()}
        for empty in (True, False)
    }
    cases = {name: {"empty": CASES[name][2]} | run(name, 0)[1] for name in CASES}
    rounded = json.loads(json.dumps({"inputs": given, "cases": cases}), parse_float=lambda text: float(f"{float(text):.12g}"))
    OUTPUT.write_text(json.dumps({"about": about, **rounded}, separators=(",", ":")) + "\n")
    print(f"{OUTPUT}: {len(cases)} cases, {OUTPUT.stat().st_size:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
