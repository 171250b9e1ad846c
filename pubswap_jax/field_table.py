"""The table of the config's fields: default, meaning, source, choices and bounds of each. It loads no JAX.

A new choice of a field is one line here. The check of a config, --help, configs/README.md and the run all use this table.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

PAPER, READING, OURS = "paper", "reading", "ours"  # stated by the paper; our reading of it; our own choice
# The linear layers of a block that LoRA can adapt, by Hugging Face's names. model.lora_targets names them.
LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Field(NamedTuple):
    """One field of a config.

    A mapping of choices says which function each choice stands for, in a module of this package: "module:function", or
    "module:factory(field, ...)" for what the factory returns when it is given the values of these fields; "" is no function.
    """

    name: str
    default: Any
    meaning: str
    source: str
    choices: Mapping[str, str] | tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None


# fmt: off
# A row is one field, and a line is one choice. The formatter would give every argument a line.
FIELDS = (
    Field("seed", 0, "seed of all training randomness: data split, adapters, sampling, swaps", OURS, least=0, most=2**32 - 1),
    Field("compilation_cache", "", "folder that keeps compiled programs for later starts; empty: none are kept", OURS),
    Field("model.path", "", "base model: a Hugging Face folder or a name on the hub; empty: the embedded model", OURS),
    Field("model.dtype", "float32", "dtype of the base model's parameters and computation", OURS, ("float32", "bfloat16")),
    Field("model.lora_rank", 32, "rank of the LoRA adapters", PAPER, least=1),
    Field("model.lora_alpha", 64.0, "LoRA's alpha; the adapter's output is scaled by alpha / rank", PAPER, least=1e-6),
    Field("model.lora_targets", "all", "layers that get an adapter: all, attention, or names joined by commas", READING),
    Field("model.remat", "none",
          "what the backward pass recomputes (rematerialisation); block: every layer", OURS, ("none", "block")),
    Field("model.scan_layers", False, "compile one block and scan it over all layers in the update: compiles faster", OURS),
    Field("model.system", "", "system prompt; empty: none is given", OURS),
    Field("model.instruction", "default", "how to answer, after each question; 'default': the text for its kind", OURS),
    Field("model.thinking", "default", "Qwen3's enable_thinking; default: not set", OURS, ("default", "on", "off")),
    Field("data.name", "homework", "homework, homework_hard, homework_choice (embedded), or hub data sets joined by +", PAPER),
    Field("data.path", "",
          "question files (JSONL, JSON, CSV, TSV, also .gz, or parquet) or glob patterns, joined by commas; replaces data.name",
          OURS),
    Field("data.test_path", "",
          "files with the test questions; empty: the test split of a hub data set, or a draw from the training questions",
          OURS),
    Field("data.test_name", "", "hub data set whose test split is used; empty: that of data.name", OURS),
    Field("data.fields", ConfigDict(), "columns of the question files; see pubswap_jax.questions.sources.Fields", OURS),
    Field("data.max_prompt_tokens", 512,
          "longest prompt in tokens; longer questions are dropped and counted; prompt and response must fit the context",
          OURS, least=1),
    Field("data.max_questions", 0,
          "number of training questions to use, from the start of the data set; 0: all", OURS, least=0),
    Field("data.test", 512,
          "test questions, at most; 0: all there are, or, without a test set, a tenth of the training questions",
          OURS, least=0),
    Field("data.validation", 256, "training questions set aside for validation, which chooses the best round", OURS, least=1),
    Field("data.public", 0.02, "fraction of the training questions that is public, between 0 and 1", READING, least=0, most=1),
    Field("data.public_path", "", "files with the public questions; replaces data.public; empty: none", READING),
    Field("data.partition", "dirichlet", "how the private questions are split among the clients", PAPER, {
        "iid": "questions.partition:iid",
        "dirichlet": "questions.partition:dirichlet(data.alpha)",
        "by_topic": "questions.partition:by_topic",
        "size_skew": "questions.partition:size_skew(data.alpha)",
        "natural": "questions.partition:natural",
    }),
    Field("data.alpha", 0.3,
          "Dirichlet concentration; smaller: fewer topics per client (size_skew: less equal sizes)", READING, least=1e-6),
    Field("federation.method", "pubswap",
          "way of federating; pubswap: LoRA averaging, with swaps on public steps; fedbuff: the same with asynchronous clients",
          PAPER, {
        "pubswap": "run.methods:pubswap_of",
        "fedbuff": "run.methods:fedbuff_of",
    }),
    Field("federation.num_clients", 10, "number of clients (N)", PAPER, least=1),
    Field("federation.participants", 0,
          "number of clients that take part in a round, drawn at random; 0: all", READING, least=0),
    Field("federation.rounds", 10, "number of rounds; each round ends with one averaging", OURS, least=1),
    Field("federation.steps", 10, "training steps per round, before each averaging (tau)", PAPER, least=1),
    Field("federation.swap", "balanced", "rule that chooses the swapped responses of a public step", PAPER, {
        "balanced": "algorithm.swap:balanced",
        "random_swap": "algorithm.swap:random_swap",
        "rescue": "algorithm.swap:rescue",
        "swap_all": "algorithm.swap:swap_all",
        "max_variance": "algorithm.swap:max_variance",
        "no_swap": "algorithm.swap:no_swap",
    }),
    Field("federation.swap_period", 2, "one in this many steps is public; 0: no step, 1: every step", PAPER, least=0),
    Field("federation.swap_unit", "step",
          "what swap_period counts; extra: public steps are added to federation.steps", READING, ("step", "extra", "round")),
    Field("federation.average", True,
          "average the clients' adapters after each round; False: every client trains alone", PAPER),
    Field("federation.aggregate", "mean", "rule that makes the next shared adapter from the clients' adapters", PAPER, {
        "mean": "algorithm.aggregation:mean()",
        "median": "algorithm.robust:median()",
        "trimmed_mean": "algorithm.robust:trimmed_mean(federation.trim)",
        "norm_clip": "algorithm.robust:norm_clip(federation.clip_norm)",
        "product_svd": "algorithm.product_svd:product_svd()",
        "robust_pca": "algorithm.robust_pca:of_beta(federation.beta)",
        "fedexp": "algorithm.server_optimizers:fedexp()",
        "fedavgm": "algorithm.server_optimizers:fedavgm(federation.server_lr, federation.server_momentum)",
        "fedadam": "algorithm.server_optimizers:fedadam(federation.server_lr)",
        "fedyogi": "algorithm.server_optimizers:fedyogi(federation.server_lr)",
    }),
    Field("federation.trim", 1, "clients that trimmed_mean leaves out at either end of every entry", OURS, least=1),
    Field("federation.clip_norm", 1.0, "largest norm of a client's change of the adapter under norm_clip", OURS, least=1e-9),
    Field("federation.beta", 2.0, "weight of the sparse part under robust_pca; 0: adapted to its share", OURS, least=0.0),
    Field("federation.server_lr", 1.0, "server's learning rate under fedavgm, fedadam and fedyogi", OURS, least=0.0),
    Field("federation.server_momentum", 0.9, "server's momentum under fedavgm", OURS, least=0.0, most=1.0),
    Field("federation.moments", "reset",
          "what happens to the optimizer's moments after an averaging", READING, ("reset", "keep", "average")),
    Field("federation.weights", "uniform",
          "clients' weights in the average; size: their numbers of private questions", READING, ("uniform", "size")),
    Field("federation.speeds", "1",
          "asynchronous clients' steps in a unit of time, joined by commas and given in turn; 0: never returns", OURS),
    Field("federation.jobs", 0, "asynchronous clients that train at a time (K); 0: all", OURS, least=0),
    Field("federation.buffer", 0, "asynchronous clients' uploads per server update (B); 0: federation.jobs", OURS, least=0),
    Field("federation.free", 0,
          "free places at which all of them get new jobs, with asynchronous clients (O); 0: federation.jobs", OURS, least=0),
    Field("training.group", 8, "responses sampled for each question (K)", PAPER),
    Field("training.prompts", 8, "questions that each client answers in one training step (B)", READING, least=1),
    Field("training.max_new_tokens", 2048, "longest response in tokens", PAPER, least=1),
    Field("training.temperature", 1.0,
          "temperature of training rollouts and log-probs; no top-p: it would bias the ratio", READING, least=1e-6),
    Field("training.lr", 1e-5, "learning rate of AdamW after the warm-up", READING, least=0),
    Field("training.warmup", 0, "warm-up steps, over which the learning rate rises from 0; 0: none", OURS, least=0),
    Field("training.clip_norm", 1.0, "gradient clipping: largest norm of a client's gradient; 0: no limit", OURS, least=0),
    Field("training.weight_decay", 0.0, "weight decay of AdamW; 0: none", READING, least=0),
    Field("training.loss", "grpo", "policy-gradient loss", PAPER, {
        "grpo": "algorithm.losses:grpo_term",
        "gspo": "algorithm.losses:gspo_term",
        "cispo": "algorithm.losses:cispo_term",
    }),
    Field("training.advantages", "group",
          "advantage of a response with reward r; group: (r - mean)/std; centred: r - mean; none: r; batch: std of the batch",
          READING, {
        "group": "algorithm.losses:group_advantages",
        "centred": "algorithm.losses:centred_advantages",
        "none": "algorithm.losses:no_baseline",
        "batch": "algorithm.losses:batch_advantages",
    }),
    Field("training.normalise", "sequence",
          "token weights in the loss; sequence: 1/length; token: equal (DAPO); fixed: 1/max_new_tokens (Dr.GRPO)", READING, {
        "sequence": "algorithm.losses:per_sequence",
        "token": "algorithm.losses:per_token",
        "fixed": "algorithm.losses:fixed_length(training.max_new_tokens)",
    }),
    Field("training.clip_low", 0.2,
          "lower clip of the probability ratio: the clip is at 1 - clip_low", READING, least=0, most=1),
    Field("training.clip_high", 0.2, "upper clip of the probability ratio: the clip is at 1 + clip_high", READING, least=0),
    Field("training.dual_clip", 0.0,
          "c: for an advantage A < 0 the policy term is at least c A; 0: no bound", READING, least=0),
    Field("training.truncation", "keep",
          "responses cut off by the length limit; keep: count; mask: not in the loss; penalise: lose reward near the limit",
          READING, {
        "keep": "algorithm.losses:keep_truncated",
        "mask": "algorithm.losses:mask_truncated",
        "penalise": "algorithm.losses:penalise_truncated(training.truncation_buffer)",
    }),
    Field("training.truncation_buffer", 0,
          "tokens before the length limit over which truncation=penalise takes up to 1", READING, least=0),
    Field("training.importance_cap", 0.0,
          "cap on the ratio of the scorer's to the sampler's probability of a token; 0: no such weights", OURS, least=0),
    Field("training.kl", "none",
          "estimator of KL(policy, base). Its gradient in the loss: k1: 0 on average, k2: true, k3: of KL(base, policy)",
          READING, {
        "none": "",
        "k1": "algorithm.losses:kl_k1",
        "k2": "algorithm.losses:kl_k2",
        "k3": "algorithm.losses:kl_k3",
    }),
    Field("training.kl_in", "loss",
          "where the KL term goes: added to the loss, or subtracted from the reward (k1 only; the true gradient)",
          READING, ("loss", "reward")),
    Field("training.kl_coef", 0.0, "coefficient of the KL term; no effect with training.kl=none", READING, least=0),
    Field("training.prox_coef", 0.0,
          "FedProx: weight of half the squared distance from the round's start; 0: none", PAPER, least=0),
    Field("training.swap_weight", 1.0,
          "weight of swapped responses in the loss; own responses have weight 1", READING, least=0),
    Field("training.inner_epochs", 1, "gradient steps on each rollout", READING, least=1),
    Field("training.microbatch", 0, "questions at a time in the update; 0: all. The result does not change", OURS, least=0),
    Field("training.client_microbatch", 0,
          "clients at a time; 0: all. One part is verified while the next one samples", OURS, least=0),
    Field("evaluation.every", 1, "evaluate after every so many rounds", OURS, least=1),
    Field("evaluation.samples", 4, "responses sampled for each evaluation question", OURS, least=1),
    Field("evaluation.batch", 64, "questions per evaluation batch", OURS, least=1),
    Field("evaluation.temperature", 1.0, "temperature of the evaluation's sampler", OURS, least=1e-6),
    Field("evaluation.top_k", 0, "top-k sampling: keep the k likeliest tokens; 0: keep all", OURS, least=0),
    Field("evaluation.top_p", 1.0,
          "nucleus sampling: keep the likeliest tokens whose probabilities add up to this; 1: all", OURS, least=1e-6, most=1),
    Field("evaluation.min_p", 0.0,
          "min-p sampling: drops tokens below this share of the likeliest token's probability; 0: off", OURS, least=0, most=1),
    Field("evaluation.greedy", False, "evaluate greedy decoding too: one response to each test question", OURS),
    Field("evaluation.clients", True, "evaluate each client's own model too, before averaging", OURS),
    Field("evaluation.seed", 1,
          "seed of the evaluation's random stream, which training never uses", OURS, least=0, most=2**32 - 1),
    Field("checkpoint.steps", 0, "steps between two checkpoints inside a round; 0: only at the round's end", OURS, least=0),
    Field("checkpoint.keep", 2, "number of newest checkpoints to keep, in addition to the best round's", OURS, least=1),
    Field("log.transcripts", -1,
          "groups a step writes to rollouts.jsonl, of private questions too; -1: one, or none with several processes; 0: none",
          OURS, least=-1),
    Field("log.distortion", "round",
          "when M·β is measured, on one group per client; round: at a round's last public step; step: at every public step",
          OURS, ("off", "round", "step")),
    Field("log.tensorboard", "auto",
          "write metrics for TensorBoard; auto: if tensorboardX is installed", OURS, ("auto", "on", "off")),
    Field("log.wandb", "", "project of Weights & Biases to log to; empty: none", OURS),
    Field("verifier.workers", 0, "number of processes that verify answers; 0: one per core, at most 8", OURS, least=0),
    Field("verifier.timeout", 1.0, "time limit for verifying one answer, in seconds", OURS, least=1e-6),
    Field("mesh.client", 1, "devices on the mesh's client axis, which splits the clients", OURS, least=1),
    Field("mesh.data", 1, "devices on the mesh's data axis, which splits each client's questions", OURS, least=1),
    Field("mesh.model", 1, "devices on the mesh's model axis, which splits the base model's matrices", OURS, least=1),
)
# fmt: on
