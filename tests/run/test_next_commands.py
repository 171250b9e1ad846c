"""The commands named after an export: their flags exist, the folders in them load, and odd names keep their meaning."""

import importlib.util
import json
import pathlib
import shlex
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from small_world import finished

import pubswap_jax as ps
from pubswap_jax.run import export
from pubswap_jax.run.next_commands import next_commands

# The flags as their programs document them. vLLM: features/lora and cli/serve of its documentation, and max_lora_rank's choices
# in vllm/config/lora.py (0.14). lm_eval: `lm_eval run --help` of 0.4.13.
FLAGS = {
    "vllm serve": {"--revision", "--enable-lora", "--lora-modules", "--max-lora-rank"},
    "lm_eval --model": {"--model", "--model_args", "--tasks", "--apply_chat_template"},
}
# Arguments of lm_eval's `hf` model, and tasks that lm_eval 0.4.13 has.
ARGUMENTS, TASKS = {"pretrained", "revision", "peft"}, {"gsm8k", "medqa_4options", "medmcqa"}


def parsed(line):
    """(program and first word, the words after it) of a command, whose flags must all be documented."""
    words = shlex.split(line)
    program = " ".join(words[:2])
    assert {word for word in words if word.startswith("--")} <= FLAGS[program], line
    return program, words[2 if program == "vllm serve" else 1 :]


def arguments_of(words):
    assert set(words[words.index("--tasks") + 1].split(",")) <= TASKS
    given = dict(one.split("=", 1) for one in words[words.index("--model_args") + 1].split(","))
    assert given.keys() <= ARGUMENTS and words[:2] == ["--model", "hf"]
    return given


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(run, its folders with a merged model)."""
    run, workdir = finished()
    return run, export.export_run(run, workdir, folder=tmp_path_factory.mktemp("export"), merge="float32")


def test_the_export_of_a_run_can_be_served_and_evaluated(exported):
    run, folders = exported
    serve, evaluate, serve_merged, evaluate_merged = map(parsed, next_commands(run, folders))
    base, adapter, merged = str(run.policy.folder), str(folders[0]), str(folders[-1])
    assert serve[1] == [base, "--enable-lora", "--lora-modules", f"global={adapter}"] and serve_merged[1] == [merged]
    assert arguments_of(evaluate[1]) == {"pretrained": base, "peft": adapter}
    assert arguments_of(evaluate_merged[1]) == {"pretrained": merged}
    for folder in (base, merged):
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in pathlib.Path(folder).iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {file.name for file in folders[0].iterdir()}
    assert len(next_commands(run, folders[:-1])) == 2, "no merged model, no commands for one"


def adapter_of_rank(folder, rank):
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    return folder


def assembled(template=None, **settings):
    known = {"model.path": "", "model.revision": "", "data.name": "homework", "data.test_name": ""}
    known |= {name.replace("__", "."): value for name, value in settings.items()}
    tokenizer = SimpleNamespace(hf=SimpleNamespace(chat_template=template))
    return SimpleNamespace(settings=known, policy=SimpleNamespace(folder=pathlib.Path("/base"), tokenizer=tokenizer))


def test_a_model_on_the_hub_is_named_with_its_revision_and_chat_template(tmp_path):
    adapter = adapter_of_rank(tmp_path / "global", 16)
    hub = {"model__path": "Qwen/Qwen2.5-0.5B-Instruct", "model__revision": "main", "data__name": "medqa+medmcqa"}
    serve, evaluate = map(parsed, next_commands(assembled("{{ messages }}", **hub), [adapter]))
    assert serve[1][:4] == ["Qwen/Qwen2.5-0.5B-Instruct", "--revision", "main", "--enable-lora"]
    assert arguments_of(evaluate[1])["revision"] == "main" and evaluate[1][-1] == "--apply_chat_template"
    assert "medqa_4options,medmcqa" in evaluate[1]
    (tmp_path / "folder").mkdir()
    serve, evaluate = map(parsed, next_commands(assembled(model__path=str(tmp_path / "folder")), [adapter]))
    assert serve[1][0] == "/base" and arguments_of(evaluate[1])["pretrained"] == "/base"


@pytest.mark.parametrize(("rank", "most"), [(8, None), (16, None), (17, "32"), (300, "320"), (512, "512")])
def test_a_rank_over_vllms_default_is_allowed_by_the_next_one_that_it_knows(tmp_path, rank, most):
    words = parsed(next_commands(assembled(), [adapter_of_rank(tmp_path / "global", rank)])[0])[1]
    assert words[words.index("--max-lora-rank") + 1] == most if most else "--max-lora-rank" not in words


def test_a_rank_that_vllm_lacks_is_said(tmp_path):
    line = next_commands(assembled(), [adapter_of_rank(tmp_path / "global", 600)])[0]
    assert line.startswith("#") and "512 at most, and this one has 600: export with --merge=bfloat16" in line


def test_a_folder_with_an_equals_sign_is_given_to_vllm_as_json(tmp_path):
    folder = adapter_of_rank(tmp_path / "lr=1, a run" / "global", 8)
    words = parsed(next_commands(assembled(), [folder])[0])[1]
    assert json.loads(words[words.index("--lora-modules") + 1]) == {"name": "global", "path": str(folder)}


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_the_named_folders_load_in_peft_and_transformers_with_the_runs_own_logits(exported):
    for name in ("torch", "transformers", "peft"):
        if importlib.util.find_spec(name) is None:
            pytest.skip("needs torch, transformers and peft: pip install 'pubswap_jax[parity]'")
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run, folders = exported
    _, evaluate, _, evaluate_merged = map(parsed, next_commands(run, folders))
    named, merged = arguments_of(evaluate[1]), arguments_of(evaluate_merged[1])["pretrained"]
    base = AutoModelForCausalLM.from_pretrained(named["pretrained"], dtype=torch.float32)
    with torch.no_grad():
        tokens = torch.tensor([AutoTokenizer.from_pretrained(merged)("0+1=2").input_ids])
        plain = base(tokens).logits
        theirs = PeftModel.from_pretrained(base, named["peft"]).eval()(tokens).logits
        merged_logits = AutoModelForCausalLM.from_pretrained(merged)(tokens).logits
    assert (theirs - plain).abs().max() > 1e-3, "the adapter changes nothing"
    np.testing.assert_allclose(merged_logits, theirs, atol=1e-4)
    at = ps.Prompts(tokens.numpy()[:, :1].astype(np.int32), np.ones((1, 1), bool))
    rest = tokens.numpy()[:, None, 1:].astype(np.int32)
    adapter = export.best_of_run(run, finished()[1]).adapter
    ours = ps.response_logps(run.policy.model, run.policy.base, adapter, at, rest)
    logps = torch.log_softmax(theirs[0, :-1], -1)[torch.arange(rest.shape[-1]), tokens[0, 1:]]
    np.testing.assert_allclose(jax.device_get(ours)[0, 0], logps, atol=1e-4)
