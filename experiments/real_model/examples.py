"""A page of a run's transcripts, chosen by a rule: each client's first and last group, and all swaps that a transcript shows.

    python -m experiments.real_model.examples RUN > experiments/real_model/examples.md

A run writes one group a step. Equal responses are counted. What a model writes about the numbers of a question can be seen here
and in no metric.
"""

import argparse
import collections
import json
import pathlib

from experiments.figures import markdown


def said(group: dict) -> str:
    """The group's own responses, the frequent ones first: '`10-7` x 3, **`10-8`**', right ones in bold."""
    counts = collections.Counter((one["text"], one["verdict"] == "correct") for one in group["responses"])
    shown = [
        (f"**`{text}`**" if right else f"`{text}`") + (f" × {n}" if n > 1 else "") for (text, right), n in counts.most_common()
    ]
    return ", ".join(shown)


def when(group: dict) -> str:
    return f"{group['round'] + 1}.{group['step'] + 1}"


def row(group: dict) -> list[str]:
    kind = "public" if group["public"] else "private"
    return [str(group["client"]), when(group), kind, group["question"], group["answer"], said(group)]


def ends(groups: list[dict]) -> list[dict]:
    """Each client's first and last group."""
    of = collections.defaultdict(list)
    for group in groups:
        of[group["client"]].append(group)
    return [group for client in sorted(of) for group in (of[client][0], of[client][-1])]


def swap(group: dict) -> list[str] | None:
    """The responses of a group that were replaced, and what came in their place from whom; None without a swap."""
    swapped = [one for one in group["responses"] if "replaced_by" in one]
    came = dict.fromkeys(f"`{one['replaced_by']}` ({one['from_client']})" for one in swapped)
    own = ", ".join(f"`{one['text']}`" for one in swapped)
    return [when(group), str(group["client"]), group["question"], group["answer"], own, ", ".join(came)] if swapped else None


def page(groups: list[dict]) -> str:
    """Both tables. Times are round.step."""
    groups = sorted(groups, key=lambda group: (group["round"], group["step"]))
    heads = ["client", "time", "step", "question", "gold", "responses (right ones in bold)"]
    first = markdown(heads, [row(group) for group in ends(groups)])
    heads = ["time", "client", "question", "gold", "its own responses that were replaced", "by (from client)"]
    second = markdown(heads, [found for found in map(swap, groups) if found])
    return f"## Each client's first and last group\n\nTimes are round.step.\n\n{first}\n\n## Swaps\n\n{second}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path)
    text = (parser.parse_args().run / "rollouts.jsonl").read_text()
    print(page([json.loads(line) for line in text.splitlines()]))


if __name__ == "__main__":
    main()
