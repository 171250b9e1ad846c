"""The section on asynchronous clients: nothing in lockstep, else all uploads, their staleness and the distillations."""

from pubswap_jax.report.asynchronous import asynchronous

ROUND = {"round": 1, "uploads/client": [0, 1, 1], "uploads/time": [1.0, 1.5, 2.0], "uploads/staleness": [0, 2, 0]}


def test_uploads_and_staleness_are_drawn():
    page = asynchronous([], [ROUND])
    assert "client 0" in page and "client 1" in page and "2 versions" in page and "distillation" not in page


def test_distillations_are_drawn():
    step = {"at": 3, "public/kl_before": [0.5, None], "public/kl_after": [0.1, None], "public/beta": [0.3, None]}
    assert "KL of student and stale teacher" in asynchronous([step], [ROUND])


def test_nothing_is_shown_in_lockstep():
    assert asynchronous([], [{"round": 1}]) == ""
