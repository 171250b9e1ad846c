"""Medical multiple choice: the embedded world, and the paper's settings for MedQA and MedMCQA.

python -m pubswap_jax.main --config=configs/medical.py                 # tiny: pass@1 0.229 -> 0.655, a minute and a half
python -m pubswap_jax.main --config=configs/medical.py:llama-3.2-3b    # not yet run
"""

from pubswap_jax.fields import default_config
from pubswap_jax.settings import nearest


def tiny(config):
    """The embedded model and its homework as multiple choice."""
    config.model.instruction = ""
    config.model.lora_rank, config.model.lora_alpha = 8, 16.0
    config.data.name = "homework_choice"
    config.data.max_questions, config.data.validation, config.data.test = 4096, 128, 256
    config.data.partition, config.data.public, config.data.max_prompt_tokens = "by_topic", 0.1, 64
    config.federation.num_clients, config.federation.rounds, config.federation.steps = 4, 3, 40
    config.training.prompts, config.training.max_new_tokens, config.training.lr = 8, 10, 1e-3
    config.evaluation.samples = 4


def llama(config):
    """The paper's settings, as far as they are public, for medical questions."""
    config.model.path = "meta-llama/Llama-3.2-3B-Instruct"
    config.model.dtype, config.model.remat, config.model.scan_layers = "bfloat16", "block", True
    config.data.name, config.data.max_prompt_tokens = "medqa+medmcqa", 1024
    config.federation.rounds, config.federation.steps = 10, 40
    config.training.microbatch, config.training.client_microbatch = 1, 1
    config.evaluation.samples, config.evaluation.clients = 1, False
    config.checkpoint.steps = 10


def smoke(config):
    """The path of a real model in a minute: give --config.model.path and --config.data.path."""
    config.data.validation, config.data.test, config.data.max_questions = 4, 4, 64
    config.data.public, config.data.max_prompt_tokens = 0.2, 512
    config.federation.num_clients, config.federation.rounds, config.federation.steps = 2, 1, 2
    config.training.group, config.training.prompts, config.training.max_new_tokens = 2, 2, 16
    config.evaluation.samples, config.evaluation.batch = 1, 4


PRESETS = {"tiny": tiny, "llama-3.2-3b": llama, "smoke": smoke}


def get_config(preset="tiny"):
    if preset not in PRESETS:
        raise ValueError(f"there is no preset {preset!r}{nearest(preset, PRESETS)}")
    config = default_config()
    PRESETS[preset](config)
    return config
