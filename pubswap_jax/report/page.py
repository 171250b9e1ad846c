"""The report's HTML template, with its styles (light and dark, wide and narrow), and its sections, tables and figures."""

import html
from collections.abc import Sequence

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{
  --ink: #1f2933; --faint: #616e7c; --rule: #e0e4e8; --page: #ffffff; --card: #f7f9fa;
  --k0: #2f6f9f; --k1: #d9822b; --k2: #3d8b57; --k3: #a4508b; --k4: #7a6a1f; --k5: #4a5fc1; --k6: #b3413a; --k7: #4f8f95;
  --k8: #7b8794;
}}
@media (prefers-color-scheme: dark) {{
  :root {{
    --ink: #e4e7eb; --faint: #9aa5b1; --rule: #323f4b; --page: #14191f; --card: #1c232b;
    --k0: #6cb2e3; --k1: #f0a658; --k2: #74c48c; --k3: #d48fc0; --k4: #cdbb5f; --k5: #97a6f5; --k6: #ee8a82; --k7: #8accd2;
    --k8: #9aa5b1;
  }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 1180px; padding: 1.2rem; color: var(--ink); background: var(--page);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }}
h1 {{ font-size: 1.35rem; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.1rem; margin: 2.2rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--rule); }}
.two {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); align-items: start; }}
figure {{ margin: 0; padding: .8rem; background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
  min-width: 0; }}
figcaption {{ font-weight: 600; margin-bottom: .4rem; }}
.chart, .scroll {{ overflow-x: auto; }}
.chart svg {{ display: block; width: 100%; height: auto; }}
.small {{ font-size: 11px; fill: var(--faint); }}
.value {{ fill: var(--ink); }}
@media (max-width: 560px) {{ .chart svg:not([style]) .small {{ font-size: 15px; }} }}
.grid {{ stroke: var(--rule); stroke-width: 1; }}
.line {{ fill: none; stroke: currentColor; stroke-width: 1.8; stroke-linejoin: round; }}
.dot, .cell, .band {{ fill: currentColor; }}
.band {{ fill-opacity: .15; }}
.bubble {{ fill: currentColor; fill-opacity: .45; }}
.c0 {{ color: var(--k0); }} .c1 {{ color: var(--k1); }} .c2 {{ color: var(--k2); }} .c3 {{ color: var(--k3); }}
.c4 {{ color: var(--k4); }} .c5 {{ color: var(--k5); }} .c6 {{ color: var(--k6); }} .c7 {{ color: var(--k7); }}
.c8 {{ color: var(--k8); }}
.legend {{ display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: 13px; margin-top: .3rem; }}
.legend i {{ display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .35em;
  background: currentColor; }}
.note {{ color: var(--faint); font-size: 13px; margin: .5rem 0; overflow-wrap: anywhere; }}
table {{ border-collapse: collapse; font-size: 14px; }}
th, td {{ text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; }}
td {{ overflow-wrap: break-word; white-space: pre-wrap; font-variant-numeric: tabular-nums; }}
@media (max-width: 560px) {{ table {{ font-size: 12px; }} th, td {{ padding-right: .4rem; }} }}
details {{ border-bottom: 1px solid var(--rule); padding: .3rem 0; }}
.filter {{ display: flex; flex-wrap: wrap; gap: .4rem 1rem; margin: .6rem 0; font-size: 14px; align-items: center; }}
.filter select {{ font: inherit; color: inherit; background: var(--card); border: 1px solid var(--rule); border-radius: 4px;
  max-width: 14rem; }}
[hidden] {{ display: none !important; }}
details td {{ overflow-wrap: anywhere; }}
details td:first-child {{ white-space: nowrap; }}
summary {{ cursor: pointer; overflow-wrap: anywhere; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def section(title: str, body: str) -> str:
    """HTML of a part of the report: a heading, and `body`, which is HTML."""
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """HTML of a table. Cells are escaped, so a model's response cannot insert HTML."""
    top = "".join(f"<th>{html.escape(str(name))}</th>" for name in head)
    lines = ("".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows)
    return f'<div class="scroll"><table><tr>{top}</tr>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'


def figure(caption: str, body: str) -> str:
    """HTML of a chart or a table with a caption above it."""
    return f"<figure><figcaption>{html.escape(caption)}</figcaption>{body}</figure>"
