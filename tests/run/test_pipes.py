"""PubSwap over pipes: four client processes and one server process do what one process does, and no model is at the server."""

import collections
import multiprocessing
import sys
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pubswap_jax as ps
from pubswap_jax.algorithm import server_optimizers
from pubswap_jax.records import Record
from pubswap_jax.run.channel import client_end, make_service, packed, server_end
from pubswap_jax.run.ledger import Gate, Refused
from pubswap_jax.run.programs import shapes

C, B, G, R, ROUNDS = 4, 4, 4, 4, 2
CASES = {
    "plain": {},
    "moments": {"moments": "average"},
    "wrong responses move": {"planner": "random_swap"},
    "a correction": {"correction": "scaffold", "aggregator": "scaffold_rule"},
}
MADE = {
    "planner": lambda name: getattr(ps, name),
    "aggregator": lambda name: getattr(server_optimizers, name)(),
    "correction": lambda name: getattr(ps, name)(),
}


def options(case):
    """The case as keyword arguments. Names cross to the processes, since functions would load their modules."""
    return {key: MADE.get(key, str)(value) for key, value in CASES[case].items()}


def federation(model, case, **how):
    return ps.pubswap(model, optax.scale_by_adam(), group=G, **options(case), **how)


def batches(round):
    """A private step, the public step, and another private one."""
    first, second, public = ps.toy_batches(jax.random.key(round), C, B)
    return [first, public.replace(ids=np.tile(np.arange(B, dtype=np.int32), (C, 1))), second]


def step_key(round, step):
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(5), round), step)


def gate(adapters, down=None):
    return Gate(B, {"up/adapters": adapters, "down/adapters": down or adapters}, first=True)


def beside(shared, control):
    """What goes up and what comes down, with SCAFFOLD's controls beside the adapters."""
    return (shared | {"extra": control}, shared | {"sent": control}) if control else (shared, shared)


def play(federation, base, state, channel, rows=slice(None), after=lambda state: None):
    """All rounds. `rows`: the clients whose batches these are."""
    hparams = ps.Hparams.create(lr=0.05)
    for round in range(ROUNDS):
        state = federation.open(state, channel)
        for step, batch in enumerate(batches(round)):
            mine = jax.tree.map(lambda x: x[rows], batch)
            state, _ = federation.step(base, state, mine, ps.parity_judge, channel, step_key(round, step), hparams)
        state, _ = federation.close(state, channel)
        after(state)
    return state


# --- the processes ------------------------------------------------------------------------------------------------------


def reported(function, answer, *arguments):
    """The main function of a process: sends (True, result), or (False, traceback)."""
    try:
        answer.send((True, function(*arguments)))
    except BaseException:
        answer.send((False, traceback.format_exc()))
        raise


def be_client(number, pipe, case):
    model, base, adapter = ps.toy(jax.random.key(0))
    alone = federation(model, case, num_clients=1, lockstep=False)
    state = alone.init(adapter)
    state = state.replace(clients=state.clients.replace(id=jnp.array([number])))
    state = play(alone, base, state, client_end(pipe.send_bytes, pipe.recv_bytes), slice(number, number + 1))
    return jax.device_get(state.clients.adapter)


def be_server(pipes, adapter, case):
    server = ps.make_server(**{key: value for key, value in options(case).items() if key != "correction"})
    state = server.init(adapter, optax.scale_by_adam().init(adapter))
    shared = jax.tree.map(lambda x: jax.ShapeDtypeStruct((C, *np.shape(x)), x.dtype), server.download(state))
    extra = {"control": shared["adapter"]} if case == "a correction" else None
    book = gate(*beside(shared, extra))
    channel = server_end([(pipe.send_bytes, pipe.recv_bytes) for pipe in pipes], book.channel)
    serve, accounts = make_service(server, channel, (C, B, G, R), extra), []
    ids = np.tile(np.arange(B, dtype=np.int32), (C, 1))
    for round in range(ROUNDS):
        for kind, step in (("open", 0), ("private", 0), ("public", 1), ("private", 2), ("close", 0)):
            state = serve(state, kind, ids, step_key(round, step))
        accounts.append(book.close_round())
    loaded = [name for name in sys.modules if name in ("pubswap_jax.policy.model", "pubswap_jax.policy.sampling")]
    return jax.device_get(state), accounts, loaded


