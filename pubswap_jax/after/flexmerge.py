"""The mode `flexmerge`: merges the clients' adapters into fewer models, and says what each client loses by it."""

import html
import json
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pubswap_jax.after import merging
from pubswap_jax.after.adapters import (
    Own,
    accuracy,
    lora_of,
    mixture,
    names_of,
    own_adapters,
    rank_of,
    sizes_of,
    with_rank,
)
from pubswap_jax.after.merging import Block, Group, Merge, Merged
from pubswap_jax.files import bytes_text
from pubswap_jax.report.charts import Line, lines
from pubswap_jax.report.page import PAGE, figure, section, table
from pubswap_jax.run import evaluation
from pubswap_jax.run.assembly import Run, assemble
from pubswap_jax.run.export import base_name
from pubswap_jax.run.methods import make_merging
from pubswap_jax.run.policy import beside_warmup
from pubswap_jax.weights.pretrained import export_adapter

FOLDER, MOST_SIZES = "flexmerge", 8

CARD = """---
base_model: {base}
library_name: peft
tags: [lora, federated, flexmerge]
---

The adapter of client {client} after merging by FlexMerge ({how}) at {size:.2f}x, at rank {rank}, from round {round} of
{run}. Blocks that this client shares, with the clients that share them: {shared}.
"""


class Row(NamedTuple):
    """What merging to one size gives: the size that was reached, the groups, the clients' accuracies, the error of merging."""

    size: float  # reached
    groups: list[list[Group]]  # of each block
    accuracies: list[float]  # pass@1 of each client on its own topics
    error: float  # the largest relative error of a merged block; 0: all are exact


def flexmerge(config, workdir: pathlib.Path) -> str:
    """Merges the adapters of the run in `workdir`, writes PEFT folders and a page, and returns the table."""
    return merge_run(assemble(config), config, workdir)


def merge_run(run: Run, config, workdir: pathlib.Path) -> str:
    """Does what `flexmerge` does, for a run that is already assembled: writes folders and a page, and returns the table."""
    asked = make_merging(config)
    found = own_adapters(run, workdir)
    clients = len(found.clients)
    if asked.size > clients:
        raise ValueError(f"config.merge.size={asked.size:g}: 1 to {clients} expected, since there are {clients} adapters")
    steps = merging.order(np.stack([merging.cosines(merging.gram(block)) for block in found.blocks]))
    weights = sizes_of(found.blocks)
    sizes = sorted({asked.size, *(curve_of(clients) if asked.curve else ())})
    grouped = [merging.groups_at(steps, size, clients, weights) for size in sizes]
    shared = merged_blocks(found.blocks, grouped, asked.merge)
    rows = evaluated(run, config, found, grouped, shared, weights)
    chosen = rows[sizes.index(asked.size)]
    folders = exported(run, asked.how, workdir, found, chosen, shared)
    text = summary(run, asked.how, found, rows, chosen)
    write_page(workdir, found, rows, text)
    return "\n".join([text, *map(str, folders)])


def curve_of(clients: int) -> list[float]:
    """The sizes that the picture shows: at most MOST_SIZES numbers of models, from 1 to the number of clients."""
    return np.round(np.linspace(1, clients, min(clients, MOST_SIZES)), 2).tolist()


def merged_blocks(
    blocks: Sequence[Block], grouped: Sequence[Sequence[Sequence[Group]]], merge: Merge
) -> dict[tuple[int, Group], Merged]:
    """Merges every group of every size once: (block, group) -> the merged block. A group of one client is not changed."""
    found: dict[tuple[int, Group], Merged] = {}
    for groups in grouped:
        for number, block in enumerate(groups):
            for group in block:
                if (number, group) not in found:
                    alone = len(group) == 1
                    own = merging.own(blocks[number], group[0])
                    found[number, group] = Merged(own, 0.0) if alone else merge(blocks[number], group)
    return found


def model_of(groups: Sequence[Sequence[Group]], client: int) -> tuple[Group, ...]:
    """For each block, the group that the client belongs to. Together these groups say of which blocks its model is made."""
    return tuple(merging.group_of(block, client) for block in groups)


