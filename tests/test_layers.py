"""The order of the folders: imports point downward and form no circle, the mathematics stays pure, a worker never loads JAX."""

import ast
import pathlib

import pubswap_jax

PACKAGE = pathlib.Path(pubswap_jax.__file__).parent
TOP = "command loop main notebook verify"
BOTTOM = "records types settings checks expert_checks idle own fields field_table files system"
# From the top down: a folder may import those below its own. Its files may import each other.
FOLDERS = ["after", "report", "run", "questions", "weights", "algorithm", "policy", "devices", "verifier"]
ROOMS = ["", *FOLDERS, "bottom"]  # "" is the top row of modules

PURE = {"jax", "flax", "optax", "numpy"}
STANDARD_IN_PURE = {"collections", "dataclasses", "fractions", "functools", "math", "typing"}
# kernel_check tries kernels in a thread of its own and says which it does not trust; records writes its arrays' names as JSON
MORE = {"kernel_check": {"concurrent", "sys"}, "records": {"json"}}
NOUNS = ("types", "records")  # of the bottom row, what the mathematics may import


def modules():
    """(path, room) of every module but the package's own."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts not in (("__init__",), ("_version",)):
            yield path, room(parts)


def room(parts):
    """'algorithm' of ('algorithm', 'swap'); '' or 'bottom' of a module directly under the package."""
    if parts[0] in FOLDERS:
        return parts[0]
    assert parts[0] in (TOP + " " + BOTTOM).split(), f"{parts[0]} stands nowhere in the table"
    return "" if parts[0] in TOP.split() else "bottom"


def imports(path):
    """The modules a file imports, wherever in the file: (own modules as parts, top-level names of others)."""
    own, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide the folder"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "pubswap_jax" and parts[1] not in pubswap_jax.__all__ + ["_version"]:
                own.add(tuple(parts[1:]))
            elif parts[0] != "pubswap_jax":
                others.add(parts[0])
    return own, others


def test_imports_point_downward():
    wrong = []
    for path, here in modules():
        for parts in imports(path)[0]:
            there = room(parts)
            if here != there and ROOMS.index(there) <= ROOMS.index(here):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {'.'.join(parts)}")
    assert not wrong, "\n".join(wrong)


def test_no_file_imports_itself_through_others():
    below = {path: imports(path)[0] for path, _ in modules()}
    by_name = {path.relative_to(PACKAGE).with_suffix("").parts: path for path in below}
    arrows = {path: {by_name[p[: len(n)]] for p in own for n in by_name if p[: len(n)] == n} for path, own in below.items()}
    while leaves := [path for path, targets in arrows.items() if not targets & arrows.keys()]:
        for path in leaves:
            del arrows[path]
    assert not arrows, f"a circle among {sorted(path.name for path in arrows)}"


def test_the_verifier_imports_nothing_else_of_ours():
    for path, here in modules():
        if here == "verifier":
            foreign = [parts for parts in imports(path)[0] if parts[0] != "verifier"]
            assert not foreign, f"{path.name} imports {foreign}"


def test_the_mathematics_is_pure():
    wrong = []
    for path, here in modules():
        if here in ("algorithm", "policy") or path.stem == "records":
            own, others = imports(path)
            wrong += [f"{path.name}: {parts}" for parts in own if parts[0] not in ("algorithm", "policy", *NOUNS)]
            allowed = PURE | STANDARD_IN_PURE | MORE.get(path.stem, set())
            wrong += [f"{path.name}: {name}" for name in others - allowed]
            assert "sharding" not in path.read_text(), f"{path.name} knows a mesh"
    assert not wrong, "\n".join(wrong)


def test_every_module_has_its_test_in_the_folder_that_mirrors_its_own():
    tests = pathlib.Path(__file__).parent
    missing = []
    for path, _ in modules():
        here = path.relative_to(PACKAGE)
        if path.name not in ("__init__.py", "types.py") and not (tests / here.parent / f"test_{path.name}").exists():
            missing.append(str(here))
    assert not missing, missing
