"""What the configs of this folder share: blocks of fields, and the choice of a preset. This file is no config itself."""

from pubswap_jax.fields import default_config
from pubswap_jax.settings import nearest


def tiny(config):
    """An embedded model and its noisy homework: minutes on two cores."""
    config.model.instruction = ""
    config.model.lora_rank = 8
    config.model.lora_alpha = 16.0

    config.data.max_prompt_tokens = 64
    config.data.max_questions = 4096
    config.data.test = 256
    config.data.validation = 128
    config.data.public = 0.1
    config.data.partition = "by_topic"

    config.federation.num_clients = 4
    config.federation.rounds = 3
    config.federation.steps = 40

    config.training.prompts = 8
    config.training.lr = 1e-3

    config.evaluation.samples = 4


def paper(config):
    """The paper's settings, as far as they are public. What the paper states is the default already."""
    config.model.dtype = "bfloat16"
    config.model.remat = "block"
    config.model.scan_layers = True

    config.federation.rounds = 10
    config.federation.steps = 40

    config.training.microbatch = 1
    config.training.client_microbatch = 1

    config.evaluation.samples = 1
    config.evaluation.clients = False

    config.checkpoint.steps = 10


def small_real(config):
    """SmolLM2-135M-Instruct on two cores: four clients, 30 steps, short answers."""
    config.compilation_cache = "~/.cache/pubswap_jax"
    config.model.path = "HuggingFaceTB/SmolLM2-135M-Instruct"
    config.model.scan_layers = True
    config.model.system = ""
    config.model.lora_rank = 8
    config.model.lora_alpha = 16.0

    config.data.max_prompt_tokens = 96
    config.data.validation = 64
    config.data.test = 0
    config.data.public = 0.15

    config.federation.num_clients = 4
    config.federation.rounds = 3
    config.federation.steps = 10

    config.training.prompts = 4
    config.training.max_new_tokens = 10
    config.training.lr = 5e-4

    config.evaluation.clients = False
    config.evaluation.batch = 32
    config.checkpoint.steps = 5
    config.log.distortion = "off"


def smoke(config):
    """The path of a real model in a minute: give --config.model.path and --config.data.path."""
    config.data.max_questions = 64
    config.data.test = 4
    config.data.validation = 4
    config.data.public = 0.2

    config.federation.num_clients = 2
    config.federation.rounds = 1
    config.federation.steps = 2

    config.training.group = 2
    config.training.prompts = 2
    config.training.max_new_tokens = 16

    config.evaluation.samples = 1
    config.evaluation.batch = 4


def config_of(presets, preset):
    """The default config, changed by the preset of this name."""
    if preset not in presets:
        raise ValueError(f"there is no preset {preset!r}{nearest(preset, presets)}")
    config = default_config()
    presets[preset](config)
    return config
