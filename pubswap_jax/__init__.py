"""Federated RLVR in JAX: clients train LoRA adapters by GRPO on private questions, average them, and swap public answers.

The public names are imported on first use: `import pubswap_jax` loads neither JAX nor a verifier.
"""

import importlib

from pubswap_jax._version import __version__ as __version__

_HOMES = {
    "types": "Prompts Rollout Verdict SwapPlan Batch ClientState ServerState Hparams ModelConfig StepRecord Event Timeline "
    "Planner Loss Advantages Normaliser Judge Adapter Aggregator Correction Client Server Channel Federation",
    "records": "Record",
    "algorithm.losses": "masked_mean group_advantages kl_k1 kl_k2 kl_k3 grpo_term gspo_term cispo_term "
    "grpo_loss gspo_loss cispo_loss composed "
    "per_sequence per_token fixed_length",
    "algorithm.swap": "balanced random_swap rescue swap_all max_variance no_swap apply_swap",
    "algorithm.aggregation": "broadcast fedavg mean alone proximal_penalty aggregation_residual",
    "algorithm.robust": "median trimmed_mean norm_clip",
    "algorithm.server_optimizers": "fedopt fedexp buffered",
    "algorithm.robust_pca": "robust_pca",
    "algorithm.product_svd": "product_svd",
    "algorithm.distortion": "one_replacement_distortion distortion_bound",
    "policy.adapter": "lora init_adapter init_basis",
    "policy.families": "ffa_lora ravan",
    "policy.model": "Transformer response_logps",
    "policy.sampling": "sample",
    "algorithm.pubswap": "pubswap",
    "algorithm.fedgrpo": "fedgrpo",
    "algorithm.experts": "Judging expert_advantages",
    "algorithm.client": "make_client",
    "algorithm.server": "make_server",
    "algorithm.corrections": "proximal scaffold",
    "algorithm.fedecado": "fedecado",
    "algorithm.update": "Learning",
    "algorithm.federation": "over_clients round_step direct",
    "algorithm.timeline": "lockstep",
    "policy.toyworld": "toy toy_batches parity_judge toy_targets",
    "questions.problem": "Problem",
    "verifier.score": "score",
    "weights.pretrained": "load_pretrained export_adapter load_adapter merge_adapter",
    "run.pass_at_k": "pass_at_k",
    "loop": "train_and_evaluate",
    "notebook": "train",
    "run.export": "best",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}
__all__ = ["__version__", *_HOME_OF]


def __getattr__(name: str):
    if name not in _HOME_OF:
        raise AttributeError(f"module 'pubswap_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"pubswap_jax.{_HOME_OF[name]}"), name)


def __dir__():
    return sorted(__all__)
