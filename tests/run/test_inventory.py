"""The text of the dry run over the questions."""

import dataclasses

from small_world import finished

from pubswap_jax.questions.load import Asked
from pubswap_jax.run import inventory


def test_the_table_counts_every_part():
    data = finished()[0].data
    text = inventory.described(Asked(data.train, data.split, data.validation, data.test, ["3 questions left out, since"]))
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[1:7]] == ["public", "client", "client", "client", "validation", "test"]
    assert lines[1].split()[1:] == [str(len(data.split.public)), "3", "18", "18"]
    assert lines[2].split()[2:] == [str(len(data.split.clients[0])), lines[2].split()[3], "18", "18"]
    assert lines[6].split()[1] == "12" and lines[7] == "3 questions left out, since"
    assert lines[8].startswith("the first question, q") and lines[9].endswith("columns: id, question, answer, topic, level")


def test_a_part_without_questions():
    data = finished()[0].data
    text = inventory.described(Asked(data.train, dataclasses.replace(data.split, public=[]), data.validation, data.test, []))
    assert text.splitlines()[1].split() == ["public", "0"]
