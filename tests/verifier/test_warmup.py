"""The sample answers are judged: one on which the parser never ends would keep every worker, and this test, from starting."""

from pubswap_jax.verifier.symbolic import judge
from pubswap_jax.verifier.warmup import FORMS


def test_every_form_is_judged_and_the_second_time_alike():
    first = [judge(*form) for form in FORMS]
    assert set(first) == {"correct", "wrong", "unparsed"}
    assert [judge(*form) for form in FORMS] == first


def test_matrices_among_the_forms_have_two_rows():
    matrices = [text for form in FORMS for text in form if "pmatrix" in text]
    assert matrices and all(text.count("\\\\") == 1 for text in matrices)
