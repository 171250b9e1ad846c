"""The table of fields is the code's, and every field of it is read somewhere."""

import ast
import pathlib
import re
from collections.abc import Mapping

from pubswap_jax import field_table, fields, settings

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "pubswap_jax"
NAMES = {field.name for field in field_table.FIELDS}


def test_the_table_in_the_readme_of_configs_is_the_codes():
    text = (ROOT / "configs" / "README.md").read_text()
    assert fields.table() in text, "python -m pubswap_jax.fields prints the table that belongs into configs/README.md"


def test_names_are_unique_and_defaults_pass_the_check():
    names = [field.name for field in fields.FIELDS]
    assert len(names) == len(set(names))
    config = fields.default_config()
    settings.check(config)
    assert settings.flatten(config).keys() == set(names)
    assert all(field.default in field.choices for field in fields.FIELDS if field.choices)
    assert all(field.source in (field_table.PAPER, field_table.READING, field_table.OURS) for field in fields.FIELDS)


def read_in(code):
    """The fields that a module reads, as `config.training.lr`, `training.lr`, `training[name]` or `chosen(config, name)`."""
    tree, named = ast.parse(code), {}  # named: {variable: the section that it holds}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                several = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
                pairs = zip(target.elts, node.value.elts, strict=True) if several else [(target, node.value)]
                named |= {ast.unparse(left): right.attr for left, right in pairs if isinstance(right, ast.Attribute)}
        elif isinstance(node, ast.arg):
            named.setdefault(node.arg, node.arg)
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else named.get(ast.unparse(node.value), "")
            found |= {f"{owner}.{node.attr}", node.attr if owner == "config" else ""}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("chosen", "settings.chosen"):
            found |= {text.value for text in node.args if isinstance(text, ast.Constant)}
        elif isinstance(node, ast.FunctionDef):  # config.training[name] for each name of a tuple
            owners = [one.value.attr for one in ast.walk(node) if isinstance(one, ast.Subscript) and hasattr(one.value, "attr")]
            texts = [one.value for one in ast.walk(node) if isinstance(one, ast.Constant)]
            found |= {f"{owner}.{text}" for owner in owners for text in texts}
    return found & NAMES


def set_in(code):
    """The fields that a test or a config sets: by assignment, keyword (training__lr), dict, `override` or flag."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Assign):
            targets = [one for target in node.targets for one in getattr(target, "elts", [target])]
            found |= {ast.unparse(target).partition(".")[2] for target in targets}
        elif isinstance(node, ast.keyword):
            found.add((node.arg or "").replace("__", "."))
        elif isinstance(node, ast.Dict):
            found |= {str(getattr(key, "value", "")).replace("__", ".") for key in node.keys}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("override") and len(node.args) == 3:
            found.add(getattr(node.args[1], "value", ""))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= set(re.findall(r"--config\.([\w.]+)=", node.value))
    return found & NAMES


def test_reading_and_setting_are_told_from_other_code():
    assert read_in("def f(config): return config.training.lr, config.seed") == {"training.lr", "seed"}
    assert read_in("training, x = run.config.training, 1\ntraining.lr") == {"training.lr"}
    assert read_in('settings.chosen(config, "training.loss")') == {"training.loss"}
    assert read_in('def f(config): return [config.training[name] for name in ("lr", "kl_coef")]') == {
        "training.lr",
        "training.kl_coef",
    }
    assert read_in('other.lr, key.seed, "training.lr"\nconfig.training.lr = 1') == set()
    assert set_in('config.training.lr, config.seed = 1, 2\nf(data__test=3)\n{"training.kl": 4}') == {
        "training.lr",
        "seed",
        "data.test",
        "training.kl",
    }
    assert set_in('override(config, "model.path", "x"); "--config.data.path=y"') == {"model.path", "data.path"}
    assert set_in('assert config.training.lr == 1, "training.lr"') == set()


def test_no_field_does_nothing():
    checked_only = ("field_table", "fields", "checks")
    read = set().union(*(read_in(path.read_text()) for path in PACKAGE.rglob("*.py") if path.stem not in checked_only))
    calls = [call for field in field_table.FIELDS if isinstance(field.choices, Mapping) for call in field.choices.values()]
    read |= {name for call in calls for name in call.rstrip(")").partition("(")[2].split(", ")}
    assert not NAMES - read, "fields that nothing reads"


def test_every_field_is_set_by_a_test_or_a_preset():
    files = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "configs").glob("*.py")]
    set_somewhere = set().union(*(set_in(file.read_text()) for file in files if file != pathlib.Path(__file__)))
    assert not NAMES - set_somewhere, "fields that no test and no preset sets"


def test_two_configs_share_nothing():
    one, other = fields.default_config(), fields.default_config()
    one.data.fields.prompt, one.seed = "problem", 7
    assert other.data.fields.to_dict() == {} and other.seed == 0