def in_processes(adapter, case):
    """-> (the server's state, its accounts, the model's modules there), the clients' adapters [C, ...]."""
    spawn = multiprocessing.get_context("spawn")
    ends = [spawn.Pipe() for _ in range(C)]
    answers = [spawn.Pipe(duplex=False) for _ in range(C + 1)]
    work = [(be_server, answers[0][1], [ours for ours, _ in ends], adapter, case)]
    work += [(be_client, answers[i + 1][1], i, ends[i][1], case) for i in range(C)]
    processes = [spawn.Process(target=reported, args=one, daemon=True) for one in work]
    try:
        for process in processes:
            process.start()
        for pair in (*ends, *((answer,) for _, answer in answers)):
            for end in pair:
                end.close()  # a process that ends then closes its pipes, and nobody waits for it
        found = [answer.recv() for answer, _ in answers]
    finally:
        for process in processes:
            process.kill()
            process.join()
    failed = [text for fine, text in found if not fine]
    assert not failed, "\n".join(failed)
    (served, *clients) = (result for _, result in found)
    return served, jax.tree.map(lambda *leaves: np.concatenate(leaves), *clients)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_five_processes_do_what_one_does(case):
    model, base, adapter = ps.toy(jax.random.key(0))
    together, accounts = federation(model, case, num_clients=C), []
    state = together.init(adapter)
    share = {"adapter": state.clients.adapter} | ({"moments": state.clients.opt_state} if case == "moments" else {})
    book = gate(*beside(share, {"control": state.clients.adapter} if case == "a correction" else None))
    state = play(together, base, state, book.channel, after=lambda _: accounts.append(book.close_round()))
    (served, theirs, loaded), clients = in_processes(jax.device_get(adapter), case)
    assert loaded == []
    assert accounts == theirs and len(accounts) == ROUNDS
    assert all(sum(account["down/responses"]) > 0 for account in accounts), "the public steps swapped responses"
    assert any(sum(a.get("down/verdicts", [0])) > 0 for a in accounts) == (case == "wrong responses move")
    moved = 0.0
    pairs = [(state.server, served), (state.clients.adapter, clients)]
    for one, other in pairs:
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), one, other)
    for new, old in zip(jax.tree.leaves(served.adapter), jax.tree.leaves(adapter), strict=True):
        moved = max(moved, float(np.abs(new - old).max()))
    assert moved > 1e-2, "the adapter was trained"


def test_an_upload_with_nan_is_left_out_over_connections_as_in_one_process():
    """Client 2's adapter is NaN at the end of both rounds. Rounds without steps, and connections in one thread."""
    model, _, adapter = ps.toy(jax.random.key(0))
    moves, how = [0.1, 0.2, np.nan], {"group": G, "moments": "average"}
    tx = optax.scale_by_adam()

    def moved(state, by):
        move = lambda x: x + jnp.array(by, x.dtype).reshape(-1, *[1] * (x.ndim - 1))  # noqa: E731
        return state.replace(clients=state.clients.replace(adapter=jax.tree.map(move, state.clients.adapter)))

    together = ps.pubswap(model, tx, num_clients=3, **how)
    state, alone = together.init(adapter), ps.pubswap(model, tx, num_clients=1, lockstep=False, **how)
    states, server = [alone.init(adapter)] * 3, ps.make_server(moments="average")
    served = server.init(adapter, tx.init(adapter))
    books = [gate({"adapter": state.clients.adapter, "moments": state.clients.opt_state}) for _ in range(2)]
    up, down = ([collections.deque() for _ in range(3)] for _ in range(2))
    channel = server_end([(down[i].append, up[i].popleft) for i in range(3)], books[1].channel)
    serve = make_service(server, channel, (3, B, G, R))
    for _ in range(2):
        state = together.open(state, books[0].channel)
        state, _ = together.close(moved(state, moves), books[0].channel)
        served = serve(served, "open")
        for i in range(3):
            end = client_end(up[i].append, down[i].popleft)
            states[i], _ = alone.close(moved(alone.open(states[i], end), moves[i : i + 1]), end)
        served = serve(served, "close")
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), state.server, served)
        assert books[0].close_round() == books[1].close_round()
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y + 0.3, atol=1e-6), served.adapter, adapter)


