"""Draws 40 docstrings and 20 field meanings for a reader, who restates each of them without seeing the code around it.

Every docstring is printed with its file, line, name and signature. The same seed draws the same items from the same code:

    python tests/draw_docstrings.py --seed 1
"""

import argparse
import ast
import pathlib
import random
from collections.abc import Iterator

import pubswap_jax
from pubswap_jax.field_table import FIELDS

PACKAGE = pathlib.Path(pubswap_jax.__file__).parent


def docstrings() -> list[tuple[str, str]]:
    """(heading, text) of every docstring in the package; the heading has file, line, name and signature."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE.parent)
        module = ast.parse(path.read_text())
        if text := ast.get_docstring(module):
            found.append((f"{file}:1  (the module)", text))
        found += [(f"{file}:{line}  {name}", text) for line, name, text in inside(module, "")]
    return found


def inside(parent: ast.AST, prefix: str) -> Iterator[tuple[int, str, str]]:
    """(line, name with its class and signature, text) of every docstring below a syntax node, at any depth."""
    for node in ast.iter_child_nodes(parent):
        named = isinstance(node, ast.ClassDef | ast.FunctionDef)
        name = f"{prefix}{node.name}" if named else prefix
        if named and (text := ast.get_docstring(node)):
            yield node.lineno, f"{name}{signature(node)}", text
        yield from inside(node, f"{name}." if named else prefix)


def signature(node: ast.ClassDef | ast.FunctionDef) -> str:
    """A function's arguments and result as its def line has them, or a class's bases, as text."""
    if isinstance(node, ast.ClassDef):
        return f"({', '.join(map(ast.unparse, node.bases))})"
    return f"({ast.unparse(node.args)})" + (f" -> {ast.unparse(node.returns)}" if node.returns else "")


def main() -> None:
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=how)
    parser.add_argument("--seed", type=int, default=1, help="number that chooses the items (default: 1)")
    seed = parser.parse_args().seed
    chance = random.Random(seed)
    print(f"seed {seed}")
    for where, text in chance.sample(docstrings(), 40):
        print(f"\n--- {where}\n{text}")
    for field in chance.sample(FIELDS, 20):
        print(f"\n--- the setting {field.name} (default {field.default!r})\n{field.meaning}")


if __name__ == "__main__":
    main()
