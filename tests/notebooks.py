"""The notebooks of the documentation, as tests run them: scripts of their code cells."""

import json
import pathlib

FOLDER = pathlib.Path(__file__).parent.parent / "docs" / "notebooks"


def code_cells(name: str) -> list[dict]:
    """The code cells of a committed notebook, none of which may hold outputs."""
    cells = [cell for cell in json.loads((FOLDER / name).read_text())["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells)
    return cells
