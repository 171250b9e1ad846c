"""Supervised warm-up: a LoRA adapter on n questions of SVAMP, whose target is the calculation without its result.

    python -m experiments.real_model.warmup --model FOLDER --n 80 --out experiments/real_model/warmup

8 questions a step, in two passes by default. The adapter is written as a PEFT folder in bfloat16. With --measure N, the
model is asked N training questions afterwards: accuracy, pass@8, share of flat groups, length. `--mode=probe` asks the base.
"""

import argparse
import json
import pathlib
import time

import jax
import ml_dtypes
import numpy as np

from experiments.supervised import make_step, optimizer, responses
from pubswap_jax import settings
from pubswap_jax.policy.adapter import init_adapter, lora
from pubswap_jax.policy.model import Transformer
from pubswap_jax.questions.problem import Problem
from pubswap_jax.questions.tokens import left_pad
from pubswap_jax.run import probe
from pubswap_jax.run.assembly import assemble
from pubswap_jax.types import LINEAR_LAYERS
from pubswap_jax.weights.peft import export_adapter
from pubswap_jax.weights.peft_checks import WEIGHTS
from pubswap_jax.weights.tensorfile import read, read_header, write

HERE = pathlib.Path(__file__).parent
BATCH = 8


def target(row: dict) -> str:
    """'76-25' of a row with the solution '76 - 25 = 51'."""
    return row["solution"].split("=")[0].replace(" ", "")


def trained(policy, rows: list[dict], lr: float, rank: int, seed: int, epochs: int):
    """The adapter after some passes over the rows, and its config."""
    config = policy.config.replace(adapter=lora(rank, 2.0 * rank), lora_targets=LINEAR_LAYERS)
    model = Transformer(config)
    adapter = jax.jit(lambda key: init_adapter(key, model, jax.eval_shape(lambda: policy.base)))(jax.random.key(seed))
    encoded = [policy.tokenizer.encode(Problem(row["id"], row["question"], row["answer"])) for row in rows]
    prompts = left_pad(encoded, np.arange(len(rows)), max(map(len, encoded)), policy.tokenizer.pad_id)
    tokens, mask = responses([target(row) for row in rows], policy.tokenizer)
    tx = optimizer(lr)
    state, step = tx.init(adapter), make_step(model, tx)
    rng = np.random.Generator(np.random.Philox(seed))
    order = np.concatenate([rng.permutation(len(rows)) for _ in range(epochs)])
    for start in range(0, len(order) - len(order) % BATCH, BATCH):
        some, begun = order[start : start + BATCH], time.perf_counter()
        part = jax.tree.map(lambda x, some=some: x[some], prompts)
        adapter, state, value = step(policy.base, adapter, state, part, tokens[some], mask[some])
        print(f"step {start // BATCH + 1}: loss {float(value):.3f}, {time.perf_counter() - begun:.1f} s", flush=True)
    return config, adapter


def in_bfloat16(folder: pathlib.Path) -> None:
    """Rewrites a PEFT folder's weights in bfloat16, without the base's digest: the adapter suits a quantised base too."""
    file = folder / WEIGHTS
    tensors = read_header(file)
    values = {name: read(entry).astype(ml_dtypes.bfloat16) for name, entry in tensors.items()}
    write(file, {name: (x.shape, x.dtype) for name, x in values.items()}, iter(values.values()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder, GGUF file or hub name")
    parser.add_argument("--config", default="configs/math.py:smollm2-135m")
    parser.add_argument("--n", type=int, default=80)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=2, help="passes over the questions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=pathlib.Path, nargs="+", default=[HERE / "data" / "svamp_warmup.jsonl"])
    parser.add_argument("--measure", type=int, default=0, help="questions that are asked afterwards")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    a = parser.parse_args()
    config = settings.load(a.config)
    config.model.path, config.model.warmup = a.model, ""
    run = assemble(config)
    rows = [json.loads(line) for file in a.data for line in file.read_text().splitlines()][: a.n]
    if len(rows) < a.n:
        raise SystemExit(f"{len(rows)} questions, {a.n} wanted")
    warm, adapter = trained(run.policy, rows, a.lr, a.rank, a.seed, a.epochs)
    export_adapter(a.out, adapter, warm, "HuggingFaceTB/SmolLM2-135M-Instruct")
    in_bfloat16(a.out)
    print(f"{a.out}: {sum(file.stat().st_size for file in a.out.iterdir()):,} bytes", flush=True)
    if a.measure:
        config.model.warmup = str(a.out)
        run = assemble(config)
        print(probe.described(probe.answers(run, run.policy.adapter, a.measure), run.settings), flush=True)


if __name__ == "__main__":
    main()
