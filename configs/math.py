"""Mathematics: the embedded world, and the paper's settings for MATH and DeepMath.

python -m pubswap_jax.main --config=configs/math.py                    # tiny: pass@1 0.305 -> 0.998, 2 min on 2 cores
python -m pubswap_jax.main --config=configs/math.py:qwen3-1.7b         # not yet run
"""

from pubswap_jax.fields import default_config
from pubswap_jax.settings import nearest


def tiny(config):
    """The embedded model and its noisy homework: minutes on two cores."""
    config.model.instruction = ""
    config.model.lora_rank, config.model.lora_alpha = 8, 16.0
    config.data.name = "homework"
    config.data.max_questions, config.data.validation, config.data.test = 4096, 128, 256
    config.data.partition, config.data.public, config.data.max_prompt_tokens = "by_topic", 0.1, 64
    config.federation.num_clients, config.federation.rounds, config.federation.steps = 4, 3, 40
    config.training.prompts, config.training.max_new_tokens, config.training.lr = 8, 8, 1e-3
    config.evaluation.samples = 4


def hard(config):
    """Homework of which the embedded model knows no topic's procedure: most groups hold few right answers."""
    tiny(config)
    config.data.name, config.data.test, config.data.partition, config.data.alpha = "homework_hard", 512, "dirichlet", 0.3
    config.federation.num_clients, config.federation.rounds, config.training.prompts = 8, 8, 4
    config.evaluation.samples = 1


def paper(config):
    """The paper's settings, as far as they are public, on MATH."""
    config.model.dtype, config.model.remat, config.model.scan_layers = "bfloat16", "block", True
    config.data.name, config.data.test_name = "math", "math500"
    config.federation.rounds, config.federation.steps = 10, 40
    config.training.microbatch, config.training.client_microbatch = 1, 1
    config.evaluation.samples, config.evaluation.clients = 1, False
    config.checkpoint.steps = 10


def qwen25_math(config):
    paper(config)
    config.model.path = "Qwen/Qwen2.5-Math-1.5B"


def qwen3_small(config):
    paper(config)
    config.model.path, config.model.thinking = "Qwen/Qwen3-1.7B", "off"


def qwen3(config):
    paper(config)
    config.model.path, config.model.thinking = "Qwen/Qwen3-4B", "off"
    config.data.name, config.data.test_name = "deepmath", ""


def smoke(config):
    """The path of a real model in a minute: give --config.model.path and --config.data.path."""
    config.data.validation, config.data.test, config.data.max_questions = 4, 4, 64
    config.data.public, config.data.max_prompt_tokens = 0.2, 256
    config.federation.num_clients, config.federation.rounds, config.federation.steps = 2, 1, 2
    config.training.group, config.training.prompts, config.training.max_new_tokens = 2, 2, 16
    config.evaluation.samples, config.evaluation.batch = 1, 4


PRESETS = {
    "tiny": tiny,
    "hard": hard,
    "qwen2.5-math-1.5b": qwen25_math,
    "qwen3-1.7b": qwen3_small,
    "qwen3-4b": qwen3,
    "smoke": smoke,
}


def get_config(preset="tiny"):
    if preset not in PRESETS:
        raise ValueError(f"there is no preset {preset!r}{nearest(preset, PRESETS)}")
    config = default_config()
    PRESETS[preset](config)
    return config
