"""Settings that change what a checkpoint holds, in pairs: killed, resumed, evaluated and exported, equal to the bit."""

import pathlib
import pkgutil
import tempfile

import pytest
from small_world import assemble, federated_as, small_config, write_base

from experiments.kill_and_resume.combinations import VALUES, allowed, changed, name_of, outcome, pairs, pairwise
from pubswap_jax import loop
from pubswap_jax.run import export

FOLDER = tempfile.TemporaryDirectory(prefix="pubswap")  # removed when the process ends
PLACES = (
    "pubswap_jax.loop.Book.closed",
    "pubswap_jax.run.judge.verify",
    "pubswap_jax.run.checkpoint.save",
    "pubswap_jax.run.evaluation.evaluate",
)
SMALL = {"federation__rounds": 2, "federation__steps": 2, "log__distortion": "off", "checkpoint__keep": 1, "data__test": 4}
CONFIG = small_config(pathlib.Path(FOLDER.name), data__validation=6, training__prompts=2, evaluation__batch=6, **SMALL)
write_base(pathlib.Path(CONFIG.model.path), num_hidden_layers=1)  # half the compilation
CHOSEN = pairwise(allowed(CONFIG))


class Killed(BaseException):
    """As kill -9: nothing of ours catches it."""


@pytest.fixture(scope="module")
def run():
    return assemble(CONFIG)


def end(run, workdir):
    """Trains to the end, evaluates and exports as the commands do, and says all that must be equal."""
    loop.train(run, workdir)
    export.export_run(run, workdir)
    return outcome(workdir) | {"evaluated": export.evaluate_run(run, workdir)}


def test_every_pair_of_values_that_the_check_allows_is_among_them():
    possible = allowed(CONFIG)
    assert set().union(*map(pairs, CHOSEN)) == set().union(*map(pairs, possible)) and len(CHOSEN) < len(possible) / 4
    for name, values in VALUES.items():
        assert {combination[name] for combination in CHOSEN} == set(values)


@pytest.mark.parametrize("number", range(len(CHOSEN)), ids=[name_of(combination) for combination in CHOSEN])
def test_killed_in_the_second_round_and_resumed(run, number, tmp_path, monkeypatch):
    this = federated_as(run, changed(CONFIG, CHOSEN[number]))
    (tmp_path / "whole").mkdir()
    expected = end(this, tmp_path / "whole")
    place, calls = PLACES[number % len(PLACES)], iter(range(10_000))
    real, second = pkgutil.resolve_name(place), {"at": None}

    def killed(*arguments, **named):
        """Once the first round is saved, the next call ends the process; of a step's verifications, the second one."""
        if (tmp_path / "killed" / "checkpoints" / "round-000001").exists() or second["at"] is not None:
            second["at"] = next(calls)
            if second["at"] == 1 or not place.endswith("verify"):
                raise Killed
        return real(*arguments, **named)

    (tmp_path / "killed").mkdir()
    monkeypatch.setattr(place, killed)
    with pytest.raises(Killed):
        loop.train(this, tmp_path / "killed")
    monkeypatch.undo()
    assert end(this, tmp_path / "killed") == expected
