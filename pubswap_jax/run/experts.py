"""FedGRPO's adapters from folders, and the public questions whose answers its server knows."""

import jax
import jax.numpy as jnp

from pubswap_jax.questions.load import Asked
from pubswap_jax.questions.partition import overlapped
from pubswap_jax.types import ModelConfig, PyTree, Timeline
from pubswap_jax.weights.peft import load_adapter


def load_experts(folders: str, model_config: ModelConfig) -> PyTree:
    """The adapters [C, ...] of the folders that `folders` joins by commas; () for an empty text."""
    if not folders:
        return ()
    found = []
    for folder in folders.split(","):
        theirs, adapter = load_adapter(folder.strip(), model_config)
        if theirs != model_config:
            raise ValueError(
                f"config.federation.adapters: {folder.strip()} has another rank, alpha or other layers than config.model; "
                "set model.lora_rank, model.lora_alpha and model.lora_targets to those of the folders"
            )
        found.append(adapter)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)


def with_labelled(asked: Asked, timeline: Timeline, *, labelled: int, overlap: float, seed: int) -> tuple[Asked, int]:
    """FedGRPO's questions: -> (the questions, the number of public ones whose answers the server knows).

    Each client gets a share `overlap` of the server's other public questions, with their answers, among its own. Without an
    auxiliary event in the timeline nothing is shared, and the number is 0.
    """
    if not any(timeline(number).kind == "auxiliary" for number in range(timeline.length)):
        return asked, 0
    public = len(asked.split.public)
    if public <= labelled:
        raise ValueError(
            f"config.federation.auxiliary={labelled}: there are {public} public questions, and the server needs others "
            "without answers; lower federation.auxiliary, or raise data.public"
        )
    return asked._replace(split=overlapped(asked.split, overlap, labelled, seed)), labelled
