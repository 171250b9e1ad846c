"""Drift: distances, cosines and excluded clients of finished rounds."""

from pubswap_jax.report.drift import drift, exclusions

MODULES = ["0/q", "0/v", "1/q", "1/v"]
ROW = {
    "round": 1,
    "round/drift": [5.0, None],
    "round/opposing": [0.375, None],
    "round/residual": 0.125,
    "round/cosine": [[1.0, 0.5], None],
    "round/drift_by_module": [[3.0, 4.0, 1.0, 0.0], None],
}


def test_distances_by_client_layer_and_kind():
    text = drift({"modules": MODULES}, [ROW])
    assert "client 0, round 1: 5<" in text and "residual, round 1: 0.125<" in text and "client 1, round 1" not in text
    assert "client 0, round 1: 0.375<" in text and "client 1, round 1: 0" not in text
    assert "0, client 0: 5<" in text and "1, client 0: 1<" in text, "a layer is the root of the sum of its modules' squares"
    assert "0, q: 3<" in text and "0, v: 4<" in text and "client 0, client 1: 0.5<" in text


def test_what_a_run_has_not_is_left_out():
    assert drift({"modules": MODULES}, []) == "" == drift({"modules": MODULES}, [{"round": 1}])
    alone = drift({"modules": MODULES}, [{"round": 1, "round/drift": [5.0]}])
    resumed = drift({"modules": MODULES}, [{"round": 1, "round/drift": [5.0, 2.0]}, ROW | {"round": 2}])
    assert "client 0, round 2: 0.375<" in resumed and "client 0, round 1: 0" not in resumed
    assert (
        "client 0, round 1: 5<" in alone
        and "Cosine" not in alone
        and "oppose" not in alone
        and "mean(BA)" not in alone
        and "module" not in alone
    )


def test_excluded_clients_are_named():
    rows = [{"round": 1, "round/excluded": [0, 0]}, {"round": 2, "round/excluded": [1, 1]}, {"round": 3}]
    assert exclusions(rows) == ["Round 2: client 0, 1 was left out of the average, since its adapter was not finite."]
