"""Other federations through the same loop: partial participation, parts, carried moments, everyone alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_world import config_of, event_at, federated_as, finished, small_config

from pubswap_jax import loop
from pubswap_jax.algorithm.federation import direct, make_rows
from pubswap_jax.loop import train, train_and_evaluate
from pubswap_jax.run import evaluation, export, journal, state
from pubswap_jax.run.assembly import assemble
from pubswap_jax.run.checkpoint import listed
from pubswap_jax.run.signals import Stopped
from pubswap_jax.types import Verdict


@pytest.mark.slow
def test_partial_participation_in_parts_with_averaged_moments(tmp_path):
    config = small_config(
        tmp_path,
        federation__participants=2,
        federation__weights="size",
        federation__moments="average",
        federation__swap="random_swap",
        federation__swap_unit="extra",
        federation__steps=2,
        training__client_microbatch=1,
        training__warmup=3,
        training__prox_coef=0.1,
        evaluation__every=2,
        log__distortion="step",
    )
    server = train_and_evaluate(config, tmp_path / "run").server
    rows = journal.read(tmp_path / "run", "metrics")
    assert int(server.round) == 2 and jax.tree.leaves(server.moments)
    steps = [row for row in rows if "step" in row]
    assert len(steps) == 2 * 3 and all(
        sum(x is None for x in row.get("private/reward", row.get("public/reward"))) == 1 for row in steps
    )
    assert all(row["swap/beta"].count(None) == 1 for row in steps if "public/donors" in row)
    rounds = [row for row in rows if "step" not in row]
    assert [("eval/pass@1" in row) for row in rounds] == [True, False, True]
    assert all(sum(size == 0 for size in row["ledger/up/adapters"]) == 1 for row in rounds[1:])
    alone = finished()[0].policy.adapter
    moments = sum(leaf.nbytes for leaf in jax.tree.leaves(server.moments))
    assert max(rounds[1]["ledger/up/adapters"]) == sum(leaf.nbytes for leaf in jax.tree.leaves(alone)) + moments


@pytest.mark.slow
def test_averaged_moments_are_read_back_where_the_best_round_is_neither_first_nor_last(tmp_path, monkeypatch):
    scores = {1: {"eval/pass@1": 0.5}, 2: {"eval/pass@1": 0.9}, 3: {"eval/pass@1": 0.1}}
    monkeypatch.setattr(evaluation, "trained", lambda run, examine, recorder, event, state: scores[event.round + 1])
    changes = {"federation__participants": 2, "federation__moments": "average", "federation__rounds": 3, "checkpoint__steps": 1}
    config = small_config(tmp_path, federation__steps=2, log__distortion="off", **changes)
    run = assemble(config)
    (tmp_path / "run").mkdir()
    server = train(run, tmp_path / "run").server
    best = state.load_best(tmp_path / "run" / "checkpoints", state.resume(tmp_path / "run" / "checkpoints", run, print)[0], run)
    assert int(server.round) == 3 and state.place_of(run, best.number) == (2, 0)
    assert jax.tree.leaves(best.federation.server.moments)
    rows = {row["round"]: row for row in journal.read(tmp_path / "run", "metrics") if "step" not in row}
    adapter, moments = (sum(x.nbytes for x in jax.tree.leaves(tree)) for tree in (server.adapter, server.moments))
    assert max(rows[1]["ledger/down/adapters"]) == adapter, "the first round's moments are zeros, which nobody sends"
    assert max(rows[2]["ledger/down/adapters"]) == max(rows[1]["ledger/up/adapters"]) == adapter + moments


def test_absent_clients_have_no_figures_of_their_own(tmp_path):
    config = small_config(tmp_path, federation__participants=2, federation__steps=2, log__distortion="off")
    run = assemble(config)
    (tmp_path / "run").mkdir()
    train(run, tmp_path / "run")
    rows = journal.read(tmp_path / "run", "metrics")
    for row in rows:
        if "step" in row or not row["round"]:
            continue
        absent = int(np.flatnonzero(~event_at(run, row["round"] - 1, 0).who)[0])
        assert row["round/drift"][absent] is None and row["clients/pass@1"][absent] is None
        assert set(row["round/drift_by_module"][absent]) == {None} == {line[absent] for line in row["round/cosine"]}
        assert row["round/drift"].count(None) == row["clients/pass@1"].count(None) == 1
    slots = 2 * config.training.prompts * config.training.group
    steps = [row for row in rows if "step" in row]
    tokens = [row.get("private/tokens", row.get("public/tokens")) for row in steps]
    assert all(0 < count <= slots * config.training.max_new_tokens for count in tokens), "two clients' tokens, not three"
    shown = journal.read(tmp_path / "run", "rollouts")
    assert shown and all(event_at(run, row["round"], 0).who[row["client"]] for row in shown)
    best = state.place_of(run, export.best_state(run, tmp_path / "run").number)[0]
    names = {folder.name for folder in export.export_run(run, tmp_path / "run")}
    taking_part = [f"client_{i}" for i in range(3) if best and event_at(run, best - 1, 0).who[i]]
    assert names == {"global", *taking_part}


@pytest.mark.slow
def test_everyone_alone(tmp_path):
    config = small_config(tmp_path, federation__average=False, federation__swap_period=0, federation__steps=2)
    last = train_and_evaluate(config, tmp_path / "run")
    rows = journal.read(tmp_path / "run", "metrics")
    rounds = [row for row in rows if "step" not in row and row["round"]]
    assert int(last.round) == 2 and not any(name.endswith("adapters") for row in rounds for name in row)
    assert all(row["eval/pass@1"] == np.mean(row["clients/pass@1"]) for row in rounds)
    assert rounds[1]["round/drift"] != rounds[0]["round/drift"] and min(rounds[1]["round/drift"]) > 0
    evaluations = journal.read(tmp_path / "run", "evaluations")
    assert {row["model"] for row in evaluations if row["round"]} == {"client 0", "client 1", "client 2"}
    best = max(row["round"] for row in evaluations if row["split"] == "test")
    assert best > 0
    tested = [row for row in evaluations if row["split"] == "test" and row["round"] == best]
    mean = np.mean([row["figures"]["pass@1"] for row in tested])
    told = export.evaluate_adapter(config, tmp_path / "run", "")
    assert f"pass@1, mean of clients {mean:>8.4f}" in told and told.count("pass@1 of client") == 3
    assert f"→ {mean:.3f}, change " in (tmp_path / "run" / "report.html").read_text()
    folders = export.export(config, tmp_path / "run")
    card = (folders[1] / "README.md").read_text()
    assert f"| all | {evaluations[1]['figures']['pass@1']:.3f} | {tested[1]['figures']['pass@1']:.3f} |" in card
    assert "this client's model" in card


def poisoned(run, who, moments=False):
    """The run with a NaN in the adapter (or moments) of the clients `who` after every step."""

    def step(base, state, *rest):
        state, record = run.federation.step(base, state, *rest)
        if isinstance(jax.tree.leaves(state)[0], jax.ShapeDtypeStruct):
            return state, record
        field = "opt_state" if moments else "adapter"
        leaves, tree = jax.tree.flatten(getattr(state.clients, field))
        leaves[-1] = spoil(leaves[-1], jax.device_put(np.isin(np.arange(3), who)))
        return state.replace(clients=state.clients.replace(**{field: jax.tree.unflatten(tree, leaves)})), record

    spoil = jax.jit(lambda x, bad: jnp.where(bad.reshape(-1, *[1] * (x.ndim - 1)), jnp.nan, x))
    return run._replace(federation=run.federation._replace(step=step))


@pytest.mark.parametrize("moments", [False, True])
def test_a_client_whose_adapter_is_not_finite_is_left_out_and_named(tmp_path, capsys, moments):
    run, _ = finished()
    last = train(poisoned(run, [1], moments), tmp_path)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(last.server.adapter))
    rounds = [row for row in journal.read(tmp_path, "metrics") if "step" not in row and row["round"]]
    assert [row["round/excluded"] for row in rounds] == [[0, 1, 0]] * 2
    assert all(row["round/drift"][1] == 0 < min(row["round/drift"][::2]) for row in rounds)
    assert "round 2: the adapter of client 1 is not finite; it is left out of the average" in capsys.readouterr().out
    assert "Round 2: client 1 was left out of the average" in (tmp_path / "report.html").read_text()


def test_a_run_stopped_after_an_exclusion_makes_it_again(tmp_path, monkeypatch):
    """A checkpoint has the clients from before an averaging: else the excluded client would return with its full weight."""
    run, told = poisoned(finished()[0], [1]), []
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir()
    stopped.mkdir()
    expected = train(run, whole)
    monkeypatch.setattr("pubswap_jax.run.book.exclusion", lambda *_: told.append(1) or "excluded")

    def check():
        if len(told) == 1:
            raise Stopped

    with pytest.raises(Stopped):
        train(run, stopped, check=check)
    last = train(run, stopped)
    rounds = [row for row in journal.read(stopped, "metrics") if "step" not in row and row["round"]]
    assert [row["round/excluded"] for row in rounds] == [[0, 1, 0]] * 2
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, last.server.adapter, expected.server.adapter)))


def test_where_nobody_is_left_the_run_stops_with_the_fix(tmp_path):
    run, _ = finished()
    with pytest.raises(ValueError, match="round 1: no client's adapter is finite any more; lower --config.training.lr or"):
        train(poisoned(run, [0, 1, 2]), tmp_path)
    assert all(checkpoint.step == 0 for checkpoint in listed(tmp_path / "checkpoints")), "nothing poisoned is kept"


def test_a_hidden_transfer_to_the_device_fails(tmp_path):
    run, _ = finished()
    verdict = Verdict.from_correct(np.zeros((3, 4, 4), bool))
    hidden = run._replace(judge=lambda rollouts, batch: verdict)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        train(hidden, tmp_path)


# --- parts --------------------------------------------------------------------------------------------------------------


def in_parts(run, size):
    """The run's federation with so many clients at a time."""
    return federated_as(run, config_of(run, training__client_microbatch=size)).federation


