"""FedRevive against FedBuff and synchronous FedAvg at equal simulated time, with speeds 1:1, 1:4 and 1:16.

    python -m experiments.ways.asynchronous --config configs/math.py:hard --seeds 1 2 3 4 5 --time 80

Every method makes as many versions as fit into the simulated time. What the results hold already is not run again.
"""

import contextlib
import json
import pathlib
import tempfile

import numpy as np

from experiments.cells import arguments, settings_of
from experiments.laboratory import Lines, config_of
from pubswap_jax import loop
from pubswap_jax.run import journal
from pubswap_jax.run.assembly import Log, assemble
from pubswap_jax.run.methods import make_schedule, make_timeline

PLACES = {"federation.swap_period": 0, "evaluation.clients": False, "training.client_microbatch": 1}
METHODS = {
    "FedAvg": {"federation.method": "fedbuff"},
    "FedBuff": {"federation.method": "fedbuff", "federation.buffer": 2, "federation.free": 1},
    "FedRevive": {"federation.method": "fedrevive", "federation.buffer": 1, "federation.free": 1},
}
SPEEDS = ("1", "1,4", "1,16")


def of_time(spec: str, seed: int, changes: dict, limit: float):
    """The config with the number of versions that are made until the simulated time `limit`, which is evaluated at the end."""
    config = config_of(spec, seed, changes)
    config.federation.rounds = 1
    while True:
        timeline = make_timeline(config, make_schedule(config))
        times = [event.time for event in map(timeline, range(timeline.length)) if event.kind == "evaluate"][1:]
        if times[-1] > limit:
            break
        config.federation.rounds *= 2
    config.federation.rounds = max(1, int(np.sum(np.array(times) <= limit)))
    config.evaluation.every = max(1, config.federation.rounds // 4)
    return config


def train(config, say) -> dict:
    """One run: simulated times and pass@1 of its evaluations, the staleness of its uploads and the β of its distillations."""
    run = assemble(config)._replace(measure=None, log=Log(0, "off", "off", ""))
    with tempfile.TemporaryDirectory(prefix="pubswap") as folder, contextlib.redirect_stdout(Lines(say)):
        loop.train(run, pathlib.Path(folder))
        rows = journal.read(folder, "metrics")
    ended = [row for row in rows if "uploads/client" in row]
    return {
        "curve": [[row["simulated/time"], row["eval/pass@1"]] for row in ended if "eval/pass@1" in row],
        "staleness": [staleness for row in ended for staleness in row["uploads/staleness"]],
        "beta": [beta for row in rows for beta in row.get("public/beta", ()) if beta is not None],
        "kl": [
            [journal.scalars(row)[f"public/kl_{when}"] for when in ("before", "after")] for row in rows if "public/beta" in row
        ],
    }


def main():
    parser = arguments(__doc__)
    parser.add_argument("--time", type=float, default=80.0, help="simulated time; a step of speed 1 takes 1")
    a = parser.parse_args()
    preset = a.config.partition(":")[2] or "tiny"
    out = a.out or pathlib.Path(__file__).parent / f"asynchronous_{preset}.json"
    results = json.loads(out.read_text()) if out.is_file() else {}
    for seed in a.seeds:
        for speeds in SPEEDS:
            for method, changes in METHODS.items():
                name = f"{method}, speeds {speeds}"
                if str(seed) in results.get(name, {}):
                    continue
                given = {**PLACES, **settings_of(a.set), **changes, "federation.speeds": speeds}
                config = of_time(a.config, seed, given, a.time)
                row = train(config, lambda line, name=name, seed=seed: print(f"{name}, seed {seed}: {line}", flush=True))
                results.setdefault(name, {})[str(seed)] = row
                fresh = out.with_suffix(".new")
                fresh.write_text(json.dumps(results) + "\n")
                fresh.replace(out)


if __name__ == "__main__":
    main()
