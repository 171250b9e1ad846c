"""What a checkpoint contains, and how a later start reads it."""

import shutil

import jax
import numpy as np
import pytest
from small_world import config_of, federated_as, finished

from pubswap_jax.algorithm.timeline import lockstep
from pubswap_jax.questions.schedule import Schedule
from pubswap_jax.run import checkpoint, state


def test_a_place_is_the_rounds_and_steps_that_are_done():
    run, _ = finished()
    places = [state.place_of(run, number) for number in range(run.timeline.length + 1)]
    in_a_round = [(0, 0), *[(0, step) for step in range(4)], (0, 4), (0, 4)]  # open, four steps, close, evaluate
    assert places == [(0, 0), *in_a_round, *[(1, step) for _, step in in_a_round], (2, 0)]


def test_moments_are_written_only_where_they_are_used_again(tmp_path):
    run, _ = finished()
    at = state.beginning(run)
    for number, written in ((1, False), (run.timeline.number(0, 2), True)):
        state.save(tmp_path, run, at._replace(number=number), {})
        found, _ = state.resume(tmp_path, run, pytest.fail)
        assert found.number == number and bool(jax.tree.leaves(found.federation.clients.opt_state)) == written
    kept = federated_as(run, config_of(run, federation__moments="keep"))
    state.save(tmp_path / "kept", kept, state.beginning(kept)._replace(number=1), {})
    found, _ = state.resume(tmp_path / "kept", kept, pytest.fail)
    assert jax.tree.leaves(found.federation.clients.opt_state), "moments that outlast a round are in every checkpoint"


def test_a_state_inside_a_round_comes_back_to_the_bit(tmp_path):
    run, _ = finished()
    at = state.beginning(run)._replace(number=run.timeline.number(1, 2))
    changed = jax.tree.map(lambda x: x + 1 if np.issubdtype(x.dtype, np.inexact) else x, at.federation)
    state.save(tmp_path, run, at._replace(federation=changed), {})
    found, _ = state.resume(tmp_path, run, pytest.fail)
    assert jax.tree.structure(found.federation) == jax.tree.structure(changed)
    for one, other in zip(jax.tree.leaves(found.federation), jax.tree.leaves(changed), strict=True):
        assert one.dtype == other.dtype and np.asarray(one).tobytes() == np.asarray(other).tobytes()


def test_best_account_and_position_come_back(tmp_path):
    run, _ = finished()
    number = run.timeline.number(0, 1)
    at = state.beginning(run)._replace(number=number, best=state.Best(0, 0.25), account={"up/adapters": [1, 2, 3]})
    state.save(tmp_path, run, at, {"metrics": 7})
    found, position = state.resume(tmp_path, run, pytest.fail)
    assert (found.best, found.account, found.number, position) == (at.best, at.account, number, {"metrics": 7})


def test_a_checkpoint_of_an_earlier_version_is_named(tmp_path, monkeypatch):
    run, _ = finished()
    state.save(tmp_path, run, state.beginning(run)._replace(number=1), {})
    found = checkpoint.newest(tmp_path, pytest.fail)
    notes = checkpoint.notes(found)
    del notes["format"]
    monkeypatch.setattr(checkpoint, "notes", lambda _: notes)
    with pytest.raises(ValueError, match="written by another version of pubswap_jax; go on with that version"):
        state.load(found, run)


def test_a_damaged_best_round_is_named(tmp_path):
    run, workdir = finished()
    shutil.copytree(workdir / "checkpoints", tmp_path / "checkpoints")
    last = state.load(checkpoint.newest(tmp_path / "checkpoints", pytest.fail), run)[0]
    best = last._replace(best=state.Best(1, 0.5))
    assert state.place_of(run, state.load_best(tmp_path / "checkpoints", best, run).number) == (1, 0)
    (tmp_path / "checkpoints" / "round-000001" / checkpoint.NOTES).write_text("{}")
    with pytest.raises(ValueError, match=r"the best round, 1, cannot be read: notes.json was changed; the last one is round 2"):
        state.load_best(tmp_path / "checkpoints", best, run)
    shutil.rmtree(tmp_path / "checkpoints" / "round-000001")
    with pytest.raises(ValueError, match="it is not there"):
        state.load_best(tmp_path / "checkpoints", best, run)


def test_a_fork_with_other_steps_goes_on_from_the_same_round():
    """The number of the next event follows from the rounds and steps done, whatever length a round has now."""
    run, _ = finished()
    for steps in (2, 9):
        plan = Schedule(steps, 2)
        forked = run._replace(timeline=lockstep(plan, 5, lambda round: np.ones(3, bool)), steps=steps)
        for round in range(3):
            event = forked.timeline(state.number_at(forked, round, 0))
            assert (event.kind, event.round) == ("open", round)
        event = forked.timeline(state.number_at(forked, 1, 3))
        assert (event.kind, event.round, event.step) == (("close", 1, 2) if steps == 2 else ("public", 1, 3))
