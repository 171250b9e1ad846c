"""Transcripts: which groups are shown, under what heading, and what the filter can ask for."""

import json
import re
from html import unescape

from pubswap_jax.report import transcripts as module
from pubswap_jax.report.transcripts import TRANSCRIPTS, chosen, transcripts

AT = {(round, step): 100 * round + step + 1 for round in range(3) for step in range(100)}


def group(step, replaced=False, text="5", client=0, topic="sums", round=0, verdict="correct"):
    response = {"verdict": verdict, "text": text} | ({"from_client": 1, "replaced_by": "6"} if replaced else {})
    where = {"round": round, "step": step, "public": replaced, "client": client, "topic": topic}
    return where | {"question": f"question {step}?", "answer": "5", "responses": [response]}


def test_rounds_count_from_one_and_steps_over_the_whole_run():
    text = transcripts([group(0), group(1, replaced=True), group(4, round=1)], AT)
    assert "round 1, step 1, private, client 0, sums: question 0?" in text and "round 0" not in text
    assert "round 1, step 2, public" in text and "client 1: 6" in text and "round 2, step 105, private" in text
    assert "private questions and answers of every client" in text and "--config.log.transcripts=0" in text


def test_half_of_the_groups_shown_have_a_replacement():
    half = TRANSCRIPTS // 2
    rows = [group(step, replaced=step < 3 * half) for step in range(6 * half)]
    shown = sorted(row["step"] for row in chosen(rows))
    assert shown == [*range(2 * half, 3 * half), *range(5 * half, 6 * half)] and len(shown) == TRANSCRIPTS
    few = [group(step, replaced=step < 3) for step in range(6 * half)]
    assert len(chosen(few)) == TRANSCRIPTS and sum(row["public"] for row in chosen(few)) == 3
    assert f"{4 * half} older groups are in rollouts.jsonl alone" in transcripts(rows, AT)


def test_long_responses_leave_the_oldest_groups_out(monkeypatch):
    monkeypatch.setattr(module, "CHARACTERS", 25)
    assert [row["step"] for row in chosen([group(step, text="x" * 10) for step in range(5)])] == [4, 3]


def test_the_filter_offers_what_differs_and_every_group_says_what_it_is():
    rows = [group(0), group(1, replaced=True, client=2, topic='"<a> & b'), group(2, verdict="timeout")]
    text = transcripts(rows, AT)
    menus = dict(re.findall(r'<select name="(\w+)">(.*?)</select>', text))
    offered = {name: [unescape(value) for value in re.findall(r'value="(.*?)"', menu)] for name, menu in menus.items()}
    assert offered == {
        "client": ["", "0", "2"],
        "topic": ["", "sums", '"<a> & b'],
        "swapped": ["", "with a swap", "without a swap"],
        "verdict": ["", "correct", "timeout"],
    }
    marks = [
        {name: json.loads(unescape(value)) for name, value in re.findall(r'data-(\w+)="(.*?)"', details)}
        for details in re.findall(r"<details(.*?)>", text)
    ]
    assert [mark["client"] for mark in marks] == [["0"], ["2"], ["0"]] and marks[2]["verdict"] == ["timeout"]
    assert marks[1] == {"client": ["2"], "topic": ['"<a> & b'], "swapped": ["with a swap"], "verdict": ["correct"]}
    assert "<select" not in transcripts([group(0)], AT), "one value is no choice"


def test_a_long_question_is_whole_only_in_its_opened_group():
    long = group(0) | {"question": "why " * 40 + "?"}
    text = transcripts([long], AT)
    summary = re.search(r"<summary>(.*?)</summary>", text)[1]
    assert summary.endswith("why …")
    assert long["question"] not in summary and text.count(long["question"]) == 1


def test_responses_stay_text_and_nothing_is_shown_of_no_groups():
    text = transcripts([group(0, text="</details><script>alert(1)</script>", topic="</script><b>")], AT)
    assert text.count("<script") == 1 and "<b>" not in text.replace("<b>5</b>", "")
    assert transcripts([], AT) == ""
