"""Files of questions, and a message with file and line for each thing that can be wrong in them."""

import json

import pyarrow.parquet
import pytest

from pubswap_jax.questions.sources import Fields, after_hashes, last_box, letter, local

ROW = {"id": "a/1", "question": " What is $1 + 1$? ", "answer": "2", "topic": "Algebra", "level": 3}
CHOICE = ROW | {"options": {"A": "one", "B": "two", "C": None}, "answer": "B"}


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_jsonl(tmp_path):
    (problem,) = local(write(tmp_path / "q.jsonl", "", ROW))
    assert (problem.id, problem.prompt, problem.answer) == ("a/1", "What is $1 + 1$?", "2")
    assert (problem.topic, problem.level, problem.kind, problem.options) == ("Algebra", "3", "math", None)


def test_csv_and_parquet_give_what_jsonl_gives(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [ROW | {"id": f"a/{i}", "answer": float(i)} for i in range(3)]
    expected = local(write(tmp_path / "q.jsonl", *rows))
    table = datasets.Dataset.from_list(rows)
    table.to_csv(tmp_path / "q.csv")
    table.to_parquet(tmp_path / "q.parquet")
    assert local(str(tmp_path / "q.csv"))[0].answer == "0.0"  # text stays text
    assert local(str(tmp_path / "q.parquet")) == expected and [problem.answer for problem in expected] == ["0", "1", "2"]


def test_options_as_dict_list_and_columns(tmp_path):
    named = Fields(options="options")
    (problem,) = local(write(tmp_path / "a.jsonl", CHOICE), named)
    assert problem.kind == "choice" and problem.options == {"A": "one", "B": "two"} and problem.answer == "B"
    assert local(write(tmp_path / "b.jsonl", CHOICE | {"options": ["one", "two"]}), named) == [problem]
    columns = Fields(options=("opa", "opb"), final="index")
    assert local(write(tmp_path / "c.jsonl", ROW | {"opa": "one", "opb": "two", "answer": 1}), columns) == [problem]


def test_ids_of_file_and_line_keys_and_several_files(tmp_path):
    paths = [write(tmp_path / f"{name}.jsonl", ROW, "", ROW) for name in ("north", "south")]
    assert [problem.id for problem in local(paths, Fields(id=""))] == ["north/1", "north/3", "south/1", "south/3"]
    row = ROW | {"hospital": "mercy"}
    assert local(write(tmp_path / "h.jsonl", row), Fields(key="hospital"))[0].id == "mercy/a/1"


def test_files_of_one_name_have_ids_of_their_own(tmp_path):
    paths = []
    for folder in ("north", "south"):
        (tmp_path / folder).mkdir()
        paths.append(write(tmp_path / folder / "train.jsonl", ROW))
    with pytest.raises(
        ValueError, match=r"north/train.jsonl and .*south/train.jsonl: two questions have the id 'a/1'; set .* to ''"
    ):
        local(paths)
    assert [problem.id for problem in local(paths, Fields(id=""))] == [
        "north/train/1",
        "south/train/1",
    ]  # what the message says
    with pytest.raises(ValueError, match="names no file"):
        local([])


def test_columns_that_nobody_named_may_be_missing(tmp_path):
    bare = {"question": "1 + 1?", "answer": "2"}
    (problem,) = local(write(tmp_path / "q.jsonl", bare))
    assert (problem.id, problem.topic, problem.level) == ("q/1", "", "")


@pytest.mark.parametrize("field", ["id", "topic", "level", "key", "answer"])
def test_a_column_that_is_named_must_be_there(tmp_path, field):
    path = write(tmp_path / "q.jsonl", {"question": "1 + 1?", "answer": "2", "levels": 1})
    for column in ("level", "level|grade"):
        with pytest.raises(
            ValueError, match=rf"q\.jsonl:1: no column 'level'.* for data.fields.{field}; did you mean 'levels'"
        ):
            local(path, Fields.of({field: column}))


def test_files_whose_columns_differ(tmp_path):
    """A name may list alternatives, which also holds for where the final answer stands."""
    one = write(tmp_path / "one.jsonl", {"problem": "1 + 1?", "solution": r"So \boxed{2}.", "subject": "Sums"})
    two = write(tmp_path / "two.jsonl", {"question": "2 + 2?", "answer": "4", "problem": None, "a|b": "x"})
    names = {"prompt": "problem|question", "answer": "solution | answer", "topic": "subject|", "final": "box|whole"}
    problems = local([one, two], Fields.of(names))
    assert [(p.prompt, p.answer, p.topic) for p in problems] == [("1 + 1?", "2", "Sums"), ("2 + 2?", "4", "")]
    assert local(two, Fields(topic="a|b"))[0].topic == "x"  # a column of that very name
    with pytest.raises(ValueError, match="data.fields.final is 'box|hole'; did you mean 'whole'?"):
        Fields.of({"final": "box|hole"})


@pytest.mark.parametrize("gold", ["NaN", "null", '""', '"  "', '"nan"', '"None"'])
def test_a_missing_gold_is_empty(tmp_path, gold):
    text = json.dumps(ROW | {"answer": "?"}).replace('"?"', gold)
    assert local(write(tmp_path / "q.jsonl", text))[0].answer == ""
    with pytest.raises(ValueError, match=r"q\.jsonl:1: the answer is missing|the answer '(nan|None)' is none of"):
        local(write(tmp_path / "q.jsonl", json.dumps(CHOICE | {"answer": "?"}).replace('"?"', gold)), Fields(options="options"))


def test_a_missing_gold_of_parquet_and_csv_is_empty(tmp_path):
    rows = [{"question": "1 + 1?", "answer": answer} for answer in (2.0, float("nan"), None)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "q.parquet")
    (tmp_path / "q.csv").write_text("question,answer\n1 + 1?,2\n1 + 1?,nan\n1 + 1?,\n")
    for name in ("q.parquet", "q.csv"):
        assert [problem.answer for problem in local(str(tmp_path / name))] == ["2", "", ""]


def test_empty_options_are_not_shown(tmp_path):
    lines = ["question,answer,A,B,C,D", "Which?,B,one,two,,", "Which?,C,one,two,,four"]
    path = write(tmp_path / "q.csv", *lines[:2])
    assert local(path, Fields(options=["A", "B", "C", "D"]))[0].options == {"A": "one", "B": "two"}
    with pytest.raises(ValueError, match=r"q\.csv:3: the answer is 'C', and that option is empty"):
        local(write(tmp_path / "q.csv", *lines), Fields(options=["A", "B", "C", "D"]))


def test_options_as_text_in_a_cell(tmp_path):
    expected = {"A": "it's one", "B": "two"}
    for text in (json.dumps(expected), json.dumps([*expected.values()]), str([*expected.values()]), str(expected)):
        path = write(tmp_path / "q.tsv", "question\tanswer\toptions", "Which?\tB\t" + '"' + text.replace('"', '""') + '"')
        assert local(path, Fields(options="options"))[0].options == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"options": "['x' 'y']", "answer": "A"},
            "the options in 'options' are neither a dict nor a list, nor the text of one",
        ),
        ({"options": [str(i) for i in range(27)], "answer": "A"}, "27 options; a question may have 26 at most"),
        ({"options": {f"{i}": "x" for i in range(27)}, "answer": "1"}, "27 options; a question may have 26 at most"),
        ({"options": ["one", "two"], "answer": "two"}, "the answer 'two' is none of .*; it is the text of 'B'"),
        ({"options": ["one", "two"], "answer": 1}, "the answer '1' is none of .*; set data.fields.final to 'index'"),
        ({"options": [{"key": "A", "text": "one"}]}, "'options' holds a dict, where a text or a number is expected"),
    ],
)
def test_options_that_cannot_be(tmp_path, change, message):
    with pytest.raises(ValueError, match=rf"q\.jsonl:1: {message}"):
        local(write(tmp_path / "q.jsonl", CHOICE | change), Fields(options="options"))


