"""The package as its users install it: the wheel, built from the sdist, in a fresh environment outside the clone."""

import configparser
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from notebooks import code_cells
from test_settings import PRESETS

from pubswap_jax.run import journal

ROOT = pathlib.Path(__file__).parent.parent
SOURCES = ("setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "pubswap_jax", "configs")
MOST_BYTES = 8_000_000
# The embedded model and world, in one round of seconds.
TINY = {
    "federation.num_clients": 2,
    "federation.rounds": 1,
    "federation.steps": 2,
    "training.prompts": 2,
    "training.group": 4,
    "data.max_questions": 256,
    "data.test": 16,
    "data.validation": 8,
    "log.tensorboard": "off",
}


def options():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_every_folder_with_code_is_a_package_of_the_wheel():
    listed = options()["options"]["packages"].split()
    folders = {path.parent for path in (ROOT / "pubswap_jax").rglob("*.py")}
    found = {".".join(path.relative_to(ROOT).parts) for path in folders}
    assert sorted(found | {"pubswap_jax.configs"}) == listed


def test_what_the_install_brings_is_imported():
    """rich and matplotlib came with every install, and no module of the package imported them."""
    wanted = options()["options"]["install_requires"]
    assert "rich" not in wanted and "matplotlib" not in wanted
    code = "".join(path.read_text() for path in (ROOT / "pubswap_jax").rglob("*.py"))
    assert "import rich" not in code and "matplotlib" not in code


def run(command, **more):
    """Runs a command, and shows what it printed if it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """(sdist, wheel), built from a copy of the sources, the wheel from the sdist."""
    source = tmp_path_factory.mktemp("source") / "pubswap_jax"
    source.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, source / name)
    said = run([sys.executable, "-m", "build", source])
    assert "Deprecat" not in said and "would be ignored" not in said, said  # setuptools' words for what will break
    (sdist,), (wheel,) = (source / "dist").glob("*.tar.gz"), (source / "dist").glob("*.whl")
    return sdist, wheel


@pytest.mark.slow
def test_the_distributions_are_whole_small_and_well_formed(distributions):
    run([sys.executable, "-m", "twine", "check", "--strict", *distributions])
    assert all(path.stat().st_size <= MOST_BYTES for path in distributions)
    inside = set(zipfile.ZipFile(distributions[1]).namelist())
    sources = [path for path in (ROOT / "pubswap_jax").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    wanted = {str(path.relative_to(ROOT)) for path in sources}
    wanted |= {f"pubswap_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    assert wanted == {name for name in inside if ".dist-info/" not in name}
    assert "pubswap_jax/py.typed" in inside


def interpreter(version):
    """The path of a Python of this version, such as 3.12, that can make environments: from PATH or pyenv's folder, or empty.

    pyenv puts a launcher on PATH for every version that it has, and the launcher of a version that is not chosen fails.
    """
    if version == f"3.{sys.version_info.minor}":
        return sys.executable
    pyenv = pathlib.Path(os.environ.get("PYENV_ROOT") or pathlib.Path.home() / ".pyenv") / "versions"
    found = [shutil.which(f"python{version}") or "", *map(str, sorted(pyenv.glob(f"{version}*/bin/python")))]
    code = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
    asked = (subprocess.run([path, "-c", code], capture_output=True, text=True, check=False) for path in filter(None, found))
    return next((done.args[0] for done in asked if (done.returncode, done.stdout.strip()) == (0, version)), "")


def test_a_python_is_found_on_the_path_or_in_pyenvs_folder(tmp_path, monkeypatch):
    def script(path, body):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return str(path)

    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    assert interpreter(f"3.{sys.version_info.minor}") == sys.executable
    assert interpreter("3.99") == ""
    script(tmp_path / "bin" / "python3.99", "echo 'command not found' >&2; exit 127")
    script(tmp_path / "pyenv" / "versions" / "3.99.1" / "bin" / "python", "exit 1")  # it has no venv
    assert interpreter("3.99") == ""
    later = script(tmp_path / "pyenv" / "versions" / "3.99.2" / "bin" / "python", "echo 3.99")
    assert interpreter("3.99") == later and interpreter("3.9") == ""
    chosen = script(tmp_path / "bin" / "python3.99", "echo 3.99")
    assert interpreter("3.99") == chosen


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_the_wheel_in_a_fresh_environment_outside_the_clone(distributions, version, tmp_path):
    """`pip install` without a warning of ours, help at each level, and the same figures as the clone's command."""
    if not interpreter(version):
        pytest.skip(f"no python{version} here")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"XLA_FLAGS": ""}
    run([interpreter(version), "-m", "venv", tmp_path / "venv"], env=environment)
    bin, elsewhere = tmp_path / "venv" / "bin", tmp_path / "elsewhere"
    elsewhere.mkdir()
    there = {"cwd": elsewhere, "env": environment}
    said = run([bin / "pip", "install", distributions[1]], **there)
    # Warnings that name a location are about the machine's package indexes.
    warned = [line for line in said.splitlines() if line.startswith(("WARNING", "DEPRECATION")) and "Location" not in line]
    assert not warned, warned
    assert "usage: pubswap COMMAND" in run([bin / "pubswap", "--help"], **there)
    assert "usage: pubswap train CONFIG" in run([bin / "pubswap", "train", "--help"], **there)
    for name in PRESETS:
        code = f"import pubswap_jax.configs.{name} as c; print(pubswap_jax.__file__); c.get_config()"
        assert str(tmp_path / "venv") in run([bin / "python", "-W", "error", "-c", "import pubswap_jax; " + code], **there)

    flags = [f"--config.{name}={value}" for name, value in TINY.items()]
    run([bin / "pubswap", "train", "math", "--workdir=run", *flags], **there)
    clone = [sys.executable, "-m", "pubswap_jax.main", "--config=configs/math.py", f"--workdir={tmp_path / 'clone'}", *flags]
    run(clone, cwd=ROOT, env=environment)
    asked = "import importlib.metadata as m; print(*(m.version(name) for name in ('jax', 'jaxlib', 'flax', 'numpy')))"
    same = run([sys.executable, "-c", asked]) == run([bin / "python", "-c", asked], **there)
    ours, theirs = (figures(folder) for folder in (tmp_path / "clone", elsewhere / "run"))
    assert len(ours) == 4 and [row.keys() for row in ours] == [row.keys() for row in theirs]
    for row, other in zip(ours, theirs, strict=True):
        for name in row:  # other versions of JAX, which other Pythons get, round the same draws otherwise
            np.testing.assert_allclose(other[name], row[name], rtol=0 if same else 1e-3, atol=0 if same else 1e-5, err_msg=name)
    assert (elsewhere / "run" / "report.html").exists()
    assert "run/report.html" in run([bin / "pubswap", "report", "run"], **there)
    if version == f"3.{sys.version_info.minor}":
        the_first_notebook_goes_on(bin / "python", there)


def the_first_notebook_goes_on(python, there):
    """Run again as a script, notebook A finds the finished run and prints the same figures."""
    (there["cwd"] / "cells.py").write_text("\n".join("".join(cell["source"]) for cell in code_cells("own_reward.ipynb")))
    said = [run([python, "cells.py"], **there) for _ in range(2)]
    figures = [[line for line in one.splitlines() if line.startswith("validation pass@1: ")] for one in said]
    assert figures[0] == figures[1] and len(figures[0]) == 1
    assert float(figures[0][0].split()[4].rstrip(",")) > 0.8 and (there["cwd"] / "adapters" / "global").is_dir()


def figures(workdir):
    return [{name: x for name, x in row.items() if not name.startswith("time/")} for row in journal.read(workdir, "metrics")]
