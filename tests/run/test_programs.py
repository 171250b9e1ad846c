"""A round's programs are compiled once, in another thread, and are the very ones that the round calls."""

import threading
import time

import jax
import jax.numpy as jnp
import pytest
from small_world import compilations, finished, small_config

from pubswap_jax import loop
from pubswap_jax.run.assembly import assemble
from pubswap_jax.run.programs import Ahead

OF_THE_RUN = ("rollout", "update", "exchange", "average_clients", "measure")
OF_ALL_RUNS = ("sound", "drift", "step_key", "split", "no_swap", "swap_metrics", "from_bits", "donor_matrix")


def check(compiled, evaluated):
    here = threading.current_thread()
    names = [name for name, _ in compiled]
    assert {name: names.count(name) for name in OF_THE_RUN} == dict.fromkeys(OF_THE_RUN, 1)
    assert max(names.count(name) for name in OF_ALL_RUNS) <= 1, "other tests may have compiled them already"
    assert [name for name, thread in compiled if thread is here and name in OF_THE_RUN + OF_ALL_RUNS] == []
    assert sorted(thread is here for name, thread in compiled if name == "run") == evaluated


def test_a_round_calls_what_was_compiled_before():
    finished()
    check(finished.compiled, evaluated=[False, True])  # the base by itself; and then the clients' own together


def test_a_round_of_some_clients_one_by_one(tmp_path):
    (tmp_path / "data").mkdir()
    changes = {"training__client_microbatch": 1, "federation__participants": 2, "federation__weights": "size"}
    run = assemble(small_config(tmp_path / "data", federation__rounds=1, **changes))
    with compilations() as compiled:
        loop.train(run, tmp_path)
    check(compiled, evaluated=[True])


def test_a_call_waits_and_says_what_was_wrong():
    ahead, order = Ahead(), []

    @jax.jit
    def slow(x):
        order.append("traced")
        time.sleep(0.3)
        return x + 1

    def refused(x):
        raise ValueError("not this one")

    ahead.compile(slow, jax.ShapeDtypeStruct((), jnp.float32))
    ahead.compile(slow, jax.ShapeDtypeStruct((2,), jnp.float32))  # asked for already
    ahead.rehearse(refused, 0)
    assert ahead.awaited(slow)(jnp.zeros(())) == 1 and order == ["traced"]
    with pytest.raises(ValueError, match="not this one"):
        ahead.awaited(refused)(0)
    assert ahead.awaited(len)("never asked for") == 15
    ahead.close()


def test_what_has_not_begun_is_left_out_at_the_end():
    ahead, begun, ending, done = Ahead(), threading.Event(), threading.Event(), []

    def long():
        begun.set()
        ending.wait(10)
        done.append("long")

    def later():
        done.append("later")

    ahead.rehearse(long)
    ahead.rehearse(later)
    assert begun.wait(10)
    ahead.close()
    ending.set()
    ahead.awaited(later)()  # by the caller, who does not wait for ever
    assert "later" in done and done.count("later") == 1
