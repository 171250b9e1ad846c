"""The task of both sides: the models, the adapter and the token matrix, and the loop in which a side answers the driver."""

import json
import pathlib
import sys
import time

import numpy as np

PROMPT, RESPONSE, GROUP = 256, 128, 8
SMALL = {  # 31M parameters
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 32000,
}
# name -> (changes to the published Qwen2.5-0.5B config, prompts in an update, rows at a time where prompts are repeated: what
# both sides keep for the backward pass must fit into memory)
SIZES = {"small": (SMALL, 1, 8), "0.5b": ({}, 1, 2), "0.5b-gpu": ({}, 4, 8)}


def token_matrix(prompts: int, vocab: int) -> dict[str, np.ndarray]:
    """Full rows on both sides: what is timed is the same whatever the padding."""
    rng = np.random.default_rng(0)
    advantages = rng.normal(size=(prompts, GROUP)).astype(np.float32)
    return {
        "prompts": rng.integers(0, vocab, (prompts, PROMPT)).astype(np.int32),
        "responses": rng.integers(0, vocab, (prompts, GROUP, RESPONSE)).astype(np.int32),
        "advantages": advantages - advantages.mean(axis=1, keepdims=True),
    }


def peak_bytes() -> int:
    """The largest resident size so far. Not ru_maxrss, which a child inherits from its parent."""
    line = next(line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def serve(update) -> None:
    """Answers each line of the driver with one timed update, whose peak may be a GPU's. The first one compiles."""
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        start, start_cpu = time.perf_counter(), time.process_time()
        seen = update()
        seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": peak_bytes()} | seen), flush=True)
