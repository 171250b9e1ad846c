"""Numbers out of rows: what alarms read of a row, windows, timeouts out of transcripts."""

from pubswap_jax.run import doctor, symptoms


def test_timeouts_are_counted_in_transcripts():
    responses = [{"verdict": word} for word in ("timeout", "correct", "wrong", "timeout")]
    shown = [{"round": 1, "step": n, "public": bool(n % 2), "responses": responses} for n in range(12)]
    rows = symptoms.timeouts(shown)
    assert rows[:2] == [
        {"round": 1, "step": 0, "private/timeout": 0.5},
        {"round": 1, "step": 1, "public/timeout": 0.5},
    ]
    assert "verifier timeouts: 50% of the answers" in doctor.alarms(rows)[0]


def test_a_row_is_reduced_to_what_alarms_read():
    row = {"round": 1, "step": 0, "private/reward": [0.5, None, 1.0], "private/loss": [1.0, 2.0, 3.0], "time/step": 2.0}
    assert symptoms.needed(row) == {"round": 1, "step": 0, "private/reward": 0.75}
    ended = {"round": 2, "eval/pass@1": 0.5, "eval/maj@4": 0.6, "round/excluded": [0, 1], "round/cosine": [[1.0]]}
    assert symptoms.needed(ended) == {"round": 2, "eval/pass@1": 0.5, "round/excluded": [0, 1]}
    assert symptoms.needed(symptoms.needed(row)) == symptoms.needed(row)


def test_windows_have_the_newest_values_and_nothing_before_enough_steps():
    rows = [{"round": 0, "step": i, "private/correct": [float(i), i + 2.0]} for i in range(30)]
    assert symptoms.step_means(rows[:2], "correct") == [1.0, 2.0]
    assert symptoms.recent(rows, "correct") == [float(i + 1) for i in range(10, 30)]
    assert symptoms.recent(rows[: symptoms.FEWEST - 1], "correct") == []


def test_the_middle_module_of_the_clients_that_took_part():
    assert symptoms.middle([[3.0, 1.0, 2.0], None, [6.0, 4.0, 5.0]]) == 3.5
    assert symptoms.middle([None]) == float("inf")


def test_the_newest_evaluation_may_say_more_than_training():
    rows = [{"round": 0, "step": i, "public/correct": [0.5]} for i in range(symptoms.FEWEST)]
    assert symptoms.solved(rows) == 0.5 and symptoms.solved([]) == 0.0
    assert symptoms.solved([{"round": 0, "eval/pass@1": 0.9}, *rows, {"round": 1, "eval/pass@1": 0.7}]) == 0.7
