"""A Hugging Face folder of a real model's shape and tokenizer, with random weights, to measure what a real run costs.

python experiments/round_cost/make_base.py CONFIG.json TOKENIZER_FOLDER OUT_FOLDER
"""

import json
import pathlib
import shutil
import sys


def main(config_file: str, tokenizer: str, out: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(**json.loads(pathlib.Path(config_file).read_text()))
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(out)
    for path in pathlib.Path(tokenizer).iterdir():
        shutil.copyfile(path, pathlib.Path(out, path.name))


if __name__ == "__main__":
    main(*sys.argv[1:])
