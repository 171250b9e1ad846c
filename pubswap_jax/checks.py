"""Checks before a model or data is loaded: values that exclude each other, missing packages, and the names that other tools
use for fields."""

import importlib.util
from collections.abc import Mapping
from typing import Any

from pubswap_jax import expert_checks
from pubswap_jax.field_table import LINEAR_LAYERS, PLAIN_DESCENT

# {field: the names that other tools use for it}
ALIASES = {
    "seed": "random_seed rng_seed manual_seed",
    "model.path": "model model_name model_id model_path model_name_or_path base_model pretrained_model_name_or_path",
    "model.dtype": "dtype precision torch_dtype bf16 fp16",
    "model.lora_rank": "lora_r lora_dim rank r",
    "model.lora_targets": "target_modules lora_target_modules lora_target",
    "model.remat": "gradient_checkpointing activation_checkpointing",
    "data.name": "dataset dataset_name datasets",
    "data.path": "data_path data_files train_file train_files dataset_path train_path",
    "data.test_path": "test_file val_files eval_file test_files",
    "data.max_prompt_tokens": "max_prompt_length prompt_length max_seq_length max_length",
    "data.alpha": "dirichlet dirichlet_alpha",
    "federation.num_clients": "clients n_clients num_workers",
    "reward.functions": "reward_funcs reward_functions",
    "reward.weights": "reward_weights",
    "federation.participants": "clients_per_round fraction_fit participation",
    "federation.rounds": "num_epochs epochs num_train_epochs num_rounds n_rounds max_steps total_steps",
    "federation.steps": "tau local_steps local_epochs steps_per_round inner_steps",
    "federation.swap_period": "p period",
    "training.group": "num_generations group_size num_samples n k rollout_n",
    "training.prompts": "batch_size train_batch_size per_device_train_batch_size global_batch_size",
    "training.microbatch": "micro_batch_size gradient_accumulation_steps accumulation_steps",
    "training.max_new_tokens": "max_tokens max_completion_length max_response_length max_gen_len",
    "training.lr": "learning_rate step_size",
    "training.warmup": "warmup_steps num_warmup_steps warmup_ratio",
    "training.clip_norm": "max_grad_norm grad_clip gradient_clip",
    "training.weight_decay": "wd decay",
    "training.clip_low": "epsilon eps cliprange clip_range clip_eps clip",
    "training.clip_high": "epsilon_high cliprange_high clip_ratio_high",
    "training.kl": "kl_estimator kl_penalty kl_loss_type",
    "training.kl_coef": "beta kl_beta kl_weight kl_loss_coef",
    "training.prox_coef": "mu proximal_mu",
    "training.inner_epochs": "num_iterations ppo_epochs",
    "evaluation.every": "eval_steps eval_every eval_interval",
    "evaluation.greedy": "do_sample",
    "checkpoint.steps": "save_steps save_every save_interval",
    "checkpoint.keep": "save_total_limit max_to_keep",
    "log.wandb": "wandb_project report_to project",
}
FIELD_OF = {alias: field for field, aliases in ALIASES.items() for alias in aliases.split()}


def field_of(name: str) -> str:
    """The config's field that another tool calls `name`, with or without a section; empty if no tool is known to use it."""
    return FIELD_OF.get(name.split(".")[-1].lower().replace("-", "_"), "")


def together(flat: Mapping[str, Any]) -> str:
    """One line about the first value that is impossible beside the others; empty if all values can stand together."""
    group, prompts, part = flat["training.group"], flat["training.prompts"], flat["training.microbatch"]
    if group < 2:
        return f"training.group={group}: at least 2 expected, since advantages compare responses"
    if part and prompts % part:
        return f"training.microbatch={part}: it must divide config.training.prompts={prompts}"
    clients, some = flat["federation.num_clients"], flat["training.client_microbatch"]
    if some and clients % some:
        return f"training.client_microbatch={some}: it must divide config.federation.num_clients={clients}"
    if flat["training.kl_in"] == "reward" and flat["training.kl"] != "k1":
        return (
            f"training.kl_in=reward: config.training.kl=k1 expected, not {flat['training.kl']}; in the reward k1 alone has the "
            "gradient of the KL divergence"
        )
    if flat["federation.participants"] > clients:
        return f"federation.participants={flat['federation.participants']}: there are {clients} clients"
    needed, there = 2 * flat["federation.trim"] + 1, flat["federation.participants"] or clients
    if flat["federation.aggregate"] == "trimmed_mean" and there < needed:
        return f"federation.trim={flat['federation.trim']}: trimmed_mean needs {needed} clients, and {there} take part"
    rules = (_plain, asynchronous, expert_checks.impossible, _family_of_rule, _partial_heads, _gain)
    return next(filter(None, (rule(flat) for rule in rules)), "") or targets(flat["model.lora_targets"])


