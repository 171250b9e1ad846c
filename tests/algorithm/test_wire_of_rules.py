"""What crosses 8 devices, one client each, when a rule is applied: read from the compiled program."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from aggregation_laws import as_dtype, assert_close, next_adapter, uploads_of
from jax.sharding import NamedSharding, PartitionSpec

import pubswap_jax as ps
from pubswap_jax.algorithm.aggregation import mean
from pubswap_jax.algorithm.fedecado import fedecado_rule
from pubswap_jax.algorithm.federation import direct
from pubswap_jax.algorithm.product_svd import product_svd
from pubswap_jax.algorithm.robust import median, norm_clip, trimmed_mean
from pubswap_jax.algorithm.robust_pca import robust_pca
from pubswap_jax.algorithm.server_optimizers import buffered, fedexp, fedopt, scaffold_rule
from pubswap_jax.devices.mesh import make_mesh
from pubswap_jax.run.placement import placement

CLIENTS = 8
COLLECTIVE = re.compile(
    r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute|collective-broadcast|reduce-scatter)(?:-start)?\("
)
RULES = {
    "mean": mean(),
    "fedopt": fedopt(optax.adam(0.1)),
    "fedexp": fedexp(),
    "norm_clip": norm_clip(1.0),
    "scaffold": scaffold_rule(),
    "fedecado": fedecado_rule(jnp.ones(CLIENTS)),
    "median": median(),
    "trimmed_mean": trimmed_mean(2),
    "product_svd": product_svd(),
    "robust_pca": robust_pca(2.0, 5),
    "buffered": buffered(3),
    "fedopt of median": fedopt(optax.sgd(1.0), of=median()),
}
SMALL = ("f32[]", f"f32[{CLIENTS}]", f"s32[{CLIENTS}]", f"pred[{CLIENTS}]")  # weights and norms, one number a client
GATHER = ["median", "trimmed_mean", "product_svd", "robust_pca", "buffered", "fedopt of median"]


def apply_on_mesh(rule):
    """The compiled `apply` on a mesh, what crosses in it (operation, shapes), its result, and the result on one device."""
    mesh = make_mesh(client=CLIENTS)
    spread, everywhere = (NamedSharding(mesh, spec) for spec in (PartitionSpec("client"), PartitionSpec()))
    adapter, uploads = map(as_dtype, uploads_of(CLIENTS, lead=(2,)))
    extra = {"control": uploads, "time": jnp.ones(CLIENTS), "curvature": jnp.ones(CLIENTS)}

    def apply(memory, adapter, uploads, weights, staleness, extra):
        if rule.gathers:
            uploads = jax.lax.with_sharding_constraint(uploads, everywhere)
        return rule.apply(memory, adapter, uploads, weights, staleness, extra)

    server = jax.device_put((rule.init(adapter), adapter), everywhere)
    clients = jax.device_put((uploads, extra), spread)
    rest = jax.device_put((jnp.ones(CLIENTS), jnp.zeros(CLIENTS, jnp.int32)), everywhere)
    args = (*server, clients[0], *rest, clients[1])
    compiled = jax.jit(apply).lower(*args).compile()
    crossing = []
    for match in COLLECTIVE.finditer(compiled.as_text()):
        crossing += [(match[2], shape) for shape in re.findall(r"\w+\[[\d,]*\]", match[1])]
    return crossing, compiled(*args)[0], next_adapter(rule, adapter, uploads, None, extra)[0], uploads


@pytest.mark.parametrize("name", RULES)
def test_what_crosses(name):
    rule = RULES[name]
    crossing, found, expected, uploads = apply_on_mesh(rule)
    assert rule.gathers == (name in GATHER)
    leaves = [np.shape(x) for x in jax.tree.leaves(uploads)]
    text = lambda shape: f"f32[{','.join(map(str, shape))}]"  # noqa: E731
    if rule.gathers:
        assert sorted(crossing) == sorted(("all-gather", text(shape)) for shape in leaves), (
            "every upload once, and nothing else"
        )
    else:
        assert {operation for operation, _ in crossing} == {"all-reduce"}
        assert {shape for _, shape in crossing} <= {text(shape[1:]) for shape in leaves} | {"f32[]"}, "sums over clients only"
    if name == "mean":
        assert len(crossing) == len(leaves)
    assert_close(found, expected, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mean", "median"])
def test_a_run_on_a_mesh_gathers_the_uploads_of_such_a_rule_and_of_no_other(name):
    place, crossing = placement(make_mesh(client=CLIENTS), CLIENTS, 1), {}

    def program(called, function):
        jitted = jax.jit(function, **({"out_shardings": place.shardings[called]} if called in place.shardings else {}))

        def call(*arguments):
            if called in ("gather", "average"):
                text = jitted.lower(*arguments).compile().as_text()
                shapes = [(m[2], shape) for m in COLLECTIVE.finditer(text) for shape in re.findall(r"\w+\[[\d,]*\]", m[1])]
                crossing[called] = shapes
            return jitted(*arguments)

        return call

    model, _, adapter = ps.toy(jax.random.key(0))
    how = {"num_clients": CLIENTS, "group": 2, "aggregator": RULES[name], "program": program}
    federation = ps.pubswap(model, optax.identity(), **how)
    federation.close(federation.init(place.put(adapter)), direct)
    leaves = len(jax.tree.leaves(adapter))
    large = [(operation, shape) for operation, shape in crossing["average"] if shape not in SMALL]
    gathered = [operation for operation, shape in crossing.get("gather", ()) if shape not in SMALL]
    if name == "median":
        assert gathered == ["all-gather"] * leaves and not large
    else:
        assert not gathered and [operation for operation, _ in large] == ["all-reduce"] * leaves
