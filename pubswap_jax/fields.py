"""Every field of a config: its default, what it means and where it comes from.

The table in configs/README.md is printed from here: `python -m pubswap_jax.fields`.
"""

import textwrap
from typing import Any, NamedTuple

from ml_collections import ConfigDict

PAPER, READING, OURS = "paper", "reading", "ours"  # certain (METHOD.md, K); our reading of the paper (R); our own


class Field(NamedTuple):
    name: str
    default: Any
    meaning: str
    source: str
    choices: tuple[str, ...] = ()


FIELDS = (
    Field("seed", 0, "of everything random: data, adapters, sampling, swaps", OURS),
    Field("compilation_cache", "", "a folder for compiled programs, so that a second start compiles less; empty: none", OURS),
    Field("model.path", "", "a Hugging Face folder, or a name on the hub; empty: the embedded model", OURS),
    Field("model.dtype", "float32", "of the base's parameters and computation", OURS, ("float32", "bfloat16")),
    Field("model.lora_rank", 32, "LoRA's rank", PAPER),
    Field("model.lora_alpha", 64.0, "LoRA's alpha; the scale is alpha / rank", PAPER),
    Field("model.lora_targets", "all", "adapted layers: all, attention, or names joined by commas", READING),
    Field("model.remat", "none", "what the backward pass recomputes", OURS, ("none", "block")),
    Field("model.scan_layers", False, "one compiled block for all layers in the update: compiles faster", OURS),
    Field("model.system", "", "the system prompt", OURS),
    Field("model.instruction", "default", "how to answer, after each question; 'default': that of its kind", OURS),
    Field("model.thinking", "default", "Qwen3's enable_thinking", OURS, ("default", "on", "off")),
    Field("data.name", "homework", "homework, homework_hard, homework_choice (embedded), or hub sets joined by +", PAPER),
    Field(
        "data.path",
        "",
        "JSONL, JSON, CSV, TSV (or .gz) or parquet files with the questions, or patterns, joined by commas; replaces data.name",
        OURS,
    ),
    Field("data.test_path", "", "the same for the test questions, whatever the others are; empty: drawn from them", OURS),
    Field("data.test_name", "", "a hub set whose test split is asked; empty: that of data.name", OURS),
    Field(
        "data.fields",
        ConfigDict(),
        "which column, or columns, hold which field of a question: see pubswap_jax.questions.sources.Fields",
        OURS,
    ),
    Field(
        "data.max_prompt_tokens",
        512,
        "longer questions are left out, and counted; with training.max_new_tokens within the base's context",
        OURS,
    ),
    Field("data.max_questions", 0, "training questions kept, the first ones; 0: all", OURS),
    Field(
        "data.test",
        512,
        "test questions at most; 0: the whole test file or split, or without one a tenth of the training questions",
        OURS,
    ),
    Field("data.validation", 256, "questions set aside to choose the best round by", OURS),
    Field("data.public", 0.02, "share of the training questions that is public", READING),
    Field("data.public_path", "", "a file (or several) with the public questions; data.public counts no more", READING),
    Field(
        "data.partition",
        "dirichlet",
        "how the others are dealt to the clients",
        PAPER,
        ("iid", "dirichlet", "by_topic", "size_skew", "natural"),
    ),
    Field("data.alpha", 0.3, "Dirichlet's concentration: small gives a client few topics", READING),
    Field("federation.num_clients", 10, "clients (N)", PAPER),
    Field("federation.participants", 0, "clients that take part in a round; 0: all", READING),
    Field("federation.rounds", 10, "averagings", OURS),
    Field("federation.steps", 10, "steps between two averagings (tau)", PAPER),
    Field(
        "federation.swap",
        "balanced",
        "who receives whose response on a public step",
        PAPER,
        ("balanced", "random_swap", "rescue", "swap_all", "max_variance", "no_swap"),
    ),
    Field("federation.swap_period", 2, "every so many steps one is public; 0: none, 1: all", PAPER),
    Field(
        "federation.swap_unit", "step", "what the period counts; extra adds public steps", READING, ("step", "extra", "round")
    ),
    Field("federation.average", True, "False: every client trains alone", PAPER),
    Field("federation.moments", "reset", "the optimizer's moments at an averaging", READING, ("reset", "keep", "average")),
    Field("federation.weights", "uniform", "of the clients in the average", READING, ("uniform", "size")),
    Field("training.group", 8, "responses to a question (K)", PAPER),
    Field("training.prompts", 8, "questions a client answers in a step", READING),
    Field("training.max_new_tokens", 2048, "response tokens at most", PAPER),
    Field("training.temperature", 1.0, "of sampling and of the log-probs; no top-p: it would bias the ratio", READING),
    Field("training.lr", 1e-5, "learning rate of AdamW", READING),
    Field("training.warmup", 0, "steps from 0 to the full learning rate", OURS),
    Field("training.clip_norm", 1.0, "largest norm of a client's gradient; 0: no limit", OURS),
    Field("training.weight_decay", 0.0, "AdamW's", READING),
    Field("training.loss", "grpo", "the policy loss", PAPER, ("grpo", "gspo", "cispo")),
    Field(
        "training.advantages",
        "group",
        "(r - mean)/std; centred: no std; none: r itself; batch: std of the batch",
        READING,
        ("group", "centred", "none", "batch"),
    ),
    Field(
        "training.normalise",
        "sequence",
        "tokens weigh by sequence, equally (DAPO), or 1/R (Dr.GRPO)",
        READING,
        ("sequence", "token", "fixed"),
    ),
    Field("training.clip_low", 0.2, "the ratio's lower clip", READING),
    Field("training.clip_high", 0.2, "and its upper one", READING),
    Field("training.dual_clip", 0.0, "bounds a token's term by this times a negative advantage; 0: no bound", READING),
    Field(
        "training.truncation",
        "keep",
        "responses cut off by the length limit: counted, left out of the loss, or punished near the limit",
        READING,
        ("keep", "mask", "penalise"),
    ),
    Field("training.truncation_buffer", 0, "tokens before the limit over which the punishment grows to 1", READING),
    Field("training.importance_cap", 0.0, "largest weight that corrects sampler against scorer, per token; 0: none", OURS),
    Field(
        "training.kl",
        "none",
        "estimator of KL(policy, base). In the loss: k2 has its gradient, k3 that of KL(base, policy), k1 none on average",
        READING,
        ("none", "k1", "k2", "k3"),
    ),
    Field(
        "training.kl_in",
        "loss",
        "where the KL counts. reward: subtracted from it, with the true gradient; takes k1 alone",
        READING,
        ("loss", "reward"),
    ),
    Field("training.kl_coef", 0.0, "weight of the KL; counts only with an estimator", READING),
    Field("training.prox_coef", 0.0, "FedProx: weight of half the squared distance from the round's start", PAPER),
    Field("training.swap_weight", 1.0, "weight of swapped responses' terms", READING),
    Field("training.inner_epochs", 1, "gradient steps on one rollout", READING),
    Field("training.microbatch", 0, "questions at a time in the update; 0: all. The result does not change", OURS),
    Field("training.client_microbatch", 0, "clients at a time; 0: all. One part is verified while the next one samples", OURS),
    Field("evaluation.every", 1, "rounds between two evaluations", OURS),
    Field("evaluation.samples", 4, "responses to a question", OURS),
    Field("evaluation.batch", 64, "questions at a time", OURS),
    Field("evaluation.temperature", 1.0, "of the evaluation's sampler", OURS),
    Field("evaluation.top_k", 0, "likeliest tokens it draws from; 0: all", OURS),
    Field("evaluation.top_p", 1.0, "and the probability that they cover", OURS),
    Field("evaluation.min_p", 0.0, "drops tokens less likely than this share of the likeliest one; 0: none", OURS),
    Field("evaluation.greedy", False, "the likeliest token always, one sample, on the test questions", OURS),
    Field("evaluation.clients", True, "each client's own model too, before averaging", OURS),
    Field("evaluation.seed", 1, "of its own randomness, which training never touches", OURS),
    Field("checkpoint.steps", 0, "steps between checkpoints inside a round; 0: only at its end", OURS),
    Field("checkpoint.keep", 2, "newest checkpoints kept, besides the best round's", OURS),
    Field(
        "log.transcripts",
        -1,
        "groups of responses a step written to rollouts.jsonl, private questions included; -1: 1, or 0 with several processes",
        OURS,
    ),
    Field(
        "log.distortion",
        "round",
        "when M·β is measured, on one group a client: at a round's last public step, or at each",
        OURS,
        ("off", "round", "step"),
    ),
    Field("log.tensorboard", "auto", "auto: where tensorboardX is installed", OURS, ("auto", "on", "off")),
    Field("log.wandb", "", "a project of Weights & Biases; empty: none", OURS),
    Field("verifier.workers", 0, "processes that judge answers; 0: one a core, 8 at most", OURS),
    Field("verifier.timeout", 1.0, "seconds for an answer", OURS),
    Field("mesh.client", 1, "devices that share the clients", OURS),
    Field("mesh.data", 1, "devices that share a client's questions", OURS),
    Field("mesh.model", 1, "devices that share the base's matrices", OURS),
)


