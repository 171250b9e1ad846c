"""A run's policy: the base model's folder, its tokenizer, its parameters, and the adapter before the first round.

`model.warmup` names a PEFT folder, a warm-up, that is merged into the base when it is loaded. Adapters that leave a run are
relative to the model of `model.path`: `beside_warmup` joins the warm-up's and the run's ranks.
"""

import hashlib
import pathlib
from functools import partial
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from pubswap_jax import settings
from pubswap_jax.devices import mesh
from pubswap_jax.policy.adapter import basis_shapes, init_adapter, init_basis
from pubswap_jax.policy.logps import check_positions
from pubswap_jax.policy.model import Transformer
from pubswap_jax.questions import embedded, sources
from pubswap_jax.questions.load import HOMEWORK
from pubswap_jax.questions.problem import KINDS
from pubswap_jax.questions.tokens import INSTRUCTIONS, Tokenizer, load_tokenizer
from pubswap_jax.types import ModelConfig, PyTree
from pubswap_jax.weights import hf_folder
from pubswap_jax.weights.hf_config import read_config
from pubswap_jax.weights.peft import load_adapter
from pubswap_jax.weights.peft_join import adapter_digest, joined, with_adapter
from pubswap_jax.weights.pretrained import load_pretrained, param_shapes

ADAPTER_STREAM, BASIS_STREAM = 2**32 - 1, 2**32 - 2  # no round has these numbers; rounds are folded into the same key


class Policy(NamedTuple):
    """A run's model before training: the frozen base model, its tokenizer, and the adapter that training starts from."""

    folder: pathlib.Path
    tokenizer: Tokenizer
    model: Transformer
    base: PyTree
    adapter: PyTree
    digest: str  # SHA-256 of the base: of its files, and of the warm-up adapter if there is one

    @property
    def config(self) -> ModelConfig:
        return self.model.config


def load_policy(config, devices: Mesh | None = None) -> Policy:
    """Loads the base model that the config names; the adapter is drawn from the config's seed."""
    folder = base_folder(config)
    tokenizer = make_tokenizer(config, folder)
    check_context(config, read_config(folder))
    check_family(config, adapt(config, read_config(folder), tokenizer))
    shardings = devices and partial(mesh.params_sharding, devices)
    loaded, base = load_pretrained(folder, dtype=config.model.dtype, shardings=shardings, scan_layers=config.model.scan_layers)
    if config.model.warmup:
        base = base | {"params": with_adapter(base["params"], *load_adapter(config.model.warmup, loaded))}
    model = Transformer(adapt(config, loaded, tokenizer))
    key = jax.random.key(config.seed)
    shapes = jax.eval_shape(lambda: base)  # `init_adapter` is jitted: eager, it would compile one program per leaf
    adapter = jax.jit(lambda key: init_adapter(key, model, shapes))(jax.random.fold_in(key, ADAPTER_STREAM))
    basis = make_basis(config, model, shapes)
    return Policy(folder, tokenizer, model, base | {"basis": basis}, adapter, digest_of(config, folder))


def digest_of(config, folder: pathlib.Path) -> str:
    """SHA-256 of a run's base: of the model's files and, where `model.warmup` names one, of the warm-up adapter."""
    found = hf_folder.base_digest(folder)
    if not config.model.warmup:
        return found
    return hashlib.sha256(f"{found} {adapter_digest(config.model.warmup)}".encode()).hexdigest()


def beside_warmup(warmup: str, model_config: ModelConfig, adapter: PyTree, basis: PyTree) -> tuple[ModelConfig, PyTree, PyTree]:
    """A run's adapter relative to the model of `model.path`, its config and its basis. `warmup`: the run's model.warmup."""
    if not warmup:
        return model_config, adapter, basis
    warm = load_adapter(warmup, model_config)
    return *joined(warm, (model_config, adapter), basis), {}


def make_basis(config, model: Transformer, base: PyTree) -> PyTree:
    """The frozen arrays of the adapter family, a function of the config's seed; `base` may hold shapes."""
    return init_basis(jax.random.fold_in(jax.random.key(config.seed), BASIS_STREAM), model, base)


def base_folder(config) -> pathlib.Path:
    """The folder of the base model that the config names; without a name, that of an embedded model."""
    path, revision = config.model.path, config.model.revision
    if revision and (not path or pathlib.Path(path).expanduser().exists()):
        kind = "folder" if pathlib.Path(path).expanduser().is_dir() else "file"
        what = f"the {kind} {path}" if path else "the embedded model"
        raise ValueError(f"config.model.revision={revision}: no effect on {what}; it belongs to a name on the hub")
    if not path:
        preset, _ = HOMEWORK.get(config.data.name, ("easy", "math"))
        return embedded.tiny_path(preset)
    return hf_folder.find_folder(path, revision or None)


def check_context(config, model_config: ModelConfig) -> None:
    """Raises if the longest prompt and the longest response together exceed the base model's context."""
    prompt = ("config.data.max_prompt_tokens", config.data.max_prompt_tokens)
    check_positions(model_config, prompt, ("config.training.max_new_tokens", config.training.max_new_tokens))


def check_family(config, model_config: ModelConfig) -> None:
    """Raises, with the layer's name, if the config's adapter family does not fit a layer of the base model."""
    try:
        basis_shapes(Transformer(model_config), {"params": param_shapes(model_config)})
    except ValueError as error:
        asked = f"config.model.heads={config.model.heads} and config.model.lora_rank={config.model.lora_rank}"
        raise ValueError(f"{asked}: {error} (config.model.lora_targets)") from None


def make_tokenizer(config, folder: pathlib.Path) -> Tokenizer:
    wording = config.model.instruction
    return load_tokenizer(
        folder,
        system=None if config.model.system == "default" else config.model.system,
        examples=sources.examples(config.model.examples) if config.model.examples else (),
        instructions=INSTRUCTIONS if wording == "default" else dict.fromkeys(KINDS, wording),
        chat_template_kwargs={} if config.model.thinking == "default" else {"enable_thinking": config.model.thinking == "on"},
    )


def adapt(config, model_config: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """The loaded model's config for a run: with the run's adapter and remat settings, and the tokenizer's stop tokens."""
    return model_config.replace(
        adapter=settings.chosen(config, "model.adapter"),
        lora_targets=settings.targets(config),
        remat=config.model.remat,
        eos_ids=tuple(dict.fromkeys((*model_config.eos_ids, *tokenizer.stop_ids))),
        pad_id=tokenizer.pad_id,
        max_new_tokens=config.training.max_new_tokens,
    )


class NoTokenizer(NamedTuple):
    """Placeholder for a tokenizer. The ids of its special tokens change neither bytes nor time."""

    stop_ids: tuple[int, ...] = (0,)
    pad_id: int = 0


NO_TOKENIZER = NoTokenizer()


def model_of(config, tokenizer: Tokenizer | NoTokenizer = NO_TOKENIZER) -> ModelConfig:
    """The model config from config.json alone (a file, or in a folder or on the hub); needs no weights."""
    path = pathlib.Path(config.model.path).expanduser()
    if config.model.path and path.is_file():
        if path.name != "config.json":
            raise ValueError(f"config.model.path={path}: a folder, or a file named config.json, expected")
        folder = path.parent
    elif config.model.path:
        folder = hf_folder.find_folder(config.model.path, config.model.revision or None, config_only=True)
    else:
        folder = base_folder(config)
    return adapt(config, read_config(folder).replace(scan_layers=config.model.scan_layers), tokenizer)
