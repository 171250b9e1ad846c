"""What mkdocs builds besides the pages of this folder: the table of fields from the code, and the pages of the experiments.

Links in the pages are those of the repository, so that they work there too. Here they become links of the site.
"""

import pathlib
import re
import sys

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parent.parent
SHOWN = (".md", ".png", ".ipynb")  # of experiments/
LINKS = {"](../experiments/": "](experiments/", "](../configs/README.md#every-field)": "](fields.md)"}
HEADS = {
    "": "Of the run",
    "model": "Base model and adapters",
    "data": "Questions",
    "federation": "Clients and averaging",
    "reward": "Rewards of your own",
    "training": "Steps",
    "evaluation": "Evaluation",
    "checkpoint": "Checkpoints",
    "log": "Logs",
    "merge": "Merging adapters",
    "route": "Routing between adapters",
    "verifier": "Verifier",
    "mesh": "Devices",
}


def on_files(files, config):
    """Adds the generated page and the experiments."""
    for path in sorted((ROOT / "experiments").rglob("*")):
        if path.name.endswith(SHOWN):
            files.append(File.generated(config, str(path.relative_to(ROOT)), abs_src_path=str(path)))
    files.append(File.generated(config, "fields.md", content=fields_page()))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to files of the repository become links to pages of the site."""
    for link, target in LINKS.items():
        markdown = markdown.replace(link, target)
    return markdown


def on_page_content(html, page, config, files):
    """Names in the cells of tables may break after a dot or an underscore, so that tables fit a narrow screen."""
    return re.sub(r"(?<=<code>)([\w.=/]{12,})(?=</code>)", lambda name: re.sub(r"([._])", r"\1<wbr>", name[1]), html)


def fields_page() -> str:
    """Every field of a config, a table for each section."""
    sys.path.insert(0, str(ROOT))
    from pubswap_jax.fields import FIELDS

    page = [
        "# Every field",
        "",
        "Any field is a flag: `--config.training.lr=1e-4`. Fields marked *paper* are stated by the paper, those marked "
        "*reading* are our reading of it, and those marked *ours* are neither. `--help=SECTION` prints a section.",
    ]
    for section in dict.fromkeys(field.name.rpartition(".")[0] for field in FIELDS):
        page += ["", f"## {HEADS.get(section, section)}" + (f" (`{section}`)" if section else ""), ""]
        page += ["| field | default | meaning | from |", "|---|---|---|---|"]
        page += [row(field) for field in FIELDS if field.name.rpartition(".")[0] == section]
    return "\n".join(page) + "\n"


def row(field) -> str:
    """One field as a line of a table."""
    default = f"`{field.default}`" if str(field.default) not in ("", "{}") and field.default != {} else "empty"
    bounds = "" if field.least is None else f" At least {field.least}" + (f", at most {field.most}." if field.most else ".")
    choices = f"<br>Choices: {', '.join(f'`{choice}`' for choice in field.choices)}." if field.choices else ""
    meaning = field.meaning.replace("|", "\\|")
    return f"| `{field.name}` | {default} | {meaning}.{choices}{bounds} | {field.source} |"