def asynchronous(flat: Mapping[str, Any]) -> str:
    """One line about a setting that asynchronous clients exclude; empty if there is none."""
    method, clients = flat["federation.method"], flat["federation.num_clients"]
    if flat["federation.swap"] == "sapo" and not flat["federation.foreign"] <= flat["training.group"]:
        return f"federation.foreign={flat['federation.foreign']}: at most training.group={flat['training.group']} expected"
    if method not in ("fedbuff", "fedrevive"):
        return ""
    for name, value, why in _LOCKSTEP:
        if flat[name] != value:
            return f"{name}={flat[name]}: {why} with federation.method={method}; set {name}={value}"
    if method == "fedrevive" and flat["federation.swap_period"]:
        return f"federation.swap_period={flat['federation.swap_period']}: fedrevive distils on the public questions; set 0"
    if method == "fedrevive" and not flat["data.public"] and not flat["data.public_path"]:
        return "data.public=0.0: fedrevive distils on public questions; raise data.public, or give data.public_path"
    try:
        given = speeds(flat["federation.speeds"])
    except ValueError:
        return f"federation.speeds={flat['federation.speeds']}: numbers joined by commas expected, e.g. 1,4"
    if not all(0 <= speed < float("inf") for speed in given) or not any(given):
        return f"federation.speeds={flat['federation.speeds']}: numbers from 0, and one above 0, expected"
    jobs = flat["federation.jobs"] or clients
    if jobs > clients:
        return f"federation.jobs={jobs}: there are {clients} clients"
    if flat["federation.free"] > jobs:
        return f"federation.free={flat['federation.free']}: {jobs} clients train at a time; lower federation.free"
    return ""


# Settings that need all clients in lockstep: (field, value without lockstep, why).
_LOCKSTEP = (
    ("federation.average", True, "clients share one adapter"),
    ("federation.participants", 0, "federation.jobs says how many clients train"),
    ("federation.heads", "", "clients train all heads"),
)


def _plain(flat: Mapping[str, Any]) -> str:
    rule = flat["federation.aggregate"]
    if rule not in PLAIN_DESCENT:
        return ""
    for name in ("training.clip_norm", "training.weight_decay"):
        if flat[name]:
            return f"{name}={flat[name]}: {rule} reads its clients' steps as times, which this would change; set {name}=0"
    if flat["federation.weights"] != "uniform":
        return f"federation.weights={flat['federation.weights']}: {rule} takes all clients' shares as equal; set uniform"
    return ""


def _family_of_rule(flat: Mapping[str, Any]) -> str:
    family = flat["model.adapter"]
    if flat["federation.aggregate"] == "product_svd" and family != "lora":
        return f"federation.aggregate=product_svd: it cuts LoRA's products; set model.adapter=lora, not {family}, or take mean"
    return ""


def heads(text: str) -> tuple[int, ...]:
    """Parses `federation.heads`, such as 4,4,1: heads of each client. A ValueError unless whole numbers joined by commas."""
    return tuple(int(part) for part in text.split(",")) if text.strip() else ()


def _partial_heads(flat: Mapping[str, Any]) -> str:
    text, clients, most = flat["federation.heads"], flat["federation.num_clients"], flat["model.heads"]
    if not text.strip():
        return ""
    try:
        counts = heads(text)
    except ValueError:
        return f"federation.heads={text}: whole numbers joined by commas expected, such as 4,4,1"
    if len(counts) != clients or not all(1 <= count <= most for count in counts):
        return f"federation.heads={text}: {clients} numbers expected, one a client, each 1 to model.heads={most}"
    needed = {"model.adapter": "ravan", "federation.average": True, "federation.aggregate": "mean"}
    wrong = next((name for name, value in needed.items() if flat[name] != value), None)
    return f"federation.heads={text}: it needs {wrong}={needed[wrong]}, not {flat[wrong]}" if wrong else ""


def _gain(flat: Mapping[str, Any]) -> str:
    method = flat["federation.method"]
    if flat["federation.weights"] == "gain" and method != "pubswap":
        return f"federation.weights=gain: all clients must end a round together, unlike federation.method={method}; set uniform"
    every = flat["federation.swap_period"] == 1 and flat["federation.swap_unit"] != "extra"
    if flat["federation.weights"] != "gain" or not every:
        return ""
    return (
        "federation.weights=gain: it compares rewards of private steps, and federation.swap_period=1 makes every step public; "
        "raise swap_period, or set federation.weights=uniform"
    )


def speeds(text: str) -> tuple[float, ...]:
    """Parses `federation.speeds`, the clients' steps per unit of time; a ValueError names the entry that is not a speed."""
    return tuple(float(speed) for speed in text.split(","))


def layers(text: str) -> tuple[str, ...]:
    """Parses `model.lora_targets`: the layers that get an adapter, all, those of the attention, or names joined by commas."""
    named = {"all": LINEAR_LAYERS, "attention": LINEAR_LAYERS[:4]}
    return named.get(text) or tuple(name.strip() for name in text.split(","))


def targets(text: str) -> str:
    """One line about the first unknown layer in `model.lora_targets`; empty if all layers exist."""
    wrong = next((name for name in layers(text) if name not in LINEAR_LAYERS), None)
    return "" if wrong is None else f"model.lora_targets: {wrong!r} is none of all, attention, {', '.join(LINEAR_LAYERS)}"


def missing_package(flat: Mapping[str, Any]) -> str:
    """One line about the first package that training needs and that is not installed; empty if all are installed."""
    wanted = {"wandb": ("log.wandb", bool(flat["log.wandb"]), "wandb")}
    wanted["tensorboardX"] = ("log.tensorboard", flat["log.tensorboard"] == "on", "tensorboard")
    for package, (field, asked, extra) in wanted.items():
        if asked and importlib.util.find_spec(package) is None:
            return f"{field}={flat[field]}: {package} is not installed; pip install 'pubswap_jax[{extra}]'"
    return ""
