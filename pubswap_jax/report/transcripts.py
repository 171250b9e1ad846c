"""The report's section of transcripts: questions with the responses of a group, their verdicts and their replacements."""

import html
from collections.abc import Mapping, Sequence

from pubswap_jax.report import charts
from pubswap_jax.report.page import section, table

TRANSCRIPTS = 12  # groups shown: half of them with a replacement, if there are as many
PRIVATE = (
    "This section and rollouts.jsonl carry private questions and answers of every client, in plain text. That is fine in a "
    "simulation; --config.log.transcripts=0 writes none. Rounds and steps are counted from 1 here, from 0 in the file."
)


def transcripts(rollouts: Sequence[Mapping]) -> str:
    """The section, from the rows of rollouts.jsonl."""
    swapped = [row for row in rollouts if any("replaced_by" in response for response in row["responses"])]
    others = [row for row in rollouts if row not in swapped[-TRANSCRIPTS:]]
    chosen = swapped[-TRANSCRIPTS // 2 :] + others[-TRANSCRIPTS // 2 :]
    parts = [_group(row) for row in sorted(chosen, key=lambda row: (row["round"], row["step"]))]
    if not parts:
        return section("Transcripts", charts.note("none were written (config.log.transcripts)"))
    return section("Transcripts", charts.note(PRIVATE) + "".join(parts))


def _group(row: Mapping) -> str:
    """One question and its responses, folded under a line that says where in the run they are from."""
    kind = "public" if row["public"] else "private"
    head = f"round {row['round'] + 1}, step {row['step'] + 1}, {kind}, client {row['client']}, "
    head += f"{row['topic']}: {row['question']}"
    lines = [
        [r["verdict"], r["text"], f"client {r['from_client']}: {r['replaced_by']}" if "replaced_by" in r else ""]
        for r in row["responses"]
    ]
    answer = f"<p>answer: <b>{html.escape(row['answer'])}</b></p>"
    responses = table(["verdict", "response", "replaced by"], lines)
    return f"<details><summary>{html.escape(head)}</summary>{answer}{responses}</details>"
