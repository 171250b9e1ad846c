"""The report's section on experts."""

from pubswap_jax.report.experts import experts


def row(round, asked):
    values = {"asked": asked, "reward": [0.25, 0.5], "given": [1.0, 0.75], "competence": [0.1, 0.875]}
    return {"round": round} | {f"round/experts_{name}": value for name, value in values.items()}


def test_the_section_shows_competence_and_use_of_the_rounds_in_which_clients_were_asked():
    known = {"questions": {"sums": 4, "": 8}, "right": {"sums": [0.25, 0.75], "": [0.0, 0.875]}}
    steps = [{"round": 0, "step": 0, "private/reward": [0.5]}, {"round": 1, "step": 0, "auxiliary/known": known}]
    text = experts(steps, [row(1, [0.0, 0.0]), row(2, [0.625, 0.375])])
    assert "client 1" in text and "round 2: 0.625" in text and "round 1: 0" not in text
    assert "sums (4)" in text and "(no topic) (8)" in text and "0.88" in text and "round 2" in text
    assert "Competence" not in experts(steps[:1], [row(2, [0.625, 0.375])])


def test_a_run_without_experts_has_no_section():
    for rounds in ([], [{"round": 1, "round/drift": [0.1]}], [row(1, [0.0, 0.0])]):
        assert experts([], rounds) == ""
