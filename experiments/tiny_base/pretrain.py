"""Pre-trains the embedded model on noisy homework and writes its folder, in Hugging Face layout.

    python experiments/tiny_base/pretrain.py --preset easy
    python experiments/tiny_base/pretrain.py --preset hard --start pubswap_jax/tiny_easy --steps 300 --lr 0.01

Every question is shown with the answers of all eight procedures at once, each weighed by the share of pupils who give it: that
is the exact expectation of the loss over random demonstrations, and encodes the question once for all of them.
"""

import argparse
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import tokenizers
import transformers
from flax.traverse_util import flatten_dict

from pubswap_jax.policy.model import Transformer, response_logps
from pubswap_jax.questions import embedded
from pubswap_jax.questions.problem import KINDS, Problem
from pubswap_jax.questions.schedule import permutation
from pubswap_jax.questions.tokens import Tokenizer, left_pad, load_tokenizer
from pubswap_jax.types import ModelConfig, Prompts
from pubswap_jax.weights import hf_folder, tensorfile
from pubswap_jax.weights.pretrained import load_pretrained

PAD, END = 0, 1
TAUGHT = {"easy": ("math", "drill", "choice"), "hard": ("math", "drill")}  # what the model of a preset is shown, in turn
PIECES = r" ?[A-Za-z]+|:? ?\\boxed\{|[0-9]|[\s\S]"  # words, the box, single digits, single other characters
CONFIG = ModelConfig(
    vocab_size=512,
    hidden_size=128,
    intermediate_size=384,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    qk_norm=True,
    model_type="qwen3",
    max_positions=256,
    eos_ids=(END,),
    pad_id=PAD,
)


def write_tokenizer(folder: pathlib.Path) -> Tokenizer:
    """Byte-level BPE: the world's words become single tokens, and any other text is read, too."""
    pre = tokenizers.pre_tokenizers
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    split = pre.Split(tokenizers.Regex(PIECES), "isolated")
    backend.pre_tokenizer = pre.Sequence([split, pre.ByteLevel(add_prefix_space=False, use_regex=False)])
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=CONFIG.vocab_size,
        special_tokens=["<pad>", "<end>"],
        initial_alphabet=sorted(pre.ByteLevel.alphabet()),
        show_progress=False,
    )
    asked = [p for preset in embedded.RIGHT for kind in KINDS for p in questions(preset, kind, 2000)]
    said = [text for problem in asked for text, _ in embedded.demonstrations(problem).values()]
    backend.train_from_iterator([problem.prompt for problem in asked] + said, trainer)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<end>", clean_up_tokenization_spaces=False
    ).save_pretrained(folder)
    return load_tokenizer(folder, instructions=dict.fromkeys(KINDS, ""))


def questions(preset: str, kind: str, count: int) -> list[Problem]:
    """Training questions, or drills: the numbers of the test questions are met in drills alone."""
    if kind == "drill":
        return embedded.drills()[:count]
    return embedded.problems("train", seed=0, count=count, preset=preset, kind=kind)


def write_model(folder: pathlib.Path, config: ModelConfig, params) -> None:
    """config.json, generation_config.json and model.safetensors, in bfloat16."""
    fields = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_positions,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "torch_dtype": "bfloat16",
    }
    ids = {"bos_token_id": None, "eos_token_id": END, "pad_token_id": PAD}
    tensorfile.write_json(folder / "config.json", fields | ids)
    tensorfile.write_json(folder / "generation_config.json", ids | {"do_sample": True, "temperature": 1.0})
    leaves, slots = flatten_dict(jax.device_get(params)), hf_folder.tensor_slots(config)
    specs = {name: (slot.shape, np.dtype(jnp.bfloat16)) for name, slot in slots.items()}
    found = (np.asarray(leaves[hf_folder.leaf_path(config, slot)], jnp.bfloat16) for slot in slots.values())
    turned = (leaf.T if slot.transpose else leaf for leaf, slot in zip(found, slots.values(), strict=True))
    tensorfile.write(folder / hf_folder.SINGLE, specs, turned)