# --- the channels -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_packed_channel_changes_nothing():
    model, base, adapter = ps.toy(jax.random.key(0))
    together, books = federation(model, "wrong responses move", num_clients=C), []
    found = []
    for wrap in (lambda channel: channel, packed):
        state = together.init(adapter)
        books.append(gate({"adapter": state.clients.adapter}))
        found.append(play(together, base, state, wrap(books[-1].channel)))
    assert books[0].close_round() == books[1].close_round()
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y), *found)


def test_a_packed_channel_carries_nothing_behind_the_mask_and_nothing_of_slots_that_were_not_swapped():
    numbers = np.arange(2 * 1 * 2 * 3, dtype=np.int32).reshape(2, 1, 2, 3) + 1
    mask = np.ones((2, 1, 2, 3), bool)
    mask[..., 2] = False
    slots = np.array([[[True, False]], [[False, False]]])
    verdict = {"correct": slots, "reward": slots.astype(np.float32)}
    record = Record(
        "responses", "down", {"tokens": numbers, "mask": mask, "slots": slots} | verdict, np.zeros((2, 1), np.int32)
    )
    seen = packed(ps.Channel(lambda record: record, lambda record: record)).down(record).arrays
    assert seen["tokens"].tolist() == [[[[1, 2, 0], [0, 0, 0]]], [[[0, 0, 0], [0, 0, 0]]]]
    assert seen["slots"].tolist() == slots.tolist() and seen["correct"].tolist() == slots.tolist()


def test_two_ends_of_a_connection_carry_what_the_gate_lets_pass():
    """Client 0 and client 1 send one loss each; the server sends each of them its own row."""
    up, down = [[], []], [[], []]
    ends = [client_end(up[i].append, lambda i=i: down[i].pop(0)) for i in range(2)]
    for i, end in enumerate(ends):
        end.up(Record("counters", "up", {"loss": np.array([float(i)], np.float32)}))
    book = gate({"adapter": jax.ShapeDtypeStruct((2, 3), np.float32)})
    server = server_end([(down[i].append, lambda i=i: up[i].pop(0)) for i in range(2)], book.channel)
    assert server.up(Record("counters", "up", {})).arrays["loss"].tolist() == [0.0, 1.0]
    sent = Record("adapters", "down", {"adapter": np.arange(6, dtype=np.float32).reshape(2, 3)})
    server.down(sent)
    like = Record("adapters", "down", {"adapter": jax.ShapeDtypeStruct((1, 3), np.float32)})
    assert [end.down(like).arrays["adapter"].tolist() for end in ends] == [[[0, 1, 2]], [[3, 4, 5]]]
    assert book.close_round() == {"down/adapters": [12, 12], "up/counters": [4, 4]}
    with pytest.raises(Refused, match="adapters"):
        server.down(Record("adapters", "down", {"adapter": np.zeros((2, 4), np.float32)}))
    assert down == [[], []], "a refused record is not sent"


def test_an_end_refuses_a_record_of_another_kind_or_shape():
    wire = [Record("adapters", "down", {"adapter": np.zeros((1, 3), np.float32)}).pack()] * 2
    end = client_end(wire.append, lambda: wire.pop(0))
    with pytest.raises(ValueError, match="questions going down expected, got adapters going down"):
        end.down(Record("questions", "down", {"numbers": np.zeros((1, 2), np.int32)}))
    with pytest.raises(ValueError, match="other arrays than expected"):
        end.down(Record("adapters", "down", shapes({"adapter": np.zeros((1, 4), np.float32)})))


def test_a_service_without_shared_adapters_sends_and_asks_nothing():
    def never(record):
        raise AssertionError(f"{record.kind} crossed")

    server = ps.make_server(aggregator=ps.alone())
    state = server.init({"a": jnp.ones(2)}, ())
    serve = make_service(server, ps.Channel(never, never), (C, B, G, R))
    assert serve(serve(state, "open"), "close").round == 1
