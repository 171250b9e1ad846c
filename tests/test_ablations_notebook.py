"""The notebook of differentiable ablations runs from top to bottom: its own asserts check every derivative."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parent.parent / "experiments" / "differentiable_ablations"
NOTEBOOK = FOLDER / "differentiable_ablations.ipynb"
PATIENCE = 1200  # seconds by the clock, after which it hangs


def code_cells():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def execute_in_a_kernel(folder):
    import nbclient
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=PATIENCE, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()


def execute_as_a_script(folder):
    source = "\n".join("".join(cell["source"]) for cell in code_cells())
    (folder / "cells.py").write_text(source)
    environment = os.environ | {"MPLBACKEND": "agg"}
    subprocess.run([sys.executable, "cells.py"], cwd=folder, env=environment, check=True, timeout=PATIENCE)


# What nbclient's own dependencies announce of themselves is none of our business.
@pytest.mark.filterwarnings("default")
@pytest.mark.notebook
def test_the_notebook_runs_and_its_checks_pass(tmp_path):
    has_kernel = all(importlib.util.find_spec(name) for name in ("nbclient", "nbformat", "ipykernel"))
    execute = execute_in_a_kernel if has_kernel else execute_as_a_script
    execute(tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    print(f"{results['cpu_seconds']:.0f} seconds of CPU")
    assert max(results["finite_differences"]["largest_relative_error"].values()) < 1e-3
    assert results["influence"]["correlation_silenced"] > 0.9
    before, after = results["hypergradient_step"]["validation_log_likelihood"]
    assert after > before


def test_the_notebook_is_stored_with_its_outputs_and_figures():
    cells = code_cells()
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert all(output["output_type"] != "error" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert NOTEBOOK.stat().st_size < 500_000
    assert "All checks passed" in "".join(outputs[-1]["text"])
