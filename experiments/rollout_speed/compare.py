"""Both sides in turn, A B A B, on the same machine in the same minutes; prints the table of the README.

    OMP_NUM_THREADS=2 python experiments/rollout_speed/compare.py --config=CONFIG.json --size=0.5b --group=8 --repeats=3 SIDE...

SIDE is ours:DTYPE or peer:DTYPE:dynamic|static|compiled. CONFIG.json is Qwen2.5-0.5B's. All weights are random, from one seed;
both sides load the same safetensors, and their float32 logits must agree to 1e-3 before anything is timed.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

from common import PROMPT, SIZES

HERE = pathlib.Path(__file__).parent
MAKE = """
import json, sys, numpy, torch
from common import prompt_ids
from transformers import AutoConfig, AutoModelForCausalLM
torch.manual_seed(0)
folder, fields = sys.argv[1], json.loads(sys.argv[2])
model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields), dtype=torch.float32).eval()
model.save_pretrained(folder)
with torch.inference_mode():
    numpy.save(folder + "/logits.npy", model(torch.tensor(prompt_ids(model.config.vocab_size))).logits.numpy())
print(f"{model.num_parameters() / 1e6:.1f}M parameters")
"""


class Side:
    """A process that samples one rollout for each line that it is sent."""

    def __init__(self, name: str, folder: str):
        script, *arguments = name.split(":")
        command = [sys.executable, str(HERE / f"{script}.py"), folder, *arguments]
        self.name, self.seconds = name, []
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answer()

    def answer(self) -> dict:
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{self.name}: the process ended, see its messages above")

    def rollout(self, group: int, length: int) -> dict:
        self.process.stdin.write(f"{group} {length}\n")
        self.process.stdin.flush()
        return self.answer()


def table(sides: list[Side], first: dict, last: dict, tokens: int) -> None:
    print("| side | s a rollout, median (all) | new tokens/s | peak GB | first rollout, s |")
    print("|---|---|---|---|---|")
    for side in sides:
        median = statistics.median(side.seconds)
        runs = " ".join(f"{s:.2f}" for s in side.seconds)
        peak, begin = last[side.name]["peak"] / 1e9, first[side.name]["seconds"]
        print(f"| {side.name} | {median:.2f} ({runs}) | {tokens / median:,.0f} | {peak:.2f} | {begin:.1f} |")
    peers = [side for side in sides if side.name.startswith("peer")]
    best = min(peers, key=lambda side: statistics.median(side.seconds), default=None)
    for side in sides if best else ():
        if side.name.startswith("ours"):
            ratios = sorted(b / a for a, b in zip(side.seconds, best.seconds, strict=True))
            print(f"{side.name} / {best.name}: {statistics.median(ratios):.2f} times ({ratios[0]:.2f} to {ratios[-1]:.2f})")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True)
    parser.add_argument("--size", choices=SIZES, default="0.5b")
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("sides", nargs="+")
    arguments = parser.parse_args()
    fields = json.loads(pathlib.Path(arguments.config).read_text()) | SIZES[arguments.size]
    fields |= {"bos_token_id": None, "eos_token_id": None}
    shape = arguments.group, arguments.length
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", MAKE, folder, json.dumps(fields)]
        subprocess.run(command, check=True, cwd=HERE)
        sides = [Side(name, folder) for name in arguments.sides]
        first, last = {side.name: side.rollout(*shape) for side in sides}, {}
        for _ in range(arguments.repeats):
            for side in sides:
                last[side.name] = side.rollout(*shape)
                side.seconds.append(last[side.name]["seconds"])
                print(f"{side.name}: {side.seconds[-1]:.2f} s", file=sys.stderr, flush=True)
        for side in sides:
            side.process.stdin.close()
            side.process.wait()
    print(f"{arguments.size}: {arguments.group} responses of {arguments.length} tokens to one prompt of {PROMPT}")
    table(sides, first, last, arguments.group * arguments.length)


if __name__ == "__main__":
    main()
