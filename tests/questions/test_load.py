"""From files to questions: disjoint parts, what was left out is counted, prompts of one length."""

import json

import numpy as np
import pytest
from small_world import finished, small_config

from pubswap_jax.fields import default_config
from pubswap_jax.questions import embedded
from pubswap_jax.questions.load import load_questions, read_problems
from pubswap_jax.run.assembly import questions_of
from pubswap_jax.run.policy import base_folder, make_tokenizer


def asked(config):
    return load_questions(questions_of(config), make_tokenizer(config, base_folder(config)))


def test_parts_are_disjoint_and_complete():
    run, _ = finished()
    ids = [[p.id for p in part.problems] for part in (run.data.train, run.data.validation, run.data.test)]
    assert [len(part) for part in ids[1:]] == [12, 12] and len(set(sum(ids, []))) == sum(map(len, ids)) <= 120
    rows = sorted([*run.data.split.public, *sum(run.data.split.clients, []), *sum(run.data.split.removed.values(), [])])
    assert rows == list(range(len(run.data.train.problems))) and len(run.data.split.public) == round(0.2 * len(rows))
    assert {p.topic for p in run.data.test.problems} == {"nought", "one", "two"}


def test_what_is_left_out_is_said(tmp_path):
    config = small_config(tmp_path)
    path = tmp_path / "questions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["answer"], rows[1]["question"] = " ", "0" * 600
    path.write_text("\n".join(map(json.dumps, rows)))
    found = asked(config)
    assert any("1 of 120 questions left out, training: the verifier cannot read their answers: q0" in n for n in found.notes)
    assert any("training: longer than data.max_prompt_tokens=512: q1" in note for note in found.notes)


def test_copies_of_test_questions_are_not_trained_on(tmp_path):
    config = small_config(tmp_path, data__test_path=str(tmp_path / "test.jsonl"))
    rows = (tmp_path / "questions.jsonl").read_text().splitlines()
    (tmp_path / "test.jsonl").write_text("\n".join(rows[:5]))
    found = asked(config)
    test_texts = {p.prompt for p in found.test.problems}
    assert len(test_texts) == 5 and not test_texts & {p.prompt for p in [*found.train.problems, *found.validation.problems]}
    assert any("near copies of test questions" in note for note in found.notes)
    assert any("a question asked in other words is not seen" in note for note in found.notes)


def test_the_same_seed_gives_the_same_parts(tmp_path):
    config = small_config(tmp_path)
    one, other = asked(config), asked(config)
    assert one.split == other.split and one.test.problems == other.test.problems
    np.testing.assert_array_equal(one.train.prompts.tokens, other.train.prompts.tokens)
    config.seed += 1
    assert asked(config).split != one.split


def test_the_embedded_world_keeps_its_own_splits():
    config = default_config()
    config.data.max_questions = config.data.validation = config.data.test = 16
    for name, kind in (("homework", "math"), ("homework_choice", "choice")):
        config.data.name = name
        train, validation, test = read_problems(questions_of(config))
        assert [len(part) for part in (train, validation, test)] == [16, 16, 16]
        assert {p.kind for p in train} == {kind} and train == embedded.problems(
            "train", seed=0, count=16, preset=train[0].level, kind=kind
        )


def test_an_unknown_set_is_named():
    config = default_config()
    config.data.name = "deepmth"
    with pytest.raises(ValueError, match=r"config.data.name=deepmth; did you mean deepmath\?"):
        read_problems(questions_of(config))


def test_a_file_of_test_questions_counts_beside_embedded_ones_too(tmp_path):
    config = default_config()
    config.data.max_questions, config.data.validation, config.data.test = 64, 16, 0
    row = {"question": "6 x 7 = ?", "answer": "42", "id": "q", "topic": "", "level": ""}
    (tmp_path / "test.jsonl").write_text(json.dumps(row))
    config.data.test_path = str(tmp_path / "test.jsonl")
    assert [problem.answer for problem in read_problems(questions_of(config))[2]] == ["42"]


def test_no_field_about_files_is_passed_over():
    config = default_config()
    config.data.fields.prompt = "text"
    with pytest.raises(ValueError, match=r"config.data.fields: there is no file"):
        read_problems(questions_of(config))
    config.data.path = "questions.jsonl"
    for name, value in (("prompt", 5), ("options", [1, 2]), ("topic_depth", "two")):
        config.data.fields = {name: value}
        with pytest.raises(ValueError, match=f"data.fields.{name} is .*expected"):
            read_problems(questions_of(config))


def test_nought_is_all_there_are():
    config = default_config()
    config.data.test = config.data.max_questions = 0
    config.data.validation = 8
    train, valid, test = read_problems(questions_of(config))
    assert len(valid) == 8 and len(test) > 1000 and len(train) > 1000


