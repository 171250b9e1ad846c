"""Memory of one device in a run: from the arrays' shapes, and from XLA's memory analysis of what a round compiles."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from pubswap_jax import system
from pubswap_jax.algorithm.federation import direct
from pubswap_jax.policy.adapter import basis_shapes, init_adapter
from pubswap_jax.policy.model import Transformer
from pubswap_jax.run.judge import judge_of_shapes
from pubswap_jax.run.methods import Sizes, make_federation, one_device, sizes_of
from pubswap_jax.run.pass_at_k import make_sampler
from pubswap_jax.types import Batch, Hparams, ModelConfig, Prompts, PyTree
from pubswap_jax.weights.pretrained import param_shapes

PEAK = "peak: what is held, and the largest of these"


def needed(config, model_config: ModelConfig) -> dict[str, int]:
    """Bytes of memory that a run needs on one device, by purpose, from shapes and XLA's analysis of the rollout and update."""
    config, analysed = one_device(config), {}
    sizes = sizes_of(config)
    model, params = Transformer(model_config), {"params": param_shapes(model_config, sizes.dtype)}
    base = params | {"basis": basis_shapes(model, params)}

    def analyse(name: str, function: Callable) -> Callable:
        """Returns a function that gives the shapes of `function`'s results.

        The functions named rollout, update and examine are also compiled, for XLA's analysis of their memory.
        """
        jitted = jax.jit(function)

        def call(*arguments):
            if name in ("rollout", "update", "examine"):
                analysed[name] = jitted.lower(*arguments).compile().memory_analysis()
            return jax.eval_shape(jitted, *arguments)

        return call

    federation = make_federation(config, model, analyse)
    state = federation.init(jax.eval_shape(lambda: init_adapter(jax.random.key(0), model, base)))
    shape = (sizes.clients, sizes.prompts, sizes.prompt_tokens)
    prompts = Prompts(jax.ShapeDtypeStruct(shape, jnp.int32), jax.ShapeDtypeStruct(shape, bool))
    key, hparams = jax.eval_shape(lambda: jax.random.key(0)), jax.eval_shape(Hparams.create)
    batch = Batch(prompts, [[]] * sizes.clients)
    federation.step(base, state, batch, judge_of_shapes, direct, key, hparams)
    rollout, update = analysed["rollout"], analysed["update"]
    examine = _examination(sizes, model, base, state, analyse, analysed)
    server, clients = state.server, state.clients
    some = jax.tree.map(lambda x: jax.ShapeDtypeStruct((sizes.part, *x.shape[1:]), x.dtype), clients)
    weights, moments = bytes_of(base), bytes_of(clients.opt_state)
    adapters = bytes_of(clients.adapter) + bytes_of(server.adapter)
    elsewhere = weights - weights // sizes.model_shards  # bytes of the base on the model axis's other devices
    weights -= elsewhere
    # The memory analysis sees only the clients of one part, but the adapters and moments of all clients stay in memory.
    waiting = adapters + moments - bytes_of(some.adapter) - bytes_of(some.opt_state)
    gradients = 2 * sizes.group * bytes_of(server.adapter) if sizes.watched else 0
    # On the host the program itself counts, too: Python, JAX, and the compiler with what it made, measured after compiling.
    own = (system.peak_bytes() or 0) if jax.default_backend() == "cpu" else 0
    held = waiting + max(_total(rollout), _total(update)) - elsewhere
    examined = adapters + moments + _total(examine) - elsewhere
    return {
        "base": weights,
        f"adapters of the server and {sizes.clients} clients": adapters,
        "the clients' moments": moments,
        "while answering: caches and the rest": rollout.temp_size_in_bytes + rollout.output_size_in_bytes,
        "while updating: activations and the rest": update.temp_size_in_bytes + update.output_size_in_bytes,
        "while evaluating: caches and the rest": examine.temp_size_in_bytes + examine.output_size_in_bytes,
        "while measuring M·β: gradients": gradients,
        "this program and its compiler": own,
        PEAK: own + max(held, examined, weights + adapters + moments + gradients),
    }


def _examination(sizes: Sizes, model: Transformer, base: PyTree, state: PyTree, analyse: Callable, analysed: dict):
    """XLA's memory analysis of the evaluation's sampler, on as many models as an evaluation has at a time."""
    adapters = jax.tree.map(lambda x: jax.ShapeDtypeStruct((sizes.examined, *x.shape[1:]), x.dtype), state.clients.adapter)
    sampler = make_sampler(model, max_new_tokens=sizes.new_tokens, **sizes.sampling)
    shape = (sizes.asked, sizes.prompt_tokens)
    prompts = Prompts(jax.ShapeDtypeStruct(shape, jnp.int32), jax.ShapeDtypeStruct(shape, bool))
    numbers, key = jax.ShapeDtypeStruct(shape[:1], jnp.int32), jax.eval_shape(lambda: jax.random.key(0))
    analyse("examine", sampler)(base, adapters, prompts, numbers, key)
    return analysed["examine"]


def _total(analysis) -> int:
    return analysis.argument_size_in_bytes + analysis.output_size_in_bytes + analysis.temp_size_in_bytes


def bytes_of(tree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
