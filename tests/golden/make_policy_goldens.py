"""What transformers and peft compute on tiny models with random weights: one folder a family, which the parity tests read.

    PUBSWAP_DATA=... python tests/golden/make_policy_goldens.py

needs torch, transformers and peft. Each folder is as `save_pretrained` leaves it (model and adapter), beside expected.npz. The
configs are the published ones cut down; the live parity tests build their models with the functions of this file.
"""

import contextlib
import json
import os
import pathlib
import shutil
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
FAMILIES = {"llama": "Llama-3.2-1B", "qwen2": "Qwen2.5-0.5B", "qwen3": "Qwen3-0.6B"}
# Parts whose outputs are compared one by one, by transformers' names.
PARTS = [f"layers.{i}{part}" for i in range(2) for part in (".self_attn", ".mlp", "")]
STEPS = 64


def published(data: pathlib.Path, name: str) -> dict:
    return json.loads((data / "hf_configs" / f"{name}.config.json").read_text())


def cut(fields: dict, layers: int = 2) -> dict:
    """The published config at small widths; what it is made of, and how many queries share a key, stays."""
    group = fields["num_attention_heads"] // fields["num_key_value_heads"]
    heads = 2 * group
    small = {
        "hidden_size": -(-32 // heads) * heads,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 2,
        "head_dim": 16 if fields["model_type"] == "qwen3" else 8,
        "vocab_size": 128,
        "bos_token_id": None,
        "eos_token_id": None,
        "torch_dtype": "float32",
    }
    fields = fields | small
    if fields.get("rope_scaling"):
        # At 8,192 positions the stretching would not show in a prompt of twelve tokens.
        fields["rope_scaling"] = fields["rope_scaling"] | {"original_max_position_embeddings": 64}
    return fields


def build(fields: dict, seed: int = 0):
    """A transformers model with random weights, also norms and biases: at their usual 1 and 0 a missing one would not show."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**fields)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 2:
                # Tied embeddings of full size would make every token predict itself.
                value = noise / parameter.shape[1] ** 0.5 * (0.2 if "embed" in name else 1.5)
            else:
                value = 1 + 0.3 * noise if "norm" in name else 0.5 * noise
            parameter.copy_(value.half().float())  # exact in the files, which hold halves
    return model


def prompts(vocab: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two left-padded rows of different lengths."""
    mask = np.ones((2, 12), bool)
    mask[0, :5] = False
    tokens = np.random.default_rng(seed).integers(1, vocab, mask.shape)
    return np.where(mask, tokens, 0), mask


def run(model, tokens: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Logits, and the output of every part, of one forward pass."""
    import torch

    outputs = {}

    def keep(name):
        def hook(module, inputs, output):
            outputs[name] = (output[0] if isinstance(output, tuple) else output).numpy()

        return hook

    backbone = model.get_decoder()
    with contextlib.ExitStack() as stack, torch.no_grad():
        for name in PARTS:
            stack.callback(backbone.get_submodule(name).register_forward_hook(keep(name)).remove)
        attention = torch.tensor(mask, dtype=torch.long)
        places = (attention.cumsum(-1) - 1).clamp(min=0)
        logits = model(input_ids=torch.tensor(tokens), attention_mask=attention, position_ids=places).logits.numpy()
    return outputs | {"logits": logits}


def greedy(model, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What `generate` writes in STEPS greedy steps, [B, STEPS]."""
    import torch

    out = model.generate(
        torch.tensor(tokens), attention_mask=torch.tensor(mask, dtype=torch.long), do_sample=False,
        max_new_tokens=STEPS, min_new_tokens=STEPS, pad_token_id=0,
    )  # fmt: skip
    return out[:, tokens.shape[1] :].numpy()


def adapted(model, seed: int = 0, **options):
    """The model under a peft adapter with random A and B."""
    import torch
    from peft import LoraConfig, get_peft_model

    peft_model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **({"r": 2, "lora_alpha": 3} | options))).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5)
    return peft_model


def main():
    from importlib.metadata import version

    import torch

    torch.set_num_threads(2)
    data = pathlib.Path(os.environ["PUBSWAP_DATA"])
    for family, name in FAMILIES.items():
        folder = HERE / family
        shutil.rmtree(folder, ignore_errors=True)
        model = build(cut(published(data, name)))
        tokens, mask = prompts(128)
        expected = {"tokens": tokens.astype(np.int16), "mask": mask} | run(model, tokens, mask)
        expected["greedy"] = greedy(model, tokens, mask).astype(np.int16)
        peft_model = adapted(model, target_modules="all-linear")
        peft_model.save_pretrained(folder / "adapter")
        expected["adapted_logits"] = run(peft_model.get_base_model(), tokens, mask)["logits"]
        model = peft_model.unload().half()
        model.generation_config.do_sample = False
        model.save_pretrained(folder)
        (folder / "adapter" / "README.md").unlink(missing_ok=True)
        np.savez_compressed(folder / "expected.npz", **expected)
    about = {
        "command": "PUBSWAP_DATA=... python tests/golden/make_policy_goldens.py",
        "releases": {name: version(name) for name in ("torch", "transformers", "peft")},
        "published": FAMILIES,
    }
    (HERE / "policy.json").write_text(json.dumps(about, indent=1) + "\n")
    print(sum(file.stat().st_size for family in FAMILIES for file in (HERE / family).rglob("*.*")), "bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