def test_public_questions_may_come_from_a_file_of_their_own(tmp_path):
    config = small_config(tmp_path)
    before = asked(config)
    rows = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text().splitlines()]
    copy = {**rows[0], "question": before.test.problems[0].prompt, "id": "copy"}
    fresh = [{**row, "id": f"public {i}", "question": f"{i:09b}=".replace("0", "2")} for i, row in enumerate(rows[:30])]
    (tmp_path / "public.jsonl").write_text("\n".join(map(json.dumps, [*fresh, copy])))
    config.data.public_path = str(tmp_path / "public.jsonl")
    found = asked(config)
    public = [found.train.problems[i].id for i in found.split.public]
    assert set(public) <= {row["id"] for row in fresh} and len(public) > 20
    assert found.test.problems == before.test.problems and found.validation.problems == before.validation.problems
    private = [found.train.problems[i].id for client in found.split.clients for i in client]
    assert len(private) > len(before.train.problems) * 0.9 and not any(name.startswith("public") for name in private)
    assert any("public: near copies of test questions: copy" in note for note in found.notes)
    (tmp_path / "public.jsonl").write_text(json.dumps({**fresh[0], "id": private[0]}))
    with pytest.raises(ValueError, match="config.data.public_path: .* is the id of a private question too"):
        asked(config)


def test_where_there_is_no_test_file_zero_is_a_tenth_and_said(tmp_path):
    found = asked(small_config(tmp_path, data__test=0))
    assert len(found.test.problems) == 12
    assert "data.test=0, and there is no test file or split: a tenth, 12 of 120 questions, is the test" in found.notes
    rows = (tmp_path / "questions.jsonl").read_text().splitlines()
    (tmp_path / "few.jsonl").write_text("\n".join(rows[:9]))
    config = small_config(tmp_path, data__test=0, data__path=str(tmp_path / "few.jsonl"))
    with pytest.raises(
        ValueError, match="config.data.test=0: a tenth of 9 questions is none.*; set data.test to .*, or data.test_path"
    ):
        asked(config)
    config.data.test_path = str(tmp_path / "questions.jsonl")
    (tmp_path / "few.jsonl").write_text("\n".join(f'{{"question": "{i:06d}", "answer": "{i}"}}' for i in range(30)))
    found = asked(config)
    assert len(found.test.problems) == 120  # a test file is asked whole
    assert any("no question has a topic, so data.partition=dirichlet deals them like iid" in note for note in found.notes)


@pytest.mark.parametrize("count", range(1, 8))
@pytest.mark.parametrize("test", [0, 1])
def test_tiny_sets_end_in_one_line(tmp_path, count, test):
    config = small_config(tmp_path, data__test=test, data__validation=1, federation__num_clients=3)
    rows = (tmp_path / "questions.jsonl").read_text().splitlines()
    (tmp_path / "questions.jsonl").write_text("\n".join(rows[:count]))
    if count >= 6 and test:
        assert len(asked(config).test.problems) == 1
    else:
        with pytest.raises(ValueError, match=r"(data\.(test|validation)|federation.num_clients).*there (are|is)") as error:
            asked(config)
        assert "\n" not in str(error.value)


def test_training_on_the_test_file_is_refused_with_the_reason(tmp_path):
    path = str(tmp_path / "questions.jsonl")
    with pytest.raises(
        ValueError, match="config.data.test_path=.*: all 120 training questions are near copies .*; name a file"
    ):
        asked(small_config(tmp_path, data__test_path=path, data__test=0))
    rows = (tmp_path / "questions.jsonl").read_text().splitlines()
    (tmp_path / "test.jsonl").write_text("\n".join(rows[5:]))
    with pytest.raises(
        ValueError, match="config.data.validation=12: there are only 5 .*; 115 of 120 questions left out, near cop"
    ):
        asked(small_config(tmp_path, data__test_path=str(tmp_path / "test.jsonl"), data__test=0))
    with pytest.raises(ValueError, match="config.data.public_path: .*questions.jsonl is a file of data.path too"):
        asked(small_config(tmp_path, data__public_path=path))


def test_public_files_of_the_same_name_have_ids_of_their_own(tmp_path):
    (tmp_path / "public").mkdir()
    rows = [{"question": f"{i:09b}=".replace("0", "2"), "answer": str(i)} for i in range(30)]
    (tmp_path / "public" / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = small_config(tmp_path, data__public_path=str(tmp_path / "public" / "*.jsonl"))
    config.data.fields.id = ""
    found = asked(config)
    public = [found.train.problems[i].id for i in found.split.public]
    assert public and all(name.startswith("public/questions/") for name in public)
    assert {problem.id.split("/")[0] for problem in found.test.problems} == {"questions"}


def test_paths_may_have_spaces_between_them(tmp_path):
    config = small_config(tmp_path)
    rows = (tmp_path / "questions.jsonl").read_text().splitlines()
    for name, part in (("one", rows[:60]), ("two", rows[60:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(part))
    config.data.path = f"{tmp_path}/one.jsonl, {tmp_path}/two.jsonl,"
    assert len(read_problems(questions_of(config))[0]) == 120