def lessons(tokenizer: Tokenizer, preset: str, kind: str, count: int) -> tuple[Prompts, np.ndarray, np.ndarray]:
    """Prompts [n, P], responses int32[n, procedures, R] and the weight of each of their tokens, 0 on the padding."""
    asked = questions(preset, kind, count)
    count = len(asked)
    encoded = [tokenizer.encode(problem) for problem in asked]
    shown = [said for problem in asked for said in embedded.demonstrations(problem).values()]
    ids = [[*row, END] for row in tokenizer.hf([text for text, _ in shown]).input_ids]
    length = embedded.MAX_NEW_TOKENS["choice" if kind == "choice" else "math"]
    tokens = np.array([row + [PAD] * (length - len(row)) for row in ids], np.int32)
    weights = np.array([[share] * len(row) + [0] * (length - len(row)) for row, (_, share) in zip(ids, shown, strict=True)])
    shape = (count, len(embedded.PROCEDURES), length)
    prompts = left_pad(encoded, np.arange(count), max(map(len, encoded)), PAD)
    return prompts, tokens.reshape(shape), weights.astype(np.float32).reshape(shape)


def pretrain(config: ModelConfig, material: list, steps: int, batch: int, lr: float, seed: int, params=None):
    """Steps through the sets of lessons in turn, each in its own shape; from `params`, or from nothing."""
    model = Transformer(config)
    if params is None:
        params = model.init(jax.random.key(seed), jnp.zeros((1, 1), jnp.int32))["params"]
    schedule = optax.warmup_cosine_decay_schedule(0.0, lr, steps // 20, steps)
    small = optax.warmup_cosine_decay_schedule(0.0, 0.15 * lr, steps // 20, steps)
    muon = optax.contrib.muon(schedule, adam_b2=0.98, weight_decay=0.1, adam_learning_rate=small)
    tx = optax.chain(optax.clip_by_global_norm(1.0), muon)

    def loss(params, prompts, tokens, weights):
        logps = response_logps(model, {"params": params}, None, prompts, tokens)
        return -jnp.sum(logps * weights) / logps.shape[0]

    @jax.jit
    def step(params, state, *lesson):
        value, gradient = jax.value_and_grad(loss)(params, *lesson)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    state, begun = tx.init(params), time.time()
    for i in range(steps):
        lesson, turn = material[i % len(material)], i // len(material)
        total = lesson[1].shape[0]
        epoch, place = divmod(turn, total // batch)
        rows = permutation(total, seed, i % len(material), epoch)[place * batch : (place + 1) * batch]
        params, state, value = step(params, state, *jax.tree.map(lambda x, rows=rows: x[rows], lesson))
        if i % 100 < len(material):
            print(f"step {i} loss {value:.3f} {time.time() - begun:.0f} s", flush=True)
    return params


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=list(embedded.RIGHT), default="easy")
    parser.add_argument("--out", type=pathlib.Path, help="default: the folder that the package ships")
    parser.add_argument("--start", type=pathlib.Path, help="a folder whose weights to begin with; default: none")
    parser.add_argument("--steps", type=int, default=2100)
    parser.add_argument("--questions", type=int, default=12000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    out = a.out or embedded.tiny_path(a.preset)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(out)
    material = [lessons(tokenizer, a.preset, kind, a.questions) for kind in TAUGHT[a.preset]]
    start = load_pretrained(a.start, dtype="float32")[1]["params"] if a.start else None
    params = pretrain(CONFIG, material, a.steps, a.batch, a.lr, a.seed, start)
    write_model(out, CONFIG, params)
    print(f"{sum(x.size for x in jax.tree.leaves(params)):,} parameters in {out}")


if __name__ == "__main__":
    main()
