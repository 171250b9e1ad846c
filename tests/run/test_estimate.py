"""The plan's bytes are those of the arrays, and where it does not fit it says what would."""

import shutil

import jax
import pytest
from small_world import config_of, finished

from pubswap_jax.run import estimate, policy


@pytest.fixture(scope="module")
def need():
    run, _ = finished()
    return estimate.needed(config_of(run), policy.model_of(config_of(run)))


def test_bytes_by_hand(need):
    run, _ = finished()
    state = run.federation.init(run.policy.adapter)
    clients = state.clients
    size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))  # noqa: E731
    assert need["base"] == size(run.policy.base)
    adapters = need["adapters of the server and 3 clients"]
    assert adapters == size(clients.adapter) + size(state.server.adapter)
    assert need["the clients' moments"] == size(clients.opt_state)
    assert need["while measuring M·β: gradients"] == 2 * 4 * size(state.server.adapter)
    assert need[estimate.PEAK] > need["base"] + adapters + need["the clients' moments"]


def test_a_plan_that_fits_and_one_that_does_not(need, monkeypatch):
    run, _ = finished()

    def peak(config, _):
        saved = (
            500 * config.training.client_microbatch + 300 * config.training.microbatch + 200 * (config.model.remat == "block")
        )
        return need | {estimate.PEAK: 2000 - saved - 100 * (config.model.dtype == "bfloat16")}

    def told(have):
        monkeypatch.setattr(estimate, "memory", lambda: (have, "host"))
        return estimate.plan(config_of(run)).splitlines()

    monkeypatch.setattr(estimate, "needed", peak)
    lines = told(4000)
    assert lines[-1] == "it fits" and "0.00 million parameters in float32; 3 clients, 3 at a time" in lines[0]
    assert any(line.split() == ["there", "is", "(host)", "4.0", "kB"] for line in lines)
    lines = told(1000)
    assert [line.split() for line in lines[-4:-1]] == [
        ["--config.training.client_microbatch=1", "1.5", "kB", "1.5", "kB"],
        ["--config.training.microbatch=1", "1.7", "kB", "1.2", "kB"],
        ["--config.model.remat=block", "1.8", "kB", "1.0", "kB"],
    ]
    assert lines[-1] == "with the first 3 it fits" and told(1700)[-1] == "with the first one it fits"
    assert told(900)[-1] == "with all of these it fits" and "--config.model.dtype=bfloat16" in told(900)[-2]
    assert told(800)[-1] == "even so it does not fit: take a smaller base or a larger device"


def test_time_grows_with_what_is_asked():
    run, _ = finished()
    config = config_of(run)
    one = estimate.round_seconds(config, run.policy.config, 1e9, 1e9)
    config.federation.steps *= 2
    assert estimate.round_seconds(config, run.policy.config, 1e9, 1e9) == {name: 2 * value for name, value in one.items()}
    rate, bandwidth = estimate.measured("float32", size=128, repeats=2)
    assert rate > 1e6 and bandwidth > 1e6


def test_savings_are_only_what_is_not_saved_yet():
    config = config_of(finished()[0])
    names = [name for name, _ in estimate.savings(config)]
    assert names == [
        "model.remat",
        "model.dtype",
        "training.client_microbatch",
        "training.microbatch",
        "data.max_prompt_tokens",
    ]
    config.training.group, config.training.client_microbatch, config.model.dtype = 8, 1, "bfloat16"
    names = [name for name, _ in estimate.savings(config)]
    assert names == ["model.remat", "training.microbatch", "data.max_prompt_tokens", "training.group"]


def test_a_mesh_leaves_each_device_its_part(need):
    run, _ = finished()
    config = config_of(run)
    config.mesh.client, config.mesh.model = 3, 2
    own = estimate.needed(config, policy.model_of(config))
    assert own["base"] == need["base"] - need["base"] // 2
    assert own["the clients' moments"] * 3 == need["the clients' moments"] and own[estimate.PEAK] < need[estimate.PEAK]
    config = config_of(run)
    whole = estimate.round_seconds(config, run.policy.config, 1e9, 1e9)
    config.training.inner_epochs = 4
    assert estimate.round_seconds(config, run.policy.config, 1e9, 1e9)["updates of a round"] == 4 * whole["updates of a round"]
    config.federation.swap_period, config.federation.swap_unit = 1, "extra"
    assert (
        estimate.round_seconds(config, run.policy.config, 1e9, 1e9)["rollouts of a round"] == 2 * whole["rollouts of a round"]
    )


def test_progress_is_said_before_the_work(need, monkeypatch):
    run, _ = finished()
    said = []

    def peak(config, _):
        assert said, "nothing was said before the first compilation"
        return need

    monkeypatch.setattr(estimate, "needed", peak)
    monkeypatch.setattr(estimate, "memory", lambda: (1, "host"))
    estimate.plan(config_of(run), said.append)
    assert said[0].startswith("0.00 million parameters") and said[1].startswith("one round takes ")
    assert said[2] == "it does not fit; compiling with --config.model.remat=block (1 of 5)" and len(said) == 8


def test_a_config_json_alone_is_enough(tmp_path, need):
    run, _ = finished()
    config = config_of(run)
    shutil.copyfile(run.policy.folder / "config.json", tmp_path / "config.json")
    for path in (tmp_path, tmp_path / "config.json"):
        config.model.path = str(path)
        found = policy.model_of(config)
        assert (found.num_layers, found.adapter) == (run.policy.config.num_layers, run.policy.config.adapter)
    assert estimate.needed(config, found)["base"] == need["base"]
    config.model.path = str(tmp_path / "other.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="a folder, or a file named config.json, expected"):
        policy.model_of(config)


def test_of_a_name_on_the_hub_only_the_config_is_fetched(tmp_path, monkeypatch):
    run, _ = finished()
    config = config_of(run)
    config.model.path = "some/model"
    shutil.copyfile(run.policy.folder / "config.json", tmp_path / "config.json")
    asked = []
    fetch = lambda name, **options: asked.append((name, options["allow_patterns"])) or str(tmp_path)  # noqa: E731
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert policy.model_of(config).num_layers == run.policy.config.num_layers
    assert asked == [("some/model", ["config.json", "generation_config.json"])]
