"""Settings that have no effect beside the others: each is refused before a run begins, since its user expects one."""

from collections.abc import Mapping
from typing import Any

from pubswap_jax import expert_checks
from pubswap_jax.field_table import CORRECTIONS, DEFAULT


def without_effect(flat: Mapping[str, Any]) -> str:
    """One line with the first setting that has no effect, and the fix; empty if every setting has an effect."""
    rules = (
        _idle_kl,
        _idle_asynchronous,
        expert_checks.idle,
        _idle_alone,
        _idle_rule,
        _idle_family,
        _idle_loss,
        _idle_flat,
        _idle_swap,
        _idle_test,
    )
    return next(filter(None, (rule(flat) for rule in rules)), "")


def _idle_kl(flat: Mapping[str, Any]) -> str:
    estimator, weight = flat["training.kl"], flat["training.kl_coef"]
    if estimator == "none" and weight:
        return f"training.kl_coef={weight}: no effect without an estimator; set training.kl=k3 (or k1, k2), or kl_coef=0"
    if estimator != "none" and not weight:
        return f"training.kl={estimator}: no effect with training.kl_coef=0; set training.kl_coef, or training.kl=none"
    return ""


def _idle_asynchronous(flat: Mapping[str, Any]) -> str:
    for name, methods in _OF_METHODS.items():
        usual = DEFAULT[name]
        if flat[name] != usual and flat["federation.method"] not in methods:
            return f"{name}={flat[name]}: no effect with federation.method={flat['federation.method']}; set {name}={usual}"
    foreign, usual = flat["federation.foreign"], DEFAULT["federation.foreign"]
    if foreign != usual and flat["federation.swap"] != "sapo":
        return f"federation.foreign={foreign}: no effect without federation.swap=sapo; set it to {usual}"
    return ""


# Settings of asynchronous clients: field -> the methods that read it.
_OF_METHODS = {
    "federation.speeds": ("fedbuff", "fedrevive"),
    "federation.jobs": ("fedbuff", "fedrevive"),
    "federation.buffer": ("fedbuff", "fedrevive"),
    "federation.free": ("fedbuff", "fedrevive"),
    "federation.staleness_decay": ("fedbuff",),
    "federation.s_max": ("fedrevive",),
    "federation.distil_steps": ("fedrevive",),
    "federation.distil_lr": ("fedrevive",),
    "federation.distil_responses": ("fedrevive",),
}


def _idle_alone(flat: Mapping[str, Any]) -> str:
    if flat["federation.average"]:
        return ""
    for name, value, idle in _ALONE:
        if flat[name] == value:
            return f"{name}={value}: no effect with federation.average=False; set {name}={idle}, or federation.average=True"
    if flat["training.prox_coef"]:
        return (
            f"training.prox_coef={flat['training.prox_coef']}: it pulls towards the average that a round starts from, and "
            f"federation.average=False makes none; set training.prox_coef=0, or federation.average=True"
        )
    return ""


# Values that have no effect without averaging: (field, value without effect, value to set instead).
_ALONE = (
    ("federation.weights", "size", "uniform"),
    ("federation.weights", "gain", "uniform"),
    ("federation.moments", "average", "reset"),
    ("evaluation.greedy", True, False),
)


def _idle_rule(flat: Mapping[str, Any]) -> str:
    rule = flat["federation.aggregate"]
    if rule != "mean" and not flat["federation.average"]:
        return f"federation.aggregate={rule}: no effect with federation.average=False; set federation.aggregate=mean"
    if rule in CORRECTIONS and flat["training.prox_coef"]:
        return f"training.prox_coef={flat['training.prox_coef']}: no effect with federation.aggregate={rule}; set it to 0"
    for name, rules in _OF_RULES.items():
        if flat[name] != DEFAULT[name] and rule not in rules:
            return f"{name}={flat[name]}: no effect with federation.aggregate={rule}; it belongs to {', '.join(rules)}"
    return ""


# Settings of aggregation rules: field -> the rules that read it.
_OF_RULES = {
    "federation.trim": ("trimmed_mean",),
    "federation.clip_norm": ("norm_clip",),
    "federation.beta": ("robust_pca",),
    "federation.server_lr": ("fedavgm", "fedadam", "fedyogi"),
    "federation.server_momentum": ("fedavgm",),
    "federation.gamma": ("fedecado",),
}


def _idle_family(flat: Mapping[str, Any]) -> str:
    for name in ("model.heads", "model.bases"):
        if flat[name] != DEFAULT[name] and flat["model.adapter"] != "ravan":
            return f"{name}={flat[name]}: no effect with model.adapter={flat['model.adapter']}; it belongs to ravan"
    return ""


def _idle_loss(flat: Mapping[str, Any]) -> str:
    truncation, buffer, longest = (flat[f"training.{name}"] for name in ("truncation", "truncation_buffer", "max_new_tokens"))
    if (truncation == "penalise") != (buffer > 0) or buffer > longest:
        return (
            f"training.truncation={truncation} and training.truncation_buffer={buffer}: penalise needs a buffer of 1 to "
            f"training.max_new_tokens={longest}, the others need 0"
        )
    if flat["training.dual_clip"] and flat["training.loss"] == "cispo":
        return f"training.dual_clip={flat['training.dual_clip']}: cispo has no such bound; set training.dual_clip=0"
    return ""


def _idle_flat(flat: Mapping[str, Any]) -> str:
    what, times = flat["training.zero_variance"], flat["training.resamples"]
    if what != "resample":
        if times == DEFAULT["training.resamples"]:
            return ""
        return f"training.resamples={times}: no effect with training.zero_variance={what}; it belongs to resample"
    for name, idle, why in (
        ("federation.method", flat["federation.method"] != "pubswap", "pubswap alone draws questions again"),
        ("federation.swap_period", flat["federation.swap_period"] == 1, "every step is public, and private ones draw again"),
    ):
        if idle:
            return f"training.zero_variance=resample: no effect with {name}={flat[name]}, since {why}; set zero_variance=keep"
    return ""


def _idle_swap(flat: Mapping[str, Any]) -> str:
    period, weight = flat["federation.swap_period"], flat["training.swap_weight"]
    if weight != 1 and (not period or flat["federation.swap"] == "no_swap"):
        idle = "federation.swap=no_swap" if period else "federation.swap_period=0"
        return f"training.swap_weight={weight}: no response is swapped with {idle}; set training.swap_weight=1"
    if flat["federation.swap_unit"] != "step" and not period:
        unit = flat["federation.swap_unit"]
        return f"federation.swap_unit={unit}: no step is public with federation.swap_period=0; set federation.swap_unit=step"
    return ""


def _idle_test(flat: Mapping[str, Any]) -> str:
    if not flat["data.path"] or not flat["data.test_name"]:
        return ""
    return (
        f"data.test_name={flat['data.test_name']}: no effect with data.path, which replaces the hub's questions; set "
        "data.test_name to an empty text, or name files with test questions in data.test_path"
    )
