"""The task of both sides: the models and the prompt, and the loop in which a side answers the driver."""

import json
import pathlib
import sys
import time

import numpy as np

PROMPT = 256
# name -> changes to the published Qwen2.5-0.5B config
SIZES = {
    "0.5b": {},
    "31m": {  # the small model of ../update_speed
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 8,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "vocab_size": 32000,
    },
    "3m": {
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "vocab_size": 2048,
    },
}


def prompt_ids(vocab: int) -> np.ndarray:
    """One full prompt: what is timed is the same whatever the padding."""
    return np.random.default_rng(0).integers(0, vocab, (1, PROMPT))


def peak_bytes() -> int:
    """The largest resident size so far. Not ru_maxrss, which a child inherits from its parent."""
    line = next(line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def serve(rollout) -> None:
    """Answers each line of the driver, a group and a length, with one timed rollout. The first of a shape compiles."""
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        group, length = map(int, line.split())
        start = time.perf_counter()
        rollout(group, length)
        print(json.dumps({"seconds": time.perf_counter() - start, "peak": peak_bytes()}), flush=True)
