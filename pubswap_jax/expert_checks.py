"""What `checks` says about FedGRPO's settings: impossible values, and settings without effect."""

from collections.abc import Mapping
from typing import Any

from pubswap_jax.field_table import DEFAULT

# Values that FedGRPO can have: field -> the values.
_ALLOWED = {
    "mesh.client": (1,),
    "mesh.data": (1,),
    "mesh.model": (1,),
    "training.advantages": ("group", "centred"),
    "training.kl_in": ("loss",),
    "training.swap_weight": (1,),
    "reward.functions": ("",),
}

# Fields of the section federation that FedGRPO alone reads, and those that all other ways of federating read.
_ITS_OWN = "experts neighbours auxiliary refresh choice compare overlap own_rounds adapters"
_OF_OTHERS = "participants swap swap_period swap_unit average aggregate moments weights heads"


def impossible(flat: Mapping[str, Any]) -> str:
    """One line about the first value that FedGRPO cannot have; empty if all are possible."""
    if flat["federation.method"] != "fedgrpo":
        return ""
    clients, folders = flat["federation.num_clients"], [name for name in flat["federation.adapters"].split(",") if name.strip()]
    if flat["federation.experts"] > clients:
        return f"federation.experts={flat['federation.experts']}: there are {clients} clients"
    if folders and len(folders) != clients:
        return f"federation.adapters: {clients} folders expected, one a client, got {len(folders)}"
    own, rounds = flat["federation.own_rounds"], flat["federation.rounds"]
    if own >= rounds:
        return f"federation.own_rounds={own}: fewer than federation.rounds={rounds} expected, for the policy learns after them"
    if flat["federation.steps"] < 2:
        return "federation.steps=1: at least 2 expected, since a step of a public round measures the clients' competence"
    for name, allowed in _ALLOWED.items():
        if flat[name] not in allowed:
            expected = " or ".join(str(value) if value != "" else "an empty text" for value in allowed)
            return f"{name}={flat[name]}: {expected} expected with federation.method=fedgrpo"
    return ""


def idle(flat: Mapping[str, Any]) -> str:
    """One line about the first setting that has no effect with, or without, FedGRPO; empty if there is none."""
    method = flat["federation.method"]
    for leaf in (_OF_OTHERS if method == "fedgrpo" else _ITS_OWN).split():
        name = f"federation.{leaf}"
        if flat[name] != DEFAULT[name]:
            usual = DEFAULT[name] if DEFAULT[name] != "" else "an empty text"
            return f"{name}={flat[name]}: no effect with federation.method={method}; set {name} to {usual}"
    return ""
