"""`--workdir` alone: the config of a run is read from its run.json, and only what leaves the run as it is may differ."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from small_world import config_of, finished

from pubswap_jax import main, settings
from pubswap_jax.run import earlier, export
from pubswap_jax.weights.hf_folder import base_digest


@pytest.fixture
def trained(tmp_path):
    run, workdir = finished()
    shutil.copytree(workdir, tmp_path / "run")
    return run, tmp_path / "run"


def rewrite(workdir, change):
    path = workdir / "run.json"
    described = json.loads(path.read_text())
    change(described["config"])
    path.write_text(json.dumps(described))


def test_the_config_of_a_run_is_what_it_was(trained):
    run, workdir = trained
    config, note = earlier.config_of(workdir)
    assert settings.flatten(config) == run.settings and note == ""
    rewrite(workdir, lambda flat: flat.update({"data.fields": {"prompt": "problem"}}))
    config, _ = earlier.config_of(workdir)
    assert config.data.fields.prompt == "problem"
    settings.check(config)


def test_fields_that_came_and_went(trained):
    run, workdir = trained
    rewrite(workdir, lambda flat: (flat.pop("compilation_cache"), flat.update({"training.gone": 1, "old": 2})))
    config, note = earlier.config_of(workdir)
    assert config.compilation_cache == "" and config.training.lr == run.settings["training.lr"]
    assert note == f"{workdir}/run.json: fields that this version does not have are left out: old, training.gone"
    earlier.agree(settings.flatten(config), base_digest(run.policy.folder), workdir, "eval")


def test_an_empty_system_prompt_of_an_earlier_version_is_the_templates_own(trained):
    _, workdir = trained
    rewrite(workdir, lambda flat: flat.update({"model.system": ""}))
    assert earlier.config_of(workdir)[0].model.system == ""
    rewrite(workdir, lambda flat: flat.pop("model.warmup"))
    assert earlier.config_of(workdir)[0].model.system == "default"


def test_a_run_with_a_setting_without_effect_can_still_be_evaluated(trained):
    _, workdir = trained
    rewrite(workdir, lambda flat: flat.update({"training.kl_coef": 0.1}))
    assert main.parse([f"--workdir={workdir}", "--mode=eval"]).config.training.kl_coef == 0.1


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(ValueError, match="no run.json in it; give the --workdir of a run"):
        earlier.config_of(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="no config in it"):
        earlier.config_of(tmp_path)


def test_another_config_or_base_is_refused_with_advice_that_helps(trained):
    run, workdir = trained
    config = config_of(run)
    config.evaluation.samples, config.federation.rounds, config.log.transcripts = 7, 9, 0
    earlier.agree(settings.flatten(config), base_digest(run.policy.folder), workdir, "eval")
    config.training.lr = 0.5
    with pytest.raises(ValueError, match="training.lr: 0.02 before, 0.5 now; leave out --config and its flags") as error:
        earlier.agree(settings.flatten(config), base_digest(run.policy.folder), workdir, "eval")
    assert "--fork" not in str(error.value)
    with pytest.raises(ValueError, match=r"the base model: .* now; give the --config.model.path of the base"):
        earlier.agree(run.settings, "0" * 64, workdir, "export")


def test_reading_the_config_loads_no_jax(trained):
    code = "import sys; from pubswap_jax import main; main.parse(sys.argv[1:]); sys.exit('jax' in sys.modules)"
    arguments = [f"--workdir={trained[1]}", "--mode=eval", "--config.evaluation.samples=1"]
    assert subprocess.run([sys.executable, "-c", code, *arguments], check=False).returncode == 0


def test_every_mode_after_training_needs_the_workdir_alone(trained, monkeypatch, capsys):
    run, workdir = trained
    asked = []

    def assemble(config):
        asked.append(config)
        return run._replace(settings=settings.flatten(config))

    monkeypatch.setattr(export, "assemble", assemble)
    assert main.main([f"--workdir={workdir}", "--mode=report"]) == 0
    assert capsys.readouterr().out.strip() == str(workdir / "report.html")
    assert main.main([f"--workdir={workdir}", "--mode=export"]) == 0
    folders = capsys.readouterr().out.split()
    assert folders[0] == str(workdir / "export" / "global")
    assert main.main([f"--workdir={workdir}", "--mode=eval"]) == 0
    best = capsys.readouterr().out
    assert re.search(r"12 test questions, 2 samples each\npass@1 +0\.", best)
    assert main.main([f"--workdir={workdir}", "--mode=eval", f"--adapter={folders[0]}"]) == 0
    assert capsys.readouterr().out == best
    assert all(settings.flatten(config) == run.settings for config in asked)
    assert main.main([f"--workdir={workdir}", "--mode=eval", "--config.evaluation.batch=6", "--config.data.test_path="]) == 0
    assert asked[-1].evaluation.batch == 6 and asked[-1].training.lr == run.settings["training.lr"]


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--mode=eval", "--config.training.lr=1"], "--config.training.lr: --mode=eval takes it from"),
        (["--mode=export", "--config.evaluation.samples=1"], "--config.evaluation.samples: --mode=export takes it from"),
        (["--mode=eval", "--config.training.learning_rate=1"], "did you mean training.lr?"),
        (["--mode=report", "--config.seed=1"], "--config.seed: --mode=report shows the run as it was; leave it out"),
        (["--mode=export", "--fork"], "--fork counts only with --mode=train; leave it out"),
        (["--mode=export", "--adapter=x"], "--adapter counts only with --mode=eval; leave it out"),
        (["--mode=train"], "--config=FILE[:PRESET] is missing; --config=math is the one"),
    ],
)
def test_flags_that_do_not_fit_are_one_line(trained, capsys, flags, message):
    assert main.main([f"--workdir={trained[1]}", *flags]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and "go on with --fork" not in said
