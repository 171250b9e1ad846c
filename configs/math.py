"""Mathematics: the embedded world, and the paper's settings for MATH and DeepMath.

python -m pubswap_jax.main --config=configs/math.py                    # tiny: pass@1 0.305 -> 0.998, 2 min on 2 cores
python -m pubswap_jax.main --config=configs/math.py:smollm2-135m       # pass@1 0.139 -> 0.181, 29 min of CPU time
python -m pubswap_jax.main --config=configs/math.py:qwen2.5-0.5b       # not yet run
python -m pubswap_jax.main --config=configs/math.py:fedbuff            # pass@1 0.305 -> 0.890; fedrevive 0.945, sapo 0.997
python -m pubswap_jax.main --config=configs/math.py:fedgrpo            # pass@1 0.305 -> 0.963
python -m pubswap_jax.main --config=configs/math.py:qwen3-1.7b         # not yet run
"""

from pubswap_jax.settings import beside

common = beside(__file__, "common.py")


# --- the embedded world ---------------------------------------------------------------------------------------------------


def tiny(config):
    """The embedded model and its noisy homework: minutes on two cores."""
    common.tiny(config)
    config.data.name = "homework"
    config.training.max_new_tokens = 8


def hard(config):
    """Homework of which the embedded model knows no topic's procedure: most groups hold few right answers."""
    tiny(config)
    config.data.name = "homework_hard"
    config.data.test = 512
    config.data.partition = "dirichlet"
    config.data.alpha = 0.3
    config.federation.num_clients = 8
    config.federation.rounds = 8
    config.training.prompts = 4
    config.evaluation.samples = 1


def fedbuff(config):
    """Asynchronous clients, half of them four times as fast; a new version from every two uploads."""
    tiny(config)
    config.federation.method = "fedbuff"
    config.federation.swap_period = 0
    config.federation.speeds = "1,4"
    config.federation.buffer = 2
    config.federation.free = 1
    config.federation.rounds = 12
    config.federation.steps = 10
    config.training.client_microbatch = 1  # one program for any number of clients at a time
    config.evaluation.every = 4
    config.evaluation.clients = False


def fedrevive(config):
    """Clients as in fedbuff. Every upload makes a version, and the server distils stale uploads on the public questions."""
    fedbuff(config)
    config.federation.method = "fedrevive"
    config.federation.buffer = 1
    config.federation.rounds = 24
    config.federation.distil_lr = 1e-3
    config.evaluation.every = 8


def sapo(config):
    """No weights are exchanged: every update learns from four own and four foreign responses to shared questions."""
    tiny(config)
    config.federation.average = False
    config.federation.swap = "sapo"
    config.federation.foreign = 4
    config.federation.swap_period = 1


def fedgrpo(config):
    """FedGRPO: clients train on their own questions for a round, then reward the candidates of a server's policy."""
    tiny(config)
    config.federation.method = "fedgrpo"
    config.data.public = 0.2
    config.federation.rounds = 4


# --- the paper ------------------------------------------------------------------------------------------------------------


def paper(config):
    """The paper's settings, as far as they are public, on MATH."""
    common.paper(config)
    config.data.name = "math"
    config.data.test_name = "math500"


def qwen25_math(config):
    paper(config)
    config.model.path = "Qwen/Qwen2.5-Math-1.5B"


def qwen3_small(config):
    paper(config)
    config.model.path = "Qwen/Qwen3-1.7B"
    config.model.thinking = "off"


def qwen3(config):
    paper(config)
    config.model.path = "Qwen/Qwen3-4B"
    config.model.thinking = "off"
    config.data.name = "deepmath"
    config.data.test_name = ""


# --- small real models ----------------------------------------------------------------------------------------------------

STUDY = "experiments/real_model"  # of a clone, from whose root the command is given


def smollm2(config):
    """SmolLM2-135M-Instruct on SVAMP, one operation a client, after a warm-up on 80 questions. Run it in a clone's root."""
    common.small_real(config)
    config.model.warmup = f"{STUDY}/warmup"
    config.model.instruction = "Answer with a calculation."
    config.data.path = f"{STUDY}/data/svamp_train.jsonl"
    config.data.test_path = f"{STUDY}/data/svamp_test.jsonl"
    config.data.partition = "by_topic"


def qwen25_coder(config):
    """Qwen2.5-Coder-0.5B-Instruct on GSM8K, on one GPU."""
    config.model.path = "Qwen/Qwen2.5-Coder-0.5B-Instruct"
    config.model.dtype = "bfloat16"
    config.model.scan_layers = True
    config.compilation_cache = "~/.cache/pubswap_jax"
    config.data.name = "gsm8k"
    config.data.max_prompt_tokens = 256
    config.federation.num_clients = 4
    config.federation.rounds = 3
    config.training.max_new_tokens = 256
    config.training.lr = 1e-4
    config.evaluation.clients = False


# --- any model ------------------------------------------------------------------------------------------------------------


def smoke(config):
    """The path of a real model in a minute: give --config.model.path and --config.data.path."""
    common.smoke(config)
    config.data.max_prompt_tokens = 256


PRESETS = {
    "tiny": tiny,
    "hard": hard,
    "smollm2-135m": smollm2,
    "qwen2.5-0.5b": qwen25_coder,
    "fedbuff": fedbuff,
    "fedrevive": fedrevive,
    "sapo": sapo,
    "fedgrpo": fedgrpo,
    "qwen2.5-math-1.5b": qwen25_math,
    "qwen3-1.7b": qwen3_small,
    "qwen3-4b": qwen3,
    "smoke": smoke,
}


def get_config(preset="tiny"):
    return common.config_of(PRESETS, preset)