def default_config() -> ConfigDict:
    """A config with every field at its default."""
    config = ConfigDict()
    for field in FIELDS:
        section, _, name = field.name.rpartition(".")
        if section and section not in config:
            config[section] = ConfigDict()
        (config[section] if section else config)[name] = field.default
    config.data.fields = ConfigDict(dict(config.data.fields))
    return config


def table() -> str:
    """The fields as Markdown."""
    rows = ["| field | default | meaning | from |", "|---|---|---|---|"]
    for field in FIELDS:
        default = "" if field.default in ("", ConfigDict()) else f"`{field.default}`"
        choices = f" ({', '.join(field.choices)})" if field.choices else ""
        rows.append(f"| `{field.name}` | {default} | {field.meaning}{choices} | {field.source} |")
    return "\n".join(rows)


def text(section: str = "") -> str:
    """The fields as text for a terminal: all, or those of a section."""
    lines = []
    for field in FIELDS:
        if section in ("", field.name.rpartition(".")[0], field.name):
            default = "''" if field.default == "" else str(field.default) if field.default != ConfigDict() else "{}"
            choices = f" ({', '.join(field.choices)})" if field.choices else ""
            head = f"  --config.{field.name}={default}"
            lines += textwrap.wrap(f"{head:<46} {field.meaning}{choices}", 128, subsequent_indent=" " * 47)
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