def test_cells_that_are_no_text(tmp_path):
    chat = ROW | {"question": [{"role": "user", "content": "1 + 1?"}]}
    for row, field in ((chat, "question"), (ROW | {"answer": ["2"]}, "answer")):
        with pytest.raises(ValueError, match=rf"q\.jsonl:1: '{field}' holds a list, where a text or a number is expected"):
            local(write(tmp_path / "q.jsonl", row))
    with pytest.raises(ValueError, match=r"q\.jsonl:1: 'question' holds half of a surrogate pair"):
        local(write(tmp_path / "q.jsonl", ROW | {"question": "1 + 1 \ud83d?"}))
    with pytest.raises(ValueError, match="data.fields.answer is '': every question needs one"):
        Fields.of({"answer": ""})


def test_columns_with_names_of_any_script(tmp_path):
    path = write(tmp_path / "q.csv", "问题,答案", "一加一？, 2 ")
    (problem,) = local(path, Fields(prompt="问题", answer="答案"))
    assert (problem.prompt, problem.answer) == ("一加一？", "2")


def test_topic_trees(tmp_path):
    path = write(tmp_path / "d.jsonl", ROW | {"topic": "Mathematics -> Calculus -> Differential -> Limits"})
    assert local(path)[0].topic == "Calculus"
    assert local(path, Fields(topic_depth=2))[0].topic == "Calculus -> Differential"


