"""Settings without effect are refused with the fix."""

import pytest
from refusals import refused

ALONE = {"federation__average": False, "federation__swap_period": 0}
IDLE = {
    "kl_coef without an estimator": ({"training__kl_coef": 0.1}, "training.kl_coef=0.1: no effect .* set training.kl=k3"),
    "an estimator of weight 0": (
        {"training__kl": "k3"},
        "training.kl=k3: no effect with training.kl_coef=0; set training.kl_coef",
    ),
    "proximal alone": (ALONE | {"training__prox_coef": 0.1}, "training.prox_coef=0.1: .* set training.prox_coef=0, or"),
    "sizes alone": (
        ALONE | {"federation__weights": "size"},
        "federation.weights=size: no effect .* federation.weights=uniform",
    ),
    "gain alone": (
        ALONE | {"federation__weights": "gain"},
        "federation.weights=gain: no effect .* federation.weights=uniform",
    ),
    "heads of LoRA": ({"model__heads": 8}, "model.heads=8: no effect with model.adapter=lora; it belongs to ravan"),
    "bases of FFA-LoRA": (
        {"model__adapter": "ffa_lora", "model__bases": "random"},
        "model.bases=random: no effect with model.adapter=ffa_lora",
    ),
    "moments alone": (ALONE | {"federation__moments": "average"}, "federation.moments=average: no effect .*moments=reset"),
    "greedy alone": (ALONE | {"evaluation__greedy": True}, "evaluation.greedy=True: no effect .* evaluation.greedy=False"),
    "swap weight, nothing public": (
        {"federation__swap_period": 0, "training__swap_weight": 2.0},
        "training.swap_weight=2.0: no response is swapped with federation.swap_period=0; set training.swap_weight=1",
    ),
    "swap weight, no swap": (
        {"federation__swap": "no_swap", "training__swap_weight": 2.0},
        ".*no response is swapped with federation.swap=no_swap",
    ),
    "resamples without resampling": (
        {"training__zero_variance": "exclude", "training__resamples": 3},
        "training.resamples=3: no effect with training.zero_variance=exclude; it belongs to resample",
    ),
    "nothing private to resample": (
        {"federation__swap_period": 1, "training__zero_variance": "resample"},
        "training.zero_variance=resample: no effect with federation.swap_period=1, .* set zero_variance=keep",
    ),
    "a hub's test split beside files": (
        {"data__path": "mine.jsonl", "data__test_name": "math500"},
        "data.test_name=math500: no effect with data.path, .* set data.test_name to an empty text, or name files",
    ),
    "unit of nothing": (
        {"federation__swap_period": 0, "federation__swap_unit": "round"},
        "federation.swap_unit=round: no step is public .* set federation.swap_unit=step",
    ),
}


@pytest.mark.parametrize("case", IDLE)
def test_a_setting_without_effect_is_refused_with_the_fix(case):
    refused(*IDLE[case])
