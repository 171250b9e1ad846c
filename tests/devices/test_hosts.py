"""Many processes: who they are, that two give what one gives, and how they end when one is not as the others."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from small_world import write_base, write_questions

from pubswap_jax import main
from pubswap_jax.devices import hosts, mesh
from pubswap_jax.run import journal

ROOT = pathlib.Path(__file__).parents[2]
NODES = {"SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "2"}


def test_who_is_launched_as_one_of_many():
    three = dict(zip(hosts.VARIABLES, ("host:1234", "2", "1"), strict=True))
    told = hosts.launched(three)
    assert (told["coordinator_address"], told["num_processes"], told["process_id"]) == ("host:1234", 2, 1)
    assert hosts.launched(NODES) == {"cluster_detection_method": "slurm"}
    assert hosts.launched(NODES | three) == told
    assert hosts.launched({}) is hosts.launched(NODES | {"SLURM_NTASKS": "1"}) is None
    with pytest.raises(ValueError, match="JAX_NUM_PROCESSES is set and JAX_COORDINATOR_ADDRESS is not"):
        hosts.launched({"JAX_NUM_PROCESSES": "2"})
    with pytest.raises(ValueError, match="JAX_PROCESS_ID=2: a number from 0 up to JAX_NUM_PROCESSES=2"):
        hosts.launched(three | {"JAX_PROCESS_ID": "2"})


def test_a_process_with_another_config_is_named_with_the_field(monkeypatch):
    monkeypatch.setattr(hosts, "gathered", lambda facts: [facts, facts, facts | {"training.lr": 0.5}])
    with pytest.raises(ValueError, match=r"process 2 has another training.lr: 0.5, and process 0 has 0.02; start the same"):
        hosts.agree({"seed": 0, "training.lr": 0.02})
    monkeypatch.setattr(hosts, "gathered", lambda facts: [facts, facts])
    hosts.agree({"seed": 0})


def test_of_a_global_array_every_element_is_owned_once():
    values = np.arange(32.0).reshape(4, 8)
    placed = hosts.put(values, NamedSharding(mesh.make_mesh(client=4, model=2), PartitionSpec("client")))
    seen = np.zeros_like(values)
    for place, part in hosts.owned(placed):
        seen[place] += part == values[place]
    assert (seen == 1).all() and np.array_equal(hosts.fetch({"x": placed})["x"], values)
    assert hosts.gathered(3) == [3] and hosts.told({"a": None}) == {"a": None}


# --- two of them --------------------------------------------------------------------------------------------------------


def flags(folder, workdir, *more):
    fields = {
        "model.path": folder / "base",
        "data.path": folder / "questions.jsonl",
        "model.instruction": "",
        "model.lora_rank": 2,
        "mesh.client": 8,
        "federation.num_clients": 8,
        "training.group": 4,
        "training.max_new_tokens": 3,
        "training.lr": 0.02,
        "data.validation": 8,
        "data.test": 8,
        "evaluation.batch": 8,
        "evaluation.clients": False,
        "log.tensorboard": "off",
        "log.distortion": "off",
    }
    given = [f"--config.{name}={value}" for name, value in fields.items()]
    return [f"--config={ROOT}/configs/math.py:smoke", f"--workdir={workdir}", *given, *more]


def launch(number, port, arguments):
    """One of two processes with 4 devices each."""
    environment = dict(zip(hosts.VARIABLES, (f"localhost:{port}", "2", str(number)), strict=True))
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    command = [sys.executable, "-m", "pubswap_jax.main", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=os.environ | environment, cwd=ROOT, **pipes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_base(folder / "base", num_hidden_layers=1)
    write_questions(folder / "questions.jsonl")
    return folder


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@pytest.mark.slow
def test_two_processes_of_four_devices_give_what_one_of_eight_gives(folder, port, tmp_path):
    shown = "--config.log.transcripts=1"  # several processes write none by default
    both = [launch(number, port, flags(folder, tmp_path / f"process_{number}", shown)) for number in range(2)]
    assert main.main(flags(folder, tmp_path / "alone", shown)) == 0
    outputs = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert "round 1 of 1 saved" in outputs[0] and "round" not in outputs[1].replace("[Gloo]", "")
    assert not (tmp_path / "process_1").exists(), "process 0 alone writes"
    for name in ("metrics", "evaluations", "rollouts"):
        ours, theirs = (journal.read(tmp_path / workdir, name) for workdir in ("process_0", "alone"))
        assert len(ours) == len(theirs) > 0
        for one, other in zip(ours, theirs, strict=True):
            assert one.keys() == other.keys()
            for field in one:
                if not field.startswith("time/"):
                    same(one[field], other[field])


def same(one, other):
    """Numbers to 1e-5, all else exactly."""
    if isinstance(one, int | float) or isinstance(one, list) and one and isinstance(one[0], int | float | list):
        np.testing.assert_allclose(one, other, atol=1e-5)
    else:
        assert one == other


@pytest.mark.slow
def test_where_one_is_killed_the_other_ends_and_says_why(folder, port, tmp_path):
    both = [launch(number, port, flags(folder, tmp_path / "run", "--config.federation.steps=2000")) for number in range(2)]
    while not journal.read(tmp_path / "run", "metrics") and both[0].poll() is None:
        time.sleep(0.2)
    both[1].send_signal(signal.SIGKILL)
    said = both[0].communicate()[0]
    assert both[0].returncode != 0
    last = said.strip().splitlines()[-1]
    assert last.startswith("pubswap_jax: process 0 of 2") and "another process" in last and "the same command" in last
    assert "pubswap_jax: process 1 of 2" in both[1].communicate()[0], "a killed process has its witness"
