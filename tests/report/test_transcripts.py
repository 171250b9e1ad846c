"""Transcripts: which groups are shown, and under what heading."""

from pubswap_jax.report.transcripts import TRANSCRIPTS, transcripts


def group(step, replaced=False, text="5"):
    response = {"verdict": "correct", "text": text} | ({"from_client": 1, "replaced_by": "6"} if replaced else {})
    where = {"round": 0, "step": step, "public": replaced, "client": 0, "topic": "sums", "question": f"question {step}?"}
    return where | {"answer": "5", "responses": [response]}


def test_rounds_and_steps_count_from_one_and_the_section_says_that_it_is_private():
    text = transcripts([group(0), group(1, replaced=True)])
    assert "round 1, step 1, private, client 0, sums: question 0?" in text and "round 0" not in text
    assert "round 1, step 2, public" in text and "client 1: 6" in text
    assert "private questions and answers of every client" in text and "--config.log.transcripts=0" in text


def test_half_of_the_groups_shown_have_a_replacement():
    text = transcripts([group(step, replaced=step < 20) for step in range(40)])
    shown = [step for step in range(40) if f"question {step}?" in text]
    assert shown == [*range(14, 20), *range(34, 40)] and len(shown) == TRANSCRIPTS


def test_responses_stay_text_and_none_are_said_to_be_none():
    assert "<script" not in transcripts([group(0, text="</details><script>alert(1)</script>")])
    assert "none were written (config.log.transcripts)" in transcripts([])