@pytest.mark.parametrize(
    ("read", "text", "answer"),
    [
        (last_box, r"so \boxed{1}, no: \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (last_box, r"it is \boxed 5.", "5"),
        (last_box, r"\fbox{ x }", "x"),
        (last_box, r"\boxed{1", ""),
        (last_box, "none", ""),
        (after_hashes, "48 / 2 = 24\n#### 1,024", "1024"),
        (after_hashes, "no mark", ""),
        (letter, "2", "C"),
        (letter, "-1", ""),
    ],
)
def test_final_answers(read, text, answer):
    assert read(text) == answer


@pytest.mark.parametrize(
    ("rows", "fields", "message"),
    [
        ((ROW, '{"id": 1,'), Fields(), r"q\.jsonl:2: not a JSON object: Expecting property name"),
        ((ROW, "[1]"), Fields(), r"q\.jsonl:2: not a JSON object but a list"),
        (
            (ROW,),
            Fields(prompt="qestion"),
            r"q\.jsonl:1: no column 'qestion' for data.*; did you mean 'question'",
        ),
        (
            (ROW,),
            Fields(topic="subject"),
            r"q\.jsonl:1: no column 'subject' for data.fields.topic.*, or set .* to ''",
        ),
        ((ROW, ROW | {"question": " "}), Fields(), r"q\.jsonl:2: the question in 'question' is empty"),
        ((CHOICE | {"answer": "D"},), Fields(options="options"), r"q\.jsonl:1: the answer 'D' is none of the options A, B"),
        ((CHOICE | {"options": "A or B"},), Fields(options="options"), r"q\.jsonl:1: .* neither a dict nor a list"),
        ((ROW, ROW), Fields(), r"two questions have the id 'a/1'"),
        ((), Fields(), r"q\.jsonl: no questions in it"),
    ],
)
def test_errors_of_jsonl(tmp_path, rows, fields, message):
    with pytest.raises(ValueError, match=message) as error:
        local(write(tmp_path / "q.jsonl", *rows), fields)
    assert "\n" not in str(error.value)


def test_errors_of_files(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.jsonl: no such file; data.path must name"):
        local(str(tmp_path / "gone.jsonl"))
    with pytest.raises(ValueError, match=r"q\.txt: not a file of \.jsonl, .*\.csv, .*\.parquet; \.gz may follow"):
        local(str(tmp_path / "q.txt"))
    (tmp_path / "q.jsonl").write_bytes(b'{"question": "\xff"}\n')
    with pytest.raises(ValueError, match=r"q\.jsonl:1: not UTF-8"):
        local(str(tmp_path / "q.jsonl"))
    with pytest.raises(ValueError, match=r"q\.csv:3: the row and the header differ in length"):
        local(write(tmp_path / "q.csv", "id,question,answer,topic,level", "1,a,b,c,d", "2,a,b"))
    with pytest.raises(ValueError, match=r"q\.csv:2: not a CSV row"):
        local(write(tmp_path / "q.csv", "id,question,answer,topic,level", '1,"a'))
    with pytest.raises(ValueError, match=r"q\.parquet: not a readable parquet file"):
        local(write(tmp_path / "q.parquet", "PAR1"))


def test_fields_of_a_config():
    assert Fields.of({"prompt": "problem", "options": ["a", "b"]}) == Fields(prompt="problem", options=["a", "b"])
    with pytest.raises(ValueError, match="data.fields has no 'promt'; did you mean 'prompt'?"):
        Fields.of({"promt": "problem"})
    with pytest.raises(ValueError, match="data.fields.final is 'boxed'; did you mean 'box'?"):
        Fields.of({"final": "boxed"})


def test_the_real_files_load(shared_data):
    sizes = {"math_train": 2397, "math_test": 1197, "math500_test": 250, "gsm8k_train": 2000, "aime24": 30, "amc23": 40}
    for name, size in sizes.items():
        problems = local(str(shared_data / "math" / f"{name}.jsonl"))
        assert len(problems) == size and all(problem.answer and problem.topic for problem in problems)
    for name, size, topic in (("medqa_test", 1000, "USMLE"), ("medmcqa_dev", 2000, "AIIMS/NEET PG")):
        problems = local(str(shared_data / "medical" / f"{name}.jsonl"), Fields(options="options"))
        assert len(problems) == size and {problem.topic for problem in problems} == {topic}
