"""FedGRPO from a config: its federation, its timeline, and the public questions whose answers its server knows."""

from functools import partial

import jax
import jax.numpy as jnp
import optax

from pubswap_jax import settings
from pubswap_jax.algorithm.experts import Judging
from pubswap_jax.algorithm.fedgrpo import fedgrpo
from pubswap_jax.algorithm.timeline import experts_first
from pubswap_jax.algorithm.truncation import truncated_importance
from pubswap_jax.algorithm.update import Learning
from pubswap_jax.questions.load import Asked
from pubswap_jax.questions.partition import overlapped
from pubswap_jax.questions.schedule import Schedule
from pubswap_jax.types import Federation, ModelConfig, Program, PyTree, Timeline, compiled
from pubswap_jax.weights.peft import load_adapter


def make_fedgrpo(config, model, tx: optax.GradientTransformation, program: Program = compiled) -> Federation:
    """The federation that the config's fields of FedGRPO describe."""
    training, federation = config.training, config.federation
    return fedgrpo(
        model,
        tx,
        num_clients=federation.num_clients,
        group=training.group,
        how=make_learning(config),
        judging=Judging(
            experts=federation.experts,
            neighbours=federation.neighbours,
            auxiliary=federation.auxiliary,
            choose=settings.chosen(config, "federation.choice"),
            over=federation.compare,
            scale=training.advantages == "group",
        ),
        adapters=load_experts(federation.adapters, model.config),
        clients_at_once=1 if jax.default_backend() == "cpu" else None,
        part=training.client_microbatch or None,
        program=program,
    )


def make_learning(config) -> Learning:
    """How the policy learns from advantages, and the clients from their own rewards."""
    training = config.training
    loss = settings.chosen(config, "training.loss")
    return Learning(
        loss=partial(loss, dual_clip=True) if training.dual_clip else loss,
        advantages=settings.chosen(config, "training.advantages"),
        normalise=settings.chosen(config, "training.normalise"),
        counted=settings.chosen(config, "training.zero_variance"),
        kl=settings.chosen(config, "training.kl"),
        truncation=settings.chosen(config, "training.truncation"),
        importance=truncated_importance(training.importance_cap) if training.importance_cap else None,
        microbatch=training.microbatch or None,
        inner_epochs=training.inner_epochs,
    )


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


def make_timeline(config, plan: Schedule) -> Timeline:
    federation = config.federation
    return experts_first(plan.length, federation.rounds, federation.own_rounds, federation.refresh, federation.num_clients)


def with_labelled(config, asked: Asked, timeline: Timeline) -> tuple[Asked, int]:
    """The questions with those that clients share with the server, and how many public ones have answers that it knows.

    Without an auxiliary event in the timeline, the server knows none and shares none.
    """
    if not any(timeline(number).kind == "auxiliary" for number in range(timeline.length)):
        return asked, 0
    labelled, public = config.federation.auxiliary, len(asked.split.public)
    if public <= labelled:
        raise ValueError(
            f"config.federation.auxiliary={labelled}: there are {public} public questions, and the server needs others "
            "without answers; lower federation.auxiliary, or raise data.public"
        )
    return asked._replace(split=overlapped(asked.split, config.federation.overlap, labelled, config.seed)), labelled
