"""The other side: TRL's GRPOTrainer around a PEFT model, its own loss and optimizer, on the same token matrix.

python peer.py FOLDER plain|checkpointed|compiled PROMPTS ROWS [DTYPE]
"""

import sys
import tempfile

import datasets
import torch
from common import GROUP, serve, token_matrix
from peft import PeftModel
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer


def main(folder: str, form: str, prompts: str, rows_at_a_time: str, dtype: str = "float32") -> None:
    torch.set_num_threads(2)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model = PeftModel.from_pretrained(base, f"{folder}/adapter", is_trainable=True)
    rows = int(prompts) * GROUP
    with tempfile.TemporaryDirectory() as outputs:
        arguments = GRPOConfig(
            output_dir=outputs,
            use_cpu=not torch.cuda.is_available(),
            report_to=[],
            num_generations=GROUP,
            per_device_train_batch_size=rows,
            loss_type="grpo",
            beta=0.0,
            learning_rate=1e-5,
            weight_decay=0.0,
            bf16=dtype == "bfloat16",
            gradient_checkpointing=form == "checkpointed",
            torch_compile=form == "compiled",
        )
        # The trainer wants a tokenizer, a reward and questions; none is used by the update.
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.WordLevel({"x": 0}, "x")), pad_token="x", eos_token="x"
        )
        questions = datasets.Dataset.from_dict({"prompt": ["x"] * rows})
        trainer = GRPOTrainer(
            model, lambda completions, **_: [0.0] * len(completions), arguments, questions, processing_class=tokenizer
        )
    given = {name: torch.tensor(value) for name, value in token_matrix(int(prompts), base.config.vocab_size).items()}
    given = {name: value.to(trainer.accelerator.device) for name, value in given.items()}
    responses = given["responses"].flatten(0, 1).long()
    asked = given["prompts"].repeat_interleave(GROUP, dim=0).long()
    inputs = {
        "prompt_ids": asked,
        "prompt_mask": torch.ones_like(asked),
        "completion_ids": responses,
        "completion_mask": torch.ones_like(responses),
        "advantages": given["advantages"].flatten(),
        "num_items_in_batch": torch.tensor(float(responses.numel()), device=responses.device),
    }
    size = int(rows_at_a_time)
    parts = [{name: x[start : start + size] if x.ndim else x for name, x in inputs.items()} for start in range(0, rows, size)]
    trainer.current_gradient_accumulation_steps = len(parts)  # the loss divides by it
    optimizer = trainer.create_optimizer()
    trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    policy = torch.compile(trainer.model) if form == "compiled" else trainer.model
    policy.train()
    if form == "checkpointed":  # as `trainer.train()` would
        policy.gradient_checkpointing_enable({"use_reentrant": False})

    def update():
        for part in parts:
            trainer.accelerator.backward(trainer.compute_loss(policy, part))
        norm = torch.nn.utils.clip_grad_norm_(trained, float("inf"))
        optimizer.step()
        optimizer.zero_grad()
        if not torch.cuda.is_available():
            return {"grad_norm": norm.item()}
        torch.cuda.synchronize()
        return {"grad_norm": norm.item(), "peak": torch.cuda.max_memory_allocated()}

    serve(update)


if __name__ == "__main__":
    main(*sys.argv[1:])