def evaluated(run: Run, config, found: Own, grouped, shared, weights: np.ndarray) -> list[Row]:
    """Evaluates the merged models of every size and returns one Row per size. Equal models are evaluated once."""
    rank = rank_of([merged.block for merged in shared.values()])
    wide = with_rank(run, config, rank)
    examine, known, rows = evaluation.make_examine(wide, lambda: None), {}, []
    shares = [mixture(run, client) for client in found.clients]
    for groups in grouped:
        accuracies = []
        for i, topics in enumerate(shares):
            model = model_of(groups, i)
            if model not in known:
                _, adapter = lora_of(run.policy.config, [shared[pair].block for pair in enumerate(model)], rank)
                (known[model],) = examine(evaluation.one(run.place.put(adapter)), run.data.test)
            accuracies.append(accuracy(known[model], topics))
        error = max(shared[number, group].error for number, block in enumerate(groups) for group in block)
        rows.append(Row(merging.size_of(groups, weights), groups, accuracies, error))
    return rows


def exported(run: Run, how: str, workdir: pathlib.Path, found: Own, row: Row, shared) -> list[pathlib.Path]:
    """Writes each client's merged adapter as a PEFT folder, at the largest rank of its blocks. Returns the folders' paths."""
    folders = []
    for i, client in enumerate(found.clients):
        model = model_of(row.groups, i)
        blocks = [shared[pair].block for pair in enumerate(model)]
        adapted, adapter = lora_of(run.policy.config, blocks, rank_of(blocks))
        adapted, adapter, _ = beside_warmup(run.settings["model.warmup"], adapted, adapter, {})
        rank = dict(adapted.adapter.settings)["rank"]
        folder = workdir / FOLDER / f"client_{client}"
        for file in folder.glob("*"):
            file.unlink()
        export_adapter(folder, adapter, adapted, base_name(run))
        with_others = [f"{number} ({names_of(found.clients, group)})" for number, group in enumerate(model) if len(group) > 1]
        known = {"base": base_name(run), "client": client, "how": how, "size": row.size, "rank": rank}
        known |= {"round": found.round, "run": workdir.name, "shared": ", ".join(with_others) or "none"}
        (folder / "README.md").write_text(CARD.format(**known))
        folders.append(folder)
    return folders


def summary(run: Run, how: str, found: Own, rows: Sequence[Row], chosen: Row) -> str:
    """Text for the terminal: a table with one row per size, then the groups of every block at the chosen size."""
    names = [f"client {client}" for client in found.clients]
    head = f"{'size':>6}{'mean':>9}" + "".join(f"{name:>11}" for name in names) + f"{'error':>9}  groups in each block"
    said = [
        f"{len(found.clients)} clients' adapters of round {found.round}, merged by {how}; pass@1 on each client's "
        f"topics, {len(run.data.test.problems)} test questions, {run.examiner.samples} samples each",
        f"crossed: {bytes_text(found.sent)} of each client, its adapter",
        head,
    ]
    for row in rows:
        cells = "".join(f"{value:>11.4f}" for value in row.accuracies)
        counts = " ".join(str(len(block)) for block in row.groups)
        said.append(f"{row.size:>5.2f}x{np.mean(row.accuracies):>9.4f}{cells}{row.error:>9.4f}  {counts}")
    said.append(f"at {chosen.size:.2f}x the clients share:")
    for number, block in enumerate(chosen.groups):
        said.append(f"  block {number}: " + ", ".join(names_of(found.clients, group) for group in block))
    return "\n".join(said)


def write_page(workdir: pathlib.Path, found: Own, rows: Sequence[Row], text: str) -> None:
    """Writes two files: flexmerge.html, with a chart of accuracy against size, and figures.json."""
    x = [row.size for row in rows]
    curves = [Line("mean of clients", x, [float(np.mean(row.accuracies)) for row in rows])]
    curves += [Line(f"client {c}", x, [row.accuracies[i] for row in rows]) for i, c in enumerate(found.clients)]
    picture = figure("pass@1 on each client's topics", lines(curves, "size in models", "pass@1"))
    shared = [[f"{row.size:.2f}x", *(len(block) for block in row.groups)] for row in rows]
    counts = table(["size", *(f"block {i}" for i in range(len(rows[0].groups)))], shared)
    body = [section("Accuracy against size", picture), section("Groups in each block", counts)]
    body.append(section("Table", f"<pre>{html.escape(text)}</pre>"))
    folder = workdir / FOLDER
    title = html.escape(f"{workdir.resolve().name}, merged")
    (folder / "flexmerge.html").write_text(PAGE.format(title=title, body="\n".join(body)), encoding="utf-8")
    figures = [
        row._asdict() | {"groups": [[names_of(found.clients, g) for g in block] for block in row.groups]} for row in rows
    ]
    (folder / "figures.json").write_text(json.dumps({"clients": found.clients, "round": found.round, "rows": figures}) + "\n")
