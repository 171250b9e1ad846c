"""Medical multiple choice: the embedded world, and the paper's settings for MedQA and MedMCQA.

python -m pubswap_jax.main --config=configs/medical.py                 # tiny: pass@1 0.229 -> 0.655, a minute and a half
python -m pubswap_jax.main --config=configs/medical.py:smollm2-135m    # not yet run
python -m pubswap_jax.main --config=configs/medical.py:llama-3.2-3b    # not yet run
"""

from pubswap_jax.settings import beside

common = beside(__file__, "common.py")


def tiny(config):
    """The embedded model and its homework as multiple choice."""
    common.tiny(config)
    config.data.name = "homework_choice"
    config.training.max_new_tokens = 10


def llama(config):
    """The paper's settings, as far as they are public, for medical questions."""
    common.paper(config)
    config.model.path = "meta-llama/Llama-3.2-3B-Instruct"
    config.data.name = "medqa+medmcqa"
    config.data.max_prompt_tokens = 1024


def smollm2(config):
    """SmolLM2-135M-Instruct on medical questions, two cores. Its answers are letters, and the base answers at random."""
    common.small_real(config)
    config.model.instruction = "Answer with the letter of the right option."
    config.data.name = "medqa+medmcqa"
    config.data.max_prompt_tokens = 256
    config.data.max_questions = 2000
    config.data.test = 200


def smoke(config):
    """The path of a real model in a minute: give --config.model.path and --config.data.path."""
    common.smoke(config)
    config.data.max_prompt_tokens = 512


PRESETS = {"tiny": tiny, "smollm2-135m": smollm2, "llama-3.2-3b": llama, "smoke": smoke}


def get_config(preset="tiny"):
    return common.config_of(PRESETS, preset)
