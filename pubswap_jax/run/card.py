"""The model card of an exported adapter: data, partition, figures with intervals, and the fields of the run."""

import pathlib

from pubswap_jax import settings
from pubswap_jax._version import __version__
from pubswap_jax.fields import default_config
from pubswap_jax.policy.adapter import described
from pubswap_jax.run import journal
from pubswap_jax.run.assembly import Run
from pubswap_jax.run.earlier import shared_model
from pubswap_jax.run.state import RunState, place_of

CARD = """---
base_model: {base}
library_name: peft
tags: [lora, grpo, federated]
---

# {name}

A LoRA adapter, trained as {family} by pubswap_jax, federated reinforcement learning with verifiable rewards: {clients} clients,
{rounds_of}. This is {whose} after round {round} of {rounds}, the best one by the
validation questions.

| pass@1 | base | this run's best |
|---|---|---|
{cells}

The figures are those of {tested} on the run's test questions{intervals}; base SHA-256 {digest}.

Questions: {data}; {public} public ones and {private} private ones, split among the clients by `{partition}`. The fields of the
run's config that differ from the defaults of pubswap_jax {version}:

```
{flags}
```
"""


def base_name(run: Run) -> str:
    """The base model's name as the config has it: a hub name, a folder, or the embedded model."""
    return str(run.settings["model.path"] or f"pubswap_jax/{run.policy.folder.name}")


def _whose(name: str, served: bool) -> str:
    """Whose adapter is exported, in words; `served`: the server trains the shared one, as in FedGRPO."""
    if name == "global":
        return "the server's adapter" if served else "the averaged adapter"
    return f"{name.replace('_', ' ')}'s own adapter" + ("" if served else ", before averaging")


def _intervals(tested: list[dict], models: tuple) -> str:
    """Confidence intervals as text for the model card: ' (95 % intervals: base 0.2 to 0.3, best 0.8 to 0.9)'.

    Empty where a model was not tested.
    """
    found = {(row["round"], row["model"]): row["figures"] for row in tested}
    ends = [f"{found[one]['pass@1_low']:.3f} to {found[one]['pass@1_high']:.3f}" for one in models if one in found]
    return f" (95 % intervals over questions: base {ends[0]}, best {ends[1]})" if len(ends) == 2 else ""


def _flags(known: dict) -> list[str]:
    """The fields that differ from their default, each as a flag of the command."""
    usual = settings.flatten(default_config())
    return [f"--config.{name}={value}" for name, value in known.items() if name in usual and value != usual[name]]


def card_of(run: Run, at: RunState, workdir: pathlib.Path, name: str) -> str:
    """The model card, in Markdown, of the exported adapter `name`."""
    known, shared = run.settings, run.federation.shared(at.federation) is not None
    model, round = "global" if shared else name.replace("_", " "), place_of(run, at.number)[0]
    tested = [row for row in journal.read(workdir, "evaluations") if row["split"] == "test"]
    figures = {(row["round"], row["model"]): row["by_topic"] | {"all": row["figures"]["pass@1"]} for row in tested}
    base, best = figures.get((0, "global"), {}), figures.get((round, model), {})
    served = known["federation.method"] == "fedgrpo"
    steps, swap = known["federation.steps"], known["federation.swap"]
    cells = [f"| {topic} | {base[topic]:.3f} | {best[topic]:.3f} |" for topic in base if topic in best]
    return CARD.format(
        base=base_name(run),
        name=f"{workdir.name}, {name}",
        family=described(run.policy.config.adapter),
        clients=known["federation.num_clients"],
        rounds_of=f"rounds of {steps} steps, FedGRPO" if served else f"{steps} steps between two averagings, swap `{swap}`",
        whose=_whose(name, served),
        tested=f"the {shared_model(known)}" if shared else "this client's model",
        round=round,
        rounds=run.rounds,
        cells="\n".join(cells),
        intervals=_intervals(tested, ((0, "global"), (round, model))),
        data=run.given.described().get("questions", {}).get("name") or known["data.path"] or known["data.name"],
        public=len(run.data.split.public),
        private=sum(map(len, run.data.split.clients)),
        partition=known["data.partition"],
        version=__version__,
        flags="\n".join(_flags(known)),
        digest=run.policy.digest,
    )
