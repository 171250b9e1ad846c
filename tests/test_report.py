"""The report: one file, every section, finished run or not."""

import json
import shutil
from html.parser import HTMLParser

import pytest
from small_world import finished

from pubswap_jax import metrics, report

SECTIONS = ["Result", "Learning", "Swaps", "Topics and clients", "Drift", "Communication", "Time and memory", "Transcripts"]
VOID = {"meta", "br"}


class Strict(HTMLParser):
    """Raises where tags do not nest; collects headings and whatever would be fetched."""

    def __init__(self):
        super().__init__()
        self.open, self.fetched, self.text = [], [], ""

    def handle_starttag(self, tag, attributes):
        self.fetched += [value for name, value in attributes if name in ("src", "href")] + ([tag] if tag == "script" else [])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(path):
    parser = Strict()
    parser.feed(path.read_text(encoding="utf-8"))
    assert parser.open == [] and parser.fetched == []
    return parser.text


@pytest.fixture
def workdir(tmp_path):
    shutil.copytree(finished()[1], tmp_path / "run")
    return tmp_path / "run"


def test_every_section_and_the_runs_own_figures(workdir):
    text = read(report.write(workdir))
    assert all(name in text for name in SECTIONS)
    tested = [row for row in metrics.read(workdir, "evaluations") if row["split"] == "test"]
    assert f"{tested[0]['figures']['pass@1']:.3f} → {tested[-1]['figures']['pass@1']:.3f}" in text
    rounds = [row for row in metrics.read(workdir, "metrics") if "step" not in row and row["round"]]
    adapters = sum(sum(row["ledger/up/adapters"]) for row in rounds)
    assert f"{adapters / 1000:.1f} kB" in text
    assert "federation.num_clients" in text and json.loads((workdir / "run.json").read_text())["base_sha256"] in text


def test_the_bound_is_drawn_beside_the_distance(workdir):
    measured = [row for row in metrics.read(workdir, "metrics") if "swap/bound" in row]
    pairs = [pair for row in measured for pair in zip(row["swap/distance"], row["swap/bound"], strict=True) if pair[1]]
    text = read(report.write(workdir))
    assert "M·β, the bound" in text and f"% of the bound in {len(pairs)} measurements" in text
    assert report.theory(
        [{"at": 1, "swap/bound": [None, 0.0], "swap/distance": [None, 0.0], "swap/beta": [None, float("nan")]}]
    )
    assert "not measured" in report.theory([])


def test_a_hostile_transcript_stays_text(workdir):
    rows = metrics.read(workdir, "rollouts")
    rows[-1]["responses"][0]["text"] = "</details><script>alert(1)</script>"
    (workdir / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "alert(1)" in read(report.write(workdir))


@pytest.mark.parametrize("kept", [0, 1, 4])
def test_a_run_that_has_just_begun(workdir, kept):
    for name in ("metrics", "evaluations", "rollouts"):
        lines = (workdir / f"{name}.jsonl").read_text().splitlines(keepends=True)
        (workdir / f"{name}.jsonl").write_text("".join(lines[:kept]))
    text = read(report.write(workdir))
    assert all(name in text for name in SECTIONS)


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(ValueError, match="no run.json in it; give the --workdir of a run"):
        report.write(tmp_path)
