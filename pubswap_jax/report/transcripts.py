"""The report's section of transcripts: questions with the responses of a group, their verdicts and their replacements.

A script in the page hides the groups that the filter does not ask for. Where scripts do not run, all groups are shown.
"""

import html
import json
from collections.abc import Mapping, Sequence

from pubswap_jax.report import charts
from pubswap_jax.report.page import section, table

TRANSCRIPTS = 200  # groups shown: half of them with a replacement, if there are as many
CHARACTERS = 4_000_000  # of all responses shown: a browser still opens such a page at once
HEAD = 120  # characters of a question in the line that opens its group
PRIVATE = (
    "This section and rollouts.jsonl carry private questions and answers of every client, in plain text. That is fine in a "
    "simulation; --config.log.transcripts=0 writes none. Rounds and steps are counted from 1 here, from 0 in the file."
)
SCRIPT = """<script>
const filter = document.getElementById("filter"), shown = document.getElementById("shown");
const groups = [...document.querySelectorAll("details[data-client]")];
function apply() {
  const wanted = [...filter.querySelectorAll("select")].filter(one => one.value);
  groups.forEach(group => { group.hidden = !wanted.every(one => JSON.parse(group.dataset[one.name]).includes(one.value)); });
  shown.textContent = groups.filter(group => !group.hidden).length + " of " + groups.length + " groups";
}
filter.addEventListener("change", apply);
filter.hidden = false;
apply();
</script>"""


def transcripts(rollouts: Sequence[Mapping], at: Mapping[tuple[int, int], int]) -> str:
    """HTML of the report's section of transcripts, from the rows of rollouts.jsonl. Empty without rows.

    `at`: (round, step) -> the step's number in the run.
    """
    groups = [_group(row, at) for row in sorted(chosen(rollouts), key=lambda row: (row["round"], row["step"]))]
    if not groups:
        return ""
    left_out = len(rollouts) - len(groups)
    note = PRIVATE + (f" {left_out} older groups are in rollouts.jsonl alone." if left_out else "")
    marks = [marks for _, marks in groups]
    body = "".join(text for text, _ in groups)
    return section("Transcripts", charts.note(note) + _filter(marks) + body + SCRIPT)


def chosen(rollouts: Sequence[Mapping]) -> list[Mapping]:
    """Chooses the groups that the report shows: the newest, half of them with a swap if there are as many.

    Their responses have at most CHARACTERS in all.
    """
    swapped = [number for number, row in enumerate(rollouts) if _swapped(row)]
    others = [number for number, row in enumerate(rollouts) if not _swapped(row)]
    half = max(TRANSCRIPTS // 2, TRANSCRIPTS - len(others)), max(TRANSCRIPTS // 2, TRANSCRIPTS - len(swapped))
    numbers, size, found = sorted(swapped[-half[0] :] + others[-half[1] :], reverse=True), 0, []
    for number in numbers:
        size += sum(len(response["text"]) for response in rollouts[number]["responses"])
        if size > CHARACTERS:
            break
        found.append(rollouts[number])
    return found


def _swapped(row: Mapping) -> bool:
    return any("replaced_by" in response for response in row["responses"])


def _group(row: Mapping, at: Mapping[tuple[int, int], int]) -> tuple[str, dict[str, list[str]]]:
    """HTML of one question and its responses, folded under a line; and the values by which the page's menus can filter it."""
    kind = "public" if row["public"] else "private"
    step = at.get((row["round"], row["step"]), "?")
    question = row["question"]
    shown = question if len(question) <= HEAD else f"{question[:HEAD]}…"
    head = f"round {row['round'] + 1}, step {step}, {kind}, client {row['client']}, {row['topic']}: {shown}"
    lines = [
        [r["verdict"], r["text"], f"client {r['from_client']}: {r['replaced_by']}" if "replaced_by" in r else ""]
        for r in row["responses"]
    ]
    marks = {
        "client": [str(row["client"])],
        "topic": [row["topic"] or "(no topic)"],
        "swapped": ["with a swap" if _swapped(row) else "without a swap"],
        "verdict": sorted({response["verdict"] for response in row["responses"]}),
    }
    data = "".join(f' data-{name}="{html.escape(json.dumps(values))}"' for name, values in marks.items())
    answer = f"<p>{html.escape(question)}</p>" if shown != question else ""
    answer += f"<p>answer: <b>{html.escape(row['answer'])}</b></p>"
    responses = table(["verdict", "response", "replaced by"], lines)
    return f"<details{data}><summary>{html.escape(head)}</summary>{answer}{responses}</details>", marks


def _filter(marks: Sequence[Mapping[str, Sequence[str]]]) -> str:
    """HTML of the menus that filter transcripts by client, topic, swap or verdict; a menu needs more than one value.

    The menus stay hidden where the page's script does not run.
    """
    menus = ""
    for name in marks[0]:
        values = sorted({value for one in marks for value in one[name]}, key=lambda text: (len(text), text))
        if len(values) > 1:
            options = "".join(f'<option value="{html.escape(v)}">{html.escape(v)}</option>' for v in values)
            menus += f'<label>{name} <select name="{name}"><option value="">all</option>{options}</select></label>'
    return f'<div id="filter" class="filter" hidden>{menus}<span id="shown" role="status"></span></div>'
