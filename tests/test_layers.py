"""The order of the house: imports point towards layer 0, the pure layers stay pure, and a worker never loads JAX."""

import ast
import pathlib
import subprocess
import sys

import pubswap_jax

PACKAGE = pathlib.Path(pubswap_jax.__file__).parent
LAYERS = [
    "types",
    "grpo swap federated distortion",
    "model attention kernel probe products logps draw sampling",
    "steps update mesh toyworld",
    "",  # the host's edge: every module that stands nowhere else
    "ahead evaluate train main assembly questions exchange examination standing recorder drift export plan placement "
    "report headline",
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names.split()}
PURE = {"jax", "flax", "optax", "numpy"}
STANDARD_IN_PURE = {"collections", "dataclasses", "functools", "math", "typing"}
MORE = {"probe": {"concurrent", "sys"}}  # it tries kernels in a thread of its own, and says which it does not trust


def imports(path):
    """The modules a file imports, wherever in the file: (own modules, top-level names of others)."""
    own, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" if node.module == "pubswap_jax" else node.module for alias in node.names]
        for name in names:
            parts = name.split(".")
            (own if parts[0] == "pubswap_jax" else others).add(parts[1] if parts[0] == "pubswap_jax" else parts[0])
    return own, others


def test_imports_point_towards_layer_0():
    wrong = []
    for path in PACKAGE.glob("*.py"):
        layer = LAYER.get(path.stem, 4)
        own, others = imports(path)
        if path.stem == "__init__":
            continue
        for name in own - {path.stem, "_version"}:
            lower = LAYER.get(name, 4)
            if lower > layer or (layer == 4 and lower in (1, 2, 3)):
                wrong.append(f"{path.name} (layer {layer}) imports {name} (layer {lower})")
        if layer <= 3:
            wrong += [
                f"{path.name} (layer {layer}) imports {name}"
                for name in others - PURE - STANDARD_IN_PURE - MORE.get(path.stem, set())
            ]
    assert not wrong, "\n".join(wrong)
    assert all((PACKAGE / f"{name}.py").exists() for name in LAYER if LAYER[name] <= 3)


def test_only_mesh_knows_a_mesh_below_the_program():
    knows = {path.stem for path in PACKAGE.glob("*.py") if "sharding" in path.read_text() and LAYER.get(path.stem, 4) <= 3}
    assert knows == {"mesh"}


def test_importing_the_package_loads_no_jax():
    code = "import sys, pubswap_jax; sys.exit('jax' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_resolves():
    for name in pubswap_jax.__all__:
        assert getattr(pubswap_jax, name) is not None
    assert "pubswap" in dir(pubswap_jax)


def test_every_module_has_its_test():
    tests = {path.stem.removeprefix("test_") for path in pathlib.Path(__file__).parent.glob("test_*.py")}
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "_version", "types"}
    assert modules - tests == set()