def step_of(run, federation, number, judge, who=None):
    event = event_at(run, 0, number)
    at = federation.open(federation.init(run.policy.adapter), direct)
    arguments = run.data.batch(event), judge, direct, jax.random.key(number), run.hparams(event), who
    return (at, *federation.step(run.policy.base, at, *arguments))


@pytest.mark.slow
def test_parts_give_what_the_whole_gives_and_are_verified_in_turn():
    run, order = finished()[0], []

    def judge(rollouts, batch):
        order.append((rollouts.tokens.shape[0], len(batch.answers)))
        return run.judge(rollouts, batch)

    _, parts, record = step_of(run, in_parts(run, 1), 1, judge)
    _, whole, other = step_of(run, run.federation, 1, run.judge)
    assert order == [(1, 1)] * 3
    assert record.rollouts.tokens.tolist() == other.rollouts.tokens.tolist()
    for one, two in zip(*(jax.tree.leaves((x, y.metrics)) for x, y in ((parts, record), (whole, other))), strict=True):
        np.testing.assert_allclose(np.asarray(one, float), np.asarray(two, float), atol=2e-4)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_those_who_take_part_do_as_they_would_alone_and_nobody_else_is_computed(size):
    run, computed, who = finished()[0], [], np.array([True, False, True])

    def judge(rollouts, batch):
        computed.append(rollouts.tokens.shape[0])
        return run.judge(rollouts, batch)

    before, after, record = step_of(run, in_parts(run, size), 0, judge, who)
    assert computed == {1: [1, 1], 2: [2], 3: [2]}[size]
    assert not np.asarray(record.rollouts.mask[1]).any(), "nobody samples for an absent client"
    for leaf, old in zip(jax.tree.leaves(after.clients), jax.tree.leaves(before.clients), strict=True):
        assert (np.asarray(leaf[1]) == np.asarray(old[1])).all()
    event, take = event_at(run, 0, 0), make_rows().take
    batch, hparams = run.data.batch(event), run.hparams(event)
    for c in np.flatnonzero(who):
        clients, prompts = take((before.clients, batch.prompts), np.array([c], np.int32))
        own = batch.replace(prompts=prompts, answers=[batch.answers[c]], ids=batch.ids[c : c + 1])
        arguments = own, run.judge, direct, jax.random.key(0), hparams
        alone, said = run.federation.step(run.policy.base, before.replace(clients=clients), *arguments)
        assert np.asarray(said.rollouts.tokens[0]).tolist() == np.asarray(record.rollouts.tokens[c]).tolist()
        for leaf, other in zip(*(jax.tree.leaves(x.clients.adapter) for x in (alone, after)), strict=True):
            np.testing.assert_allclose(leaf[0], other[c], atol=1e-5)


def test_a_stop_between_two_parts_discards_the_step():
    run, judged = finished()[0], []
    nothing = jax.device_put(Verdict.from_correct(np.zeros((1, 4, 4), bool)))

    def check():
        if len(judged) == 1:
            raise Stopped

    judge = loop.watched(lambda *_: judged.append(1) or nothing, run.programs.clock, check)
    with pytest.raises(Stopped):
        step_of(run, in_parts(run, 1), 0, judge)
    assert len(judged) == 1
