"""Values that exclude each other are refused with the fix, and fields are found by the names that other tools give them."""

import pathlib
import re

import pytest
from refusals import refused, with_fields

from pubswap_jax import checks, settings, types
from pubswap_jax.fields import FIELDS, default_config

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"


RAVAN = {"model__adapter": "ravan", "federation__num_clients": 3, "federation__swap_period": 2}
IMPOSSIBLE = {
    "words for heads": (RAVAN | {"federation__heads": "2,many,1"}, "federation.heads=2,many,1: whole numbers joined by commas"),
    "heads of two clients": (RAVAN | {"federation__heads": "2,1"}, "federation.heads=2,1: 3 numbers expected, one a client"),
    "too many heads": (RAVAN | {"federation__heads": "2,5,1"}, ".*each 1 to model.heads=4"),
    "no head": (RAVAN | {"federation__heads": "2,0,1"}, ".*each 1 to model.heads=4"),
    "partial heads of LoRA": (
        RAVAN | {"federation__heads": "2,1,1", "model__adapter": "lora"},
        "federation.heads=2,1,1: it needs model.adapter=ravan, not lora",
    ),
    "partial heads under another rule": (
        RAVAN | {"federation__heads": "2,1,1", "federation__aggregate": "median"},
        "federation.heads=2,1,1: it needs federation.aggregate=mean, not median",
    ),
    "products of another family": (
        RAVAN | {"federation__aggregate": "product_svd"},
        "federation.aggregate=product_svd: it cuts LoRA's products; set model.adapter=lora, not ravan",
    ),
    "gain of public steps": (
        {"federation__weights": "gain", "federation__swap_period": 1},
        "federation.weights=gain: .* federation.swap_period=1 makes every step public; raise swap_period",
    ),
    "gain of asynchronous clients": (
        {"federation__weights": "gain", "federation__method": "fedbuff"},
        "federation.weights=gain: all clients must end a round together, unlike federation.method=fedbuff; set uniform",
    ),
    "partial heads of asynchronous clients": (
        RAVAN | {"federation__heads": "2,1,1", "federation__method": "fedbuff"},
        "federation.heads=2,1,1: clients train all heads with federation.method=fedbuff; set federation.heads=$",
    ),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_cannot_stand_together_is_refused_with_the_fix(case):
    refused(*IMPOSSIBLE[case])


@pytest.mark.parametrize(
    "values",
    [
        RAVAN | {"federation__heads": "4, 2,1"},
        {"federation__weights": "gain"},
        {"federation__average": False, "federation__swap_period": 0},
        {"training__kl": "k2", "training__kl_coef": 0.1},
        {"training__prox_coef": 0.1},
    ],
)
def test_settings_that_have_an_effect_pass(values):
    settings.check(with_fields(**values))


def test_layers_are_checked_without_loading_anything():
    assert checks.layers("all") == types.LINEAR_LAYERS and checks.layers("attention") == types.LINEAR_LAYERS[:4]
    settings.check(with_fields(model__lora_targets="q_proj, down_proj"))
    with pytest.raises(ValueError, match="config.model.lora_targets: 'q_projection' is none of all, attention, q_proj"):
        settings.check(with_fields(model__lora_targets="q_projection"))


def test_a_missing_package_is_named_before_loading(monkeypatch):
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    settings.check_packages(default_config())
    with pytest.raises(ValueError, match=r"config.log.wandb=mine: wandb is not installed; pip install 'pubswap_jax\[wandb\]'"):
        settings.check_packages(with_fields(log__wandb="mine"))
    with pytest.raises(ValueError, match="config.log.tensorboard=on: tensorboardX is not installed"):
        settings.check_packages(with_fields(log__tensorboard="on"))


@pytest.mark.parametrize(
    "name, field",
    {
        "learning_rate": "training.lr",
        "training.learning-rate": "training.lr",
        "num_epochs": "federation.rounds",
        "lr": "training.lr",
        "batch_size": "training.prompts",
        "lora_r": "model.lora_rank",
        "rank": "model.lora_rank",
        "max_tokens": "training.max_new_tokens",
        "model": "model.path",
        "dataset": "data.name",
        "tau": "federation.steps",
    }.items(),
)
def test_other_tools_names_lead_to_the_field(name, field):
    with pytest.raises(ValueError, match=f"--config.{name}: no such field; did you mean {field}[?]"):
        settings.override(default_config(), name, "1")


def test_every_alias_leads_to_a_field_once():
    assert set(checks.FIELD_OF.values()) <= {field.name for field in FIELDS}
    assert len(checks.FIELD_OF) == sum(len(names.split()) for names in checks.ALIASES.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"federation.aggregate": "trimmed_mean", "federation.trim": 5}, "trim=5: trimmed_mean needs 11 clients, and 10 take"),
        (
            {"federation.aggregate": "trimmed_mean", "federation.participants": 2},
            "trim=1: trimmed_mean needs 3 clients, and 2 take part",
        ),
        ({"federation.aggregate": "median", "federation.average": False}, "aggregate=median: no effect with federation.aver"),
        ({"federation.server_lr": 0.3}, "server_lr=0.3: no effect with federation.aggregate=mean; it belongs to fedavgm"),
        ({"federation.aggregate": "median", "federation.beta": 0.0}, "beta=0.0: no effect with federation.aggregate=median"),
        ({"federation.gamma": 0.1}, "gamma=0.1: no effect with federation.aggregate=mean; it belongs to fedecado"),
        (
            {"federation.aggregate": "scaffold", "training.prox_coef": 0.1},
            "prox_coef=0.1: no effect with federation.aggregate",
        ),
        ({"federation.aggregate": "fedecado"}, "clip_norm=1.0: fedecado reads its clients' steps as times"),
        (
            {"federation.aggregate": "fedecado", "training.clip_norm": 0.0, "federation.weights": "size"},
            "weights=size: fedecado takes all clients' shares as equal; set uniform",
        ),
        ({"federation.aggregate": "nowhere.py:rule"}, "aggregate=nowhere.py:rule: no such file nowhere.py"),
        ({"federation.aggregate": "medain"}, "aggregate=medain: did you mean median?; or FILE.py:NAME"),
    ],
)
def test_a_rule_gets_enough_clients_and_only_settings_that_it_reads(changes, message):
    config = default_config()
    for name, value in changes.items():
        settings.override(config, name, str(value))
    with pytest.raises(ValueError, match=re.escape(message)):
        settings.check(config)
