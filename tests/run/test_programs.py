"""A round's programs are compiled once, in another thread, and are the very ones that the round calls."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_world import compilations, finished, small_config

from pubswap_jax import loop
from pubswap_jax.run.assembly import assemble
from pubswap_jax.run.journal import Clock
from pubswap_jax.run.programs import Programs, shapes

OF_THE_ROUND = ("everyone", "start", "two_keys", "keys", "rollout", "own", "swap", "receive", "update", "swap_metrics")
OF_THE_ROUND += ("settle", "drift", "upload", "average", "measure")
OF_ALL_RUNS = ("sound", "step_key", "donor_matrix")
OF_SOME = ("take", "join", "spread", "put_back")


def check(compiled, evaluated, measured=()):
    """Each program was compiled once and in the background. `evaluated`: whether each of the evaluation's was not.

    `measured`: the small programs that the measurement of M·β compiles when it is first due.
    """
    here, names = threading.current_thread(), [name for name, _ in compiled]
    assert {name: names.count(name) for name in OF_THE_ROUND} == dict.fromkeys(OF_THE_ROUND, 1)
    assert max(names.count(name) for name in OF_ALL_RUNS) <= 1, "other tests may have compiled them already"
    late = [name for name, thread in compiled if thread is here and name in OF_THE_ROUND + OF_SOME]
    assert late == list(measured), "compiled in the loop's own thread"
    assert sorted(thread is here for name, thread in compiled if name == "examine") == evaluated


def test_a_round_calls_what_was_compiled_before():
    finished()
    check(finished.compiled, evaluated=[False, True])  # the base model alone, and then the clients' own adapters together


@pytest.mark.slow
def test_a_round_of_some_clients_one_by_one(tmp_path):
    (tmp_path / "data").mkdir()
    changes = {"training__client_microbatch": 1, "federation__participants": 2, "federation__weights": "size"}
    run = assemble(small_config(tmp_path / "data", federation__rounds=1, **changes))
    with compilations() as compiled:
        loop.train(run, tmp_path)
    check(compiled, evaluated=[False], measured=["take", "spread"])  # the base model, too, waits for the program of one model


def test_a_call_with_shapes_compiles_what_a_later_call_runs():
    programs, traced = Programs(Clock()), []
    programs.ahead = True

    def slow(x):
        traced.append(threading.current_thread())
        time.sleep(0.3)
        return x + 1

    run = programs("slow", slow)
    asked = jax.ShapeDtypeStruct((), jnp.float32)
    with compilations() as compiled:
        assert run(asked) == asked
        assert run(asked) == asked  # asked for already
        assert run(jnp.zeros(())) == 1
        programs.close()
    assert [name for name, _ in compiled if name == "slow"] == ["slow"]
    assert all(thread is not threading.current_thread() for name, thread in compiled if name == "slow")
    assert len(traced) == 1


def test_without_ahead_a_call_with_shapes_only_gives_shapes():
    programs = Programs(Clock())
    with compilations() as compiled:
        found = programs("twice", lambda x: {"y": jnp.stack([x, x])})(jax.ShapeDtypeStruct((3,), jnp.float32))
    assert found == {"y": jax.ShapeDtypeStruct((2, 3), jnp.float32)} and compiled == []


def test_what_fails_in_the_background_fails_again_in_the_call():
    programs = Programs(Clock())
    programs.ahead = True

    def strict(x):
        raise ValueError("not this one")

    run = programs("strict", strict)
    with pytest.raises(ValueError, match="not this one"):
        run(jax.ShapeDtypeStruct((), jnp.float32))
    with pytest.raises(ValueError, match="not this one"):
        run(jnp.zeros(()))
    programs.close()


def test_what_has_not_begun_is_left_out_at_the_end():
    programs, begun, ending = Programs(Clock()), threading.Event(), threading.Event()
    programs.ahead, here = True, threading.current_thread()

    def long(x):
        if threading.current_thread() is not here:
            begun.set()
            ending.wait(10)
        return x

    later = programs("later", lambda x: x * 2)
    programs._compile(jax.jit(long), (jax.ShapeDtypeStruct((2,), jnp.float32),))
    assert begun.wait(10)
    with compilations() as compiled:
        later(jax.ShapeDtypeStruct((), jnp.float32))
        programs.close()
        ending.set()
        assert later(jnp.ones(())) == 2  # compiled by the caller, who does not wait for ever
    assert [thread is here for name, thread in compiled if name == "later"] == [True]


def test_programs_have_their_names_and_shardings():
    spread = jax.sharding.NamedSharding(jax.make_mesh((2,), ("client",)), jax.sharding.PartitionSpec("client"))
    programs = Programs(Clock(), {"start": spread})
    start, other = programs("start", lambda x: x + 1), programs("other", lambda x: x + 1)
    assert start(jnp.zeros(4)).sharding.shard_shape((4,)) == (2,)
    assert other(jnp.zeros(4)).sharding.shard_shape((4,)) == (4,)


def test_booked_programs_are_waited_for_and_booked_under_their_name():
    clock = Clock()
    programs = Programs(clock)
    for name in ("swap", "update", "average", "rollout", "keys"):
        programs(name, lambda x: x + 1)(jnp.zeros(()))
    assert set(clock.lap()) == {"swap", "update", "average", "rollout", "other", "total"}


def test_shapes_keep_the_tree():
    tree = {"a": jnp.zeros((2, 3)), "b": [np.ones(4, np.int8)]}
    assert shapes(tree) == {"a": jax.ShapeDtypeStruct((2, 3), jnp.float32), "b": [jax.ShapeDtypeStruct((4,), np.int8)]}


def test_inside_shapes_alone_nothing_is_compiled_and_after_an_error_it_is_again():
    programs, asked = Programs(Clock()), jax.ShapeDtypeStruct((), jnp.float32)
    programs.ahead = True
    run = programs("plain", lambda x: x + 1)
    with pytest.raises(ValueError, match="inside"), programs.shapes_alone():
        assert run(asked).shape == () and not programs._coming
        raise ValueError("inside")
    run(asked)
    assert programs.ahead and programs._coming
    programs.close()
