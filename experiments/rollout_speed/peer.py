"""The other side: `transformers.generate`, which samples at temperature 1 from the whole vocabulary.

python peer.py FOLDER DTYPE dynamic|static|compiled
"""

import sys

import torch
from common import PROMPT, prompt_ids, serve
from transformers import AutoModelForCausalLM


def main(folder: str, dtype: str, form: str) -> None:
    torch.set_num_threads(2)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    ids = torch.tensor(prompt_ids(model.config.vocab_size))
    cache = {} if form == "dynamic" else {"cache_implementation": "static"}
    if form == "compiled":
        model.forward = torch.compile(model.forward)

    @torch.inference_mode(form != "compiled")
    def rollout(group: int, length: int) -> None:
        tokens = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            num_return_sequences=group,
            max_new_tokens=length,
            min_new_tokens=length,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            pad_token_id=0,
            **cache,
        )
        assert tokens.shape == (group, PROMPT + length)

    serve(rollout)


if __name__ == "__main__":
    main(*sys.argv[1:])
