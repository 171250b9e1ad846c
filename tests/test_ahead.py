"""A round's programs are compiled once, in another thread, and are the very ones that the round calls."""

import threading
import time

import jax
import jax.numpy as jnp
import pytest
from small_world import small_config

from pubswap_jax import train
from pubswap_jax.ahead import Ahead
from pubswap_jax.assembly import assemble
from pubswap_jax.recorder import COMPILED

OF_THE_RUN = ("rollout", "update", "exchange", "average_clients", "measure")
OF_ALL_RUNS = ("sound", "drift", "step_key", "split", "no_swap", "swap_metrics", "from_bits", "donor_matrix")
SOME = {"training__client_microbatch": 1, "federation__participants": 2, "federation__weights": "size"}


@pytest.mark.parametrize("changes", [{}, SOME], ids=["all at once", "some, one by one"])
def test_a_round_calls_what_was_compiled_before(tmp_path, changes):
    (tmp_path / "data").mkdir()
    run = assemble(small_config(tmp_path / "data", federation__rounds=1, **changes))
    compiled = []

    def listen(event, seconds, fun_name="", **_):
        if event == COMPILED:
            compiled.append((fun_name.removeprefix("jit(").removesuffix(")"), threading.current_thread()))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        train.train(run, tmp_path)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    here = threading.current_thread()
    names = [name for name, _ in compiled]
    assert {name: names.count(name) for name in OF_THE_RUN} == dict.fromkeys(OF_THE_RUN, 1)
    assert max(names.count(name) for name in OF_ALL_RUNS) <= 1, "other tests may have compiled them already"
    assert [name for name, thread in compiled if thread is here and name in OF_THE_RUN + OF_ALL_RUNS] == []
    evaluated = [thread is here for name, thread in compiled if name == "run"]
    assert sorted(evaluated) == ([True] if changes else [False, True])  # one model; and where they are asked together, three


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
