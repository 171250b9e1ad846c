"""Configs: every preset loads, flags change what they name, and a mistake is one line with the nearest name."""

import ast
import importlib
import importlib.util
import pathlib
import shutil

import pytest

from pubswap_jax import settings
from pubswap_jax.fields import default_config

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
PRESETS = {
    "math": [
        "tiny",
        "hard",
        "smollm2-135m",
        "qwen2.5-0.5b",
        "fedbuff",
        "fedrevive",
        "sapo",
        "fedgrpo",
        "qwen2.5-math-1.5b",
        "qwen3-1.7b",
        "qwen3-4b",
        "smoke",
    ],
    "medical": ["tiny", "smollm2-135m", "llama-3.2-3b", "smoke"],
}


def test_the_page_names_every_preset():
    page = (CONFIGS / "README.md").read_text()
    for name, presets in PRESETS.items():
        (line,) = [line for line in page.splitlines() if line.startswith(f"| `{name}.py`")]
        assert [preset for preset in presets if f"`{preset}`" not in line] == []


@pytest.mark.parametrize("name, preset", [(name, preset) for name in PRESETS for preset in [*PRESETS[name], ""]])
def test_every_preset_loads_and_passes_the_check(name, preset):
    config = settings.load(f"{CONFIGS / name}.py" + (f":{preset}" if preset else ""))
    settings.check(config)
    if preset.startswith(("qwen", "llama")) and preset != "qwen2.5-0.5b":  # what METHOD.md knows of the paper's runs
        paper = (config.model.lora_rank, config.model.lora_alpha, config.federation.num_clients, config.training.group)
        assert paper == (32, 64.0, 10, 8) and config.training.max_new_tokens == 2048 and config.federation.swap == "balanced"


def test_the_first_preset_is_the_default():
    for name in PRESETS:
        assert settings.load(f"{CONFIGS / name}.py").to_dict() == settings.load(f"{CONFIGS / name}.py:tiny").to_dict()


@pytest.mark.parametrize(
    "name, text, value",
    [
        ("seed", "7", 7),
        ("training.lr", "1e-4", 1e-4),
        ("training.lr", "1", 1.0),
        ("federation.average", "false", False),
        ("model.path", "123", "123"),
        ("data.fields.prompt", "problem", "problem"),
        ("data.fields.topic_depth", "2", 2),
    ],
)
def test_flags_change_what_they_name(name, text, value):
    config = default_config()
    settings.override(config, name, text)
    for part in name.split("."):
        config = config[part]
    assert config == value and type(config) is type(value)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("training.lrr", "1", r"--config.training.lrr: no such field; did you mean training.lr\?"),
        ("swap_period", "1", r"did you mean federation.swap_period\?"),
        ("federation.swap_periode", "1", r"did you mean federation.swap_period\?"),
        ("data.fields", "{}", "no such field"),
        ("zzz", "1", "no such field; there are seed,"),
        ("seed", "x", "--config.seed=x: a whole number expected"),
        ("seed", "1.5", "a whole number expected"),
        ("training.lr", "fast", "--config.training.lr=fast: a number expected"),
        ("federation.average", "maybe", "True or False expected"),
    ],
)
def test_a_wrong_flag_is_one_line(name, text, message):
    with pytest.raises(ValueError, match=message) as error:
        settings.override(default_config(), name, text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("training.group", 1, "config.training.group=1: at least 2 expected"),
        ("federation.swap", "balance", r"config.federation.swap=balance: did you mean balanced\?"),
        ("training.microbatch", 3, "config.training.microbatch=3: it must divide config.training.prompts=8"),
        ("training.client_microbatch", 4, "it must divide config.federation.num_clients=10"),
        ("federation.participants", 11, "config.federation.participants=11: there are 10 clients"),
        ("training.kl_in", "reward", "config.training.kl_in=reward: config.training.kl=k1 expected, not none"),
        ("federation.steps", 0, "config.federation.steps=0: 1 or more expected"),
        ("training.lr", -1.0, "config.training.lr=-1.0: 0 or more expected"),
        ("data.alpha", 0.0, "config.data.alpha=0.0: 1e-06 or more expected"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_what_could(name, value, message):
    config = default_config()
    section, _, leaf = name.rpartition(".")
    config[section][leaf] = value
    with pytest.raises(ValueError, match=message):
        settings.check(config)


def test_a_field_that_is_none_is_found_by_the_check():
    config = default_config()
    config.training.batch_size = 8
    with pytest.raises(ValueError, match="config.training.batch_size: no such field"):
        settings.check(config)


def test_differences_are_named_both_ways():
    assert settings.differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == ["b: 3 before, 2 now", "c: 4 before, None now"]


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("training.lr", None, "config.training.lr=None: a number expected"),
        ("training.group", None, "config.training.group=None: a whole number expected"),
        ("federation.average", None, "config.federation.average=None: True or False expected"),
        ("model.path", None, "config.model.path=None: a text expected"),
    ],
)
def test_a_field_set_to_none_in_python_is_one_line(name, value, message):
    config = default_config()
    section, _, leaf = name.rpartition(".")
    config[section][leaf] = value
    with pytest.raises(ValueError, match=message):
        settings.check(config)


