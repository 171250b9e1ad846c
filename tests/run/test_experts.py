"""FedGRPO from a config: its batches, its choices, and the adapters of its experts."""

import jax
import numpy as np
import pytest
from small_world import config_of, event_at, finished

from pubswap_jax import settings
from pubswap_jax.algorithm.resampling import not_flat
from pubswap_jax.algorithm.truncation import mask_truncated
from pubswap_jax.policy.adapter import init_adapter
from pubswap_jax.run import assembly, experts, methods
from pubswap_jax.weights.peft import export_adapter

FEDGRPO = {
    "federation__method": "fedgrpo",
    "federation__rounds": 3,
    "federation__steps": 3,
    "federation__auxiliary": 6,
    "federation__neighbours": 3,
    "federation__overlap": 0.5,
}

OWN = {"labelled": 6, "overlap": 0.5, "seed": 0}


@pytest.fixture(scope="module")
def run():
    return finished()[0]


@pytest.fixture(scope="module")
def asked(run):
    return assembly.Asked(run.data.train, run.data.split, run.data.validation, run.data.test, [])


@pytest.fixture(scope="module")
def config(run):
    return config_of(run, **FEDGRPO)


def test_batches_are_of_the_clients_the_auxiliary_and_the_servers_questions(run, config, asked):
    timeline = methods.make_timeline(config, methods.make_schedule(config))
    asked, labelled = experts.with_labelled(asked, timeline, **OWN)
    batch, at = assembly.make_batches(config, asked, run.place, labelled), run._replace(timeline=timeline)
    private, auxiliary, public = (batch(event_at(at, *place)) for place in ((0, 0), (1, 0), (1, 1)))
    assert labelled == 6 and private.prompts.tokens.shape[:2] == (3, 4) and not private.public and private.held is None
    assert auxiliary.prompts.tokens.shape[:2] == (1, 6) and auxiliary.labelled and auxiliary.ids.tolist() == [list(range(6))]
    assert public.prompts.tokens.shape[:2] == (1, 4) and public.public and not public.labelled
    seen = [batch(event_at(at, r, s)) for r in (1, 2) for s in range(3) if (r, s) != (1, 0)]
    assert min(one.ids.min() for one in seen) >= 6, "the server's own questions are not those whose answers it knows"
    problems, split = asked.train.problems, asked.split
    for client, own in enumerate(split.clients):
        ids = {problems[i].id for i in own}
        assert np.asarray(public.held)[client].tolist() == [problem.id in ids for problem in public.answers[0]]
    shared = [len(set(own) & set(split.public)) for own in split.clients]
    assert shared == [round(0.5 * (len(split.public) - 6))] * 3 and shared[0]


def test_too_few_public_questions_are_named(run, config, asked):
    timeline = methods.make_timeline(config, methods.make_schedule(config))
    with pytest.raises(ValueError, match=r"federation.auxiliary=60: there are \d+ public questions"):
        experts.with_labelled(asked, timeline, **OWN | {"labelled": 60})
    assert experts.with_labelled(asked, run.timeline, **OWN) == (asked, 0), "no other way of federating has labelled questions"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"federation__choice": "random", "federation__refresh": 1},
        {"federation__compare": "experts_then_mean", "training__advantages": "centred"},
        {"training__truncation": "penalise", "training__truncation_buffer": 2, "federation__compare": "candidates"},
    ],
)
def test_every_choice_builds_a_federation(run, changes):
    config = config_of(run, **FEDGRPO | changes)
    settings.check(config)
    assert methods.make_federation(config, run.policy.model).own(None) is None
    assert methods.make_measurement(config, run.policy.model) is None, "nothing is swapped that could be measured"


def test_the_policy_learns_as_the_training_fields_say(run):
    config = config_of(run, training__truncation="mask", training__zero_variance="exclude", training__importance_cap=2.0)
    how = methods.make_learning(config)
    assert how.truncation is mask_truncated and how.counted is not_flat and how.importance is not None
    assert how.kl is None and how.inner_epochs == 1 and how.microbatch is None


def test_adapters_of_folders_are_the_experts(run, tmp_path):
    model, base = run.policy.model, run.policy.base
    folders, made = [], []
    for client in range(2):
        adapter = jax.jit(lambda key: init_adapter(key, model, base))(jax.random.key(client))
        made.append(jax.tree.map(lambda x: x + 0.5, adapter))
        export_adapter(tmp_path / f"{client}", made[-1], model.config, "base", basis=base["basis"])
        folders.append(str(tmp_path / f"{client}"))
    loaded = experts.load_experts(", ".join(folders), model.config)
    for x, *each in zip(*map(jax.tree.leaves, (loaded, *made)), strict=True):
        np.testing.assert_allclose(x, np.stack(each), rtol=1e-6)
    assert experts.load_experts("", model.config) == ()
    with pytest.raises(ValueError, match=r"config.federation.adapters: .*/0 has another rank, alpha or other layers"):
        experts.load_experts(folders[0], model.config.replace(lora_targets=("q_proj",)))
