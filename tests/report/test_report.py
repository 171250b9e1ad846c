"""The report: one file, every section, finished run or not."""

import html
import json
import shutil
from html.parser import HTMLParser

import pytest
from small_world import finished

from pubswap_jax.report import report
from pubswap_jax.report.headline import change_from_base
from pubswap_jax.run import journal

SECTIONS = ["Result", "Learning", "Swaps", "Topics and clients", "Drift", "Communication", "Time and memory", "Transcripts"]
VOID = {"meta", "br"}
# Sections of a run of which that many lines of each file are kept: the first row of the metrics evaluates the base.
HAS = {
    0: {"Result", "Topics and clients"},
    1: {"Result", "Learning", "Topics and clients", "Transcripts"},
    4: {"Result", "Learning", "Swaps", "Topics and clients", "Time and memory", "Transcripts"},
}


class Strict(HTMLParser):
    """Raises where tags do not nest; collects scripts, text and whatever would be fetched."""

    def __init__(self):
        super().__init__()
        self.open, self.fetched, self.text, self.scripts = [], [], "", 0

    def handle_starttag(self, tag, attributes):
        self.fetched += [value for name, value in attributes if name in ("src", "href")]
        self.scripts += tag == "script"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if self.open[-1:] != ["script"] else ""


def read(path):
    parser = Strict()
    parser.feed(path.read_text(encoding="utf-8"))
    assert parser.open == [] and parser.fetched == [] and parser.scripts == ("Transcripts" in parser.text)
    return parser.text


@pytest.fixture
def workdir(tmp_path):
    shutil.copytree(finished()[1], tmp_path / "run")
    return tmp_path / "run"


def test_every_section_and_the_runs_own_figures(workdir):
    text = read(report.write(workdir))
    assert all(name in text for name in SECTIONS)
    tested = [row for row in journal.read(workdir, "evaluations") if row["split"] == "test"]
    assert f"{tested[0]['figures']['pass@1']:.3f} → {tested[-1]['figures']['pass@1']:.3f}" in text
    rounds = [row for row in journal.read(workdir, "metrics") if "step" not in row and row["round"]]
    adapters = sum(sum(row["ledger/up/adapters"]) for row in rounds)
    assert f"{adapters / 1000:.1f} kB" in text
    assert "federation.num_clients" in text and json.loads((workdir / "run.json").read_text())["base_sha256"] in text


def test_a_hostile_transcript_stays_text(workdir):
    rows = journal.read(workdir, "rollouts")
    rows[-1]["responses"][0]["text"] = "</details><script>alert(1)</script>"
    (workdir / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "alert(1)" in read(report.write(workdir))


@pytest.mark.parametrize("kept", [0, 1, 4])
def test_a_run_that_has_just_begun(workdir, kept):
    for name in ("metrics", "evaluations", "rollouts"):
        lines = (workdir / f"{name}.jsonl").read_text().splitlines(keepends=True)
        (workdir / f"{name}.jsonl").write_text("".join(lines[:kept]))
    text = read(report.write(workdir))
    assert [name for name in SECTIONS if name in text] == [name for name in SECTIONS if name in HAS[kept]]


def test_runs_of_other_kinds_leave_out_what_they_have_not(workdir):
    """Rows without swaps, clients' adapters or a ledger, with another phase: only the sections with data are there."""
    gone = ("public/", "swap/", "round/", "ledger/", "clients/")
    rows = [
        {name.replace("private/", "server/"): value for name, value in row.items() if not name.startswith(gone)}
        for row in journal.read(workdir, "metrics")
    ]
    description = json.loads((workdir / "run.json").read_text())
    described = description | {"topics": [], "held": [], "topics_of": {}}
    described["config"] |= {"federation.method": "another"}
    text = "".join(report.sections(described, rows, journal.read(workdir, "evaluations"), []))
    present = [name for name in SECTIONS if f"<h2>{name}</h2>" in text]
    assert present == ["Result", "Learning", "Topics and clients", "Time and memory"]
    assert "server, step 1" in text and "another" in text and "swap balanced" not in text
    assert "averaged model" in text and "policy" not in text
    described["config"] |= {"federation.method": "fedgrpo"}
    text = html.unescape("".join(report.sections(described, rows, journal.read(workdir, "evaluations"), [])))
    assert "server's policy" in text and "averaged model" not in text


def test_alarms_are_a_section_where_there_are_any():
    rows = [{"round": 0, "step": i, "private/truncated": 0.9} for i in range(12)]
    assert "raise training.max_new_tokens" in report.alarms(rows) and report.alarms([]) == ""


def test_the_change_from_the_base_is_paired(workdir):
    curve = [row for row in journal.read(workdir, "evaluations") if (row["split"], row["model"]) == ("validation", "global")]
    change = change_from_base(curve, "averaged model")
    assert change.x == [1, 2]
    for y, low, high, row in zip(change.y, change.low, change.high, curve[1:], strict=True):
        assert low <= y <= high and y == pytest.approx(row["figures"]["pass@1"] - curve[0]["figures"]["pass@1"])
    assert change_from_base(curve[1:], "averaged model").x == []


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(ValueError, match="no run.json in it; give the --workdir of a run"):
        report.write(tmp_path)


def test_the_speed_leaves_out_the_steps_that_compile():
    rows = [{"round": 0, "step": i, "at": i + 1, "time/tokens_per_second": i + 7.0} for i in range(4)]
    rows[1] |= {"public/tokens": 1.0}
    text = report.times(rows, [])
    assert "step 3: 9<" in text and "step 4: 10<" in text and "step 1:" not in text and "step 2:" not in text
    rows[2] |= {"time/step_compile": 3.0}  # as a run that was resumed
    assert report.speeds(rows).y == [7.0, 8.0, None, 10.0]


def test_absent_clients_leave_gaps(workdir):
    rows = journal.read(workdir, "metrics")
    for row in rows:
        for name, value in row.items():
            if isinstance(value, list) and len(value) == 3 and not name.startswith("time/"):
                value[1] = None
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = read(report.write(workdir))
    assert all(name in text for name in SECTIONS) and "nan" not in text.lower().replace("finance", "")
