"""Each format gives the same rows, and each broken file a message of one line."""

import gzip
import json
import pathlib

import pyarrow.parquet
import pytest

from pubswap_jax.questions import readers

ROWS = [{"question": "größer?", "answer": "2"}, {"question": "a\tb, c", "answer": "3"}]
LINES = "\n".join(map(json.dumps, ROWS))
TEXTS = {
    "a.jsonl": LINES,
    "A.JSONL": LINES,
    "crlf.jsonl": LINES.replace("\n", "\r\n") + "\r\n",
    "bom.jsonl": "\ufeff" + LINES,
    "a.json": json.dumps(ROWS, indent=1),
    "data.json": json.dumps({"version": 1, "data": ROWS}),
    "lines.json": LINES,
    "a.csv": 'question,answer\ngrößer?,2\n"a\tb, c",3\n',
    "bom.csv": '\ufeffquestion,answer\r\ngrößer?,2\r\n"a\tb, c",3\r\n',
    "a.tsv": 'question\tanswer\ngrößer?\t2\n"a\tb, c"\t3\n',
}


def put(path: pathlib.Path, content: str | bytes) -> pathlib.Path:
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("name", TEXTS)
def test_every_format_gives_the_same_rows(tmp_path, name, ending):
    file = put(tmp_path / (name + ending), TEXTS[name])
    assert [row for _, row in readers.read(file)] == ROWS
    assert readers.stem(file) == name.split(".")[0]


def test_parquet(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert list(readers.read(tmp_path / "a.parquet")) == list(enumerate(ROWS, 1))
    assert readers.suffix(tmp_path / "a.parquet.gz") == "" == readers.suffix(tmp_path / "a.gz")


def test_float32_columns_keep_their_decimal_text(tmp_path):
    values = [0.1, 3.14, 2.0, None, 1e-7]
    table = pyarrow.table(
        {"answer": pyarrow.array(values, pyarrow.float32()), "other": pyarrow.array(values, pyarrow.float64())}
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert [row for _, row in readers.read(tmp_path / "a.parquet")] == [{"answer": v, "other": v} for v in values]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '{"rows": []}', r'a\.json: neither a list of rows, nor \{"data": \[rows\]\}'),
        ("a.json", '[{"a": 1},\n {"a": }]', r"a\.json:2: not JSON: Expecting value"),
        ("a.json", "[1]", r"a\.json:1: not a JSON object but a int"),
        ("a.csv", "answer,question,answer\n1,2,3", r"a\.csv:1: two columns have the name 'answer'"),
        ("a.tsv", "a\tb\n1", r"a\.tsv:2: the row and the header differ in length"),
        ("deep.json", "[" * 100_000, r"deep\.json: not JSON that can be read: its lists are nested too deeply"),
        ("deep.jsonl", "[" * 100_000, r"deep\.jsonl:1: not a JSON object that can be read: it is nested too deeply"),
        ("b.json", b'["\xff"]', r"b\.json:1: not UTF-8"),
    ],
)
def test_errors_name_the_file_and_the_line(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message) as error:
        list(readers.read(put(tmp_path / name, content)))
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_gzip_file(tmp_path):
    (tmp_path / "plain.jsonl.gz").write_text("{}")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(LINES.encode())[:-12])
    for name in ("plain", "cut"):
        with pytest.raises(ValueError, match=rf"{name}\.jsonl\.gz: not a readable gzip file"):
            list(readers.read(tmp_path / f"{name}.jsonl.gz"))


def test_patterns_are_replaced_by_what_matches(tmp_path):
    files = [put(tmp_path / name, LINES) for name in ("b.jsonl", "a.jsonl", "[odd].jsonl")]
    assert readers.expand(str(tmp_path / "?.jsonl")) == [files[1], files[0]]
    assert readers.expand(files[2]) == readers.expand([str(files[2])]) == [files[2]]  # a file of that very name
    with pytest.raises(ValueError, match=r"\*\.csv: no such file"):
        readers.expand(str(tmp_path / "*.csv"))
    with pytest.raises(ValueError, match=r": a folder; name the files in it, as in .*/\*\.jsonl"):
        readers.expand(str(tmp_path))
    with pytest.raises(ValueError, match=r"a\.jsonl: the file is named twice"):
        readers.expand([str(files[1]), str(tmp_path / "*.jsonl")])


def test_names_are_the_shortest_ends_that_differ(tmp_path):
    def named(*paths, beside=()):
        return readers.names([tmp_path / path for path in paths], [tmp_path / path for path in beside])

    assert named("x/a.jsonl", "y/b.jsonl.gz") == ["a", "b"]
    assert named("x/a.jsonl", "y/a.jsonl") == ["x/a", "y/a"]
    assert named("a.jsonl", "a.csv") == ["a.jsonl", "a.csv"]
    assert named("x/1/a.jsonl", "y/1/a.jsonl", "x/2/a.jsonl") == ["x/1/a", "y/1/a", "x/2/a"]
    assert named("x/a.jsonl", beside=["y/a.jsonl"]) == ["x/a"]