@pytest.mark.parametrize("name", PRESETS)
def test_a_wrong_preset_in_python_is_one_line(name):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert list(module.PRESETS) == PRESETS[name]
    for preset in module.PRESETS:
        settings.check(module.get_config(preset))
    with pytest.raises(ValueError, match="there is no preset 'smok'; did you mean smoke"):
        module.get_config("smok")


def test_a_missing_config_file_says_what_to_give(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"no such file; did you mean math\?; or give the path of a Python file"):
        settings.load("configs/math.py")
    (tmp_path / "mine.py").write_text("")
    with pytest.raises(ValueError, match="no such file; did you mean .*mine.py"):
        settings.load(str(tmp_path / "mime.py"))
    with pytest.raises(ValueError, match="a folder; name a config file: .*mine.py"):
        settings.load(str(tmp_path))


def copy_of(folder):
    shutil.copytree(CONFIGS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.mark.parametrize("name", PRESETS)
def test_configs_share_a_file_wherever_their_folder_is(name, tmp_path, monkeypatch):
    folder = copy_of(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    shared = (folder / "common.py").read_text()
    (folder / "common.py").write_text(shared.replace("lora_rank = 8", "lora_rank = 9"))
    there = settings.load(f"mine/{name}.py:tiny")  # its own neighbour, not the repository's
    assert there.model.lora_rank == 9 and settings.load(f"{CONFIGS / name}.py:tiny").model.lora_rank == 8
    (folder / "common.py").write_text("def tiny(:\n")
    with pytest.raises(ValueError, match=r"mine/common.py:1: invalid syntax"):
        settings.load(f"mine/{name}.py")
    (folder / "common.py").unlink()
    with pytest.raises(ValueError, match=rf"mine/{name}.py: it needs common.py in its folder, and there is no .*common.py"):
        settings.load(f"mine/{name}.py")


def test_configs_can_be_a_package(tmp_path, monkeypatch):
    folder = copy_of(tmp_path / "a_package" / "configs")
    for inner in (folder, folder.parent):
        (inner / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, presets in PRESETS.items():
        module = importlib.import_module(f"a_package.configs.{name}")
        for preset in presets:
            assert module.get_config(preset).to_dict() == settings.load(f"{CONFIGS / name}.py:{preset}").to_dict()


def test_the_shared_file_is_not_offered_as_a_config(tmp_path):
    with pytest.raises(ValueError, match="a folder; name a config file: [^,]*math.py, [^,]*medical.py$"):
        settings.load(str(copy_of(tmp_path / "mine")))


def test_presets_assign_one_field_a_line():
    for file in CONFIGS.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            assert not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Tuple), f"{file.name}:{node.lineno}"


def test_a_config_of_the_package_is_found_by_its_name_from_every_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert settings.load("math:hard").to_dict() == settings.load(f"{CONFIGS}/math.py:hard").to_dict()
    assert settings.load("medical").data.name == "homework_choice"
    for name in ("common", "__init__", "maths"):
        with pytest.raises(ValueError, match=f"--config={name}: no such file; "):
            settings.load(name)
    (tmp_path / "math").write_text("notes")
    assert settings.load("math").data.name == "homework"
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(ValueError, match="--config=notes.txt: not a Python file"):
        settings.load("notes.txt")
