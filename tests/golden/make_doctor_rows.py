"""Writes doctor_rows.json: what alarms read of the metrics of real runs, with the clients' means to four digits.

Each run was broken on purpose, as the entry says, but for the default one, and was trained by:

    pubswap train math --config.federation.rounds=2 --workdir=FOLDER        # the default run: silent
    pubswap train math SMALL --config.training.lr=1e-7 --workdir=FOLDER     # and so on

where SMALL is federation.num_clients=2, training.prompts=4, federation.steps=20 and federation.rounds=1.

    python tests/golden/make_doctor_rows.py default=FOLDER cold=FOLDER:training.temperature=0.01 ...
"""

import json
import pathlib
import sys

from pubswap_jax.run import doctor, journal
from pubswap_jax.run.symptoms import needed, timeouts


def reduced(row):
    """The row with only what alarms read, in four digits."""
    kept = {name: round(x, 4) if isinstance(x, float) else x for name, x in needed(row).items()}
    if "round/drift_by_module" in kept:
        kept["round/drift_by_module"] = [[float(f"{x:.3g}") for x in modules] for modules in row["round/drift_by_module"]]
    return kept


def main(words):
    found = {}
    for word in words:
        name, _, place = word.partition("=")
        folder, _, broken = place.partition(":")
        rows = journal.read(folder, "metrics")
        seen = any(name.endswith("/timeout") for row in rows for name in row)  # runs of earlier versions have none
        rows = [reduced(row) for row in (rows if seen else rows + timeouts(journal.read(folder, "rollouts")))]
        raised = [line.partition(":")[0] for line in doctor.alarms(rows)]
        found[name] = ({"broken": broken} if broken else {}) | {"alarms": raised, "rows": rows}
        print(name, raised)
    lines = [f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in found.items()]
    pathlib.Path(__file__).with_name("doctor_rows.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
