"""Both sides in turn, A B A B, on the same machine in the same minutes; prints the table of the README.

    OMP_NUM_THREADS=2 python experiments/update_speed/compare.py --config=CONFIG.json --size=small --repeats=5 SIDE...

SIDE is ours:shared, ours:checkpointed, ours:repeated, peer:plain, peer:checkpointed or peer:compiled, each with an optional
:bfloat16. CONFIG.json is Qwen2.5-0.5B's. All weights are random, from one seed, and both sides load the same safetensors.
Where there is a GPU both sides use it, and the peak is its memory: --size=0.5b-gpu.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from common import GROUP, PROMPT, RESPONSE, SIZES

HERE = pathlib.Path(__file__).parent
MAKE = """
import json, sys, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM
torch.manual_seed(0)
folder, fields = sys.argv[1], json.loads(sys.argv[2])
model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields), dtype=torch.float32)
model.save_pretrained(folder)
peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=32, lora_alpha=64, target_modules="all-linear"))
for name, parameter in peft.named_parameters():
    if "lora_B" in name:
        torch.nn.init.normal_(parameter, std=0.02)  # at B = 0 half of the gradient is exactly 0
peft.save_pretrained(folder + "/adapter")
"""


class Side:
    """A process that runs one update for each line that it is sent."""

    def __init__(self, name: str, folder: str, prompts: int, rows: int):
        script, form, *dtype = name.split(":")
        command = [sys.executable, str(HERE / f"{script}.py"), folder, form, str(prompts), str(rows), *dtype]
        self.name, self.seconds, self.cpu = name, [], []
        shared = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # all sides are on one GPU
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=shared)
        self.answer()

    def answer(self) -> dict:
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{self.name}: the process ended, see its messages above")

    def update(self) -> dict:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.answer()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("sides", nargs="+")
    arguments = parser.parse_args()
    changes, prompts, rows = SIZES[arguments.size]
    fields = json.loads(pathlib.Path(arguments.config).read_text()) | changes
    if changes:
        fields |= {"bos_token_id": None, "eos_token_id": None}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", MAKE, folder, json.dumps(fields)], check=True, stdout=subprocess.DEVNULL)
        sides = [Side(name, folder, prompts, rows) for name in arguments.sides]
        first = {side.name: side.update() for side in sides}
        print(f"first updates: {first}", file=sys.stderr)
        last = {}
        for _ in range(arguments.repeats):
            for side in sides:
                last[side.name] = side.update()
                side.seconds.append(last[side.name]["seconds"])
                side.cpu.append(last[side.name]["cpu"])
                print(f"{side.name}: {last[side.name]}", file=sys.stderr)
        for side in sides:
            side.process.stdin.close()
            side.process.wait()
    tokens = prompts * GROUP * (PROMPT + RESPONSE)
    print(f"{arguments.size}: {prompts} prompts x {GROUP} responses, P = {PROMPT}, R = {RESPONSE}: {tokens:,} tokens an update")
    print("| side | s an update, median (all) | CPU s | tokens/s | peak GB | first update, s | gradient norm, first and last |")
    print("|---|---|---|---|---|---|---|")
    for side in sides:
        median = statistics.median(side.seconds)
        runs = " ".join(f"{s:.3f}" for s in side.seconds)
        begin, end = first[side.name], last[side.name]
        norms = f"{begin['grad_norm']:.6g}, {end['grad_norm']:.6g}"
        times = (f"{median:.3f} ({runs})", f"{statistics.median(side.cpu):.2f}", f"{tokens / median:,.0f}")
        print("|", " | ".join((side.name, *times, f"{end['peak'] / 1e9:.2f}", f"{begin['seconds']:.1f}", norms)), "|")
    peers = [side for side in sides if side.name.startswith("peer")]
    best = min(peers, key=lambda side: statistics.median(side.seconds), default=None)
    for side in sides if best else ():
        if side.name.startswith("ours"):
            wall, cpu = paired(side.seconds, best.seconds), paired(side.cpu, best.cpu)
            print(f"tokens/s of {side.name} over {best.name}'s: {wall}; by CPU seconds {cpu}")


def paired(ours: list[float], theirs: list[float]) -> str:
    """The median of the paired ratios, and their range."""
    ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


if __name__ == "__main__":
    main()
