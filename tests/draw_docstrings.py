"""Draws docstrings and field meanings for a reader who sees each alone and says what it means.

python tests/draw_docstrings.py --seed 1
"""

import argparse
import ast
import pathlib
import random

import pubswap_jax
from pubswap_jax.field_table import FIELDS


def docstrings() -> list[tuple[str, str]]:
    """(where, text) of every docstring in the package."""
    found, package = [], pathlib.Path(pubswap_jax.__file__).parent
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                name = getattr(node, "name", "")
                found.append((f"{path.relative_to(package)} {name}".strip(), text))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    seed = parser.parse_args().seed
    chance = random.Random(seed)
    print(f"seed {seed}")
    for where, text in chance.sample(docstrings(), 40):
        print(f"\n--- {where}\n{text}")
    for field in chance.sample(FIELDS, 20):
        print(f"\n--- the setting {field.name} (default {field.default!r})\n{field.meaning}")


if __name__ == "__main__":
    main()
