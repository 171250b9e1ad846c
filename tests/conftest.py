"""Every test runs on 8 CPU devices, raises on silent rank promotion and owns its keys."""

import gc
import hashlib
import importlib.metadata
import os
import shutil
import tempfile

# Tests compile far more than they compute, so XLA need not optimise, and one kernel for each operation compiles in half the
# time of fused ones.
FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later versions do not know this flag, and abort
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A program that one test, worker or process has compiled is read by the others from a folder that lasts as long as the tests.
OWN_FOLDER = "JAX_COMPILATION_CACHE_DIR" not in os.environ  # workers and processes find the variable set
if OWN_FOLDER:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="pubswap-compiled-")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import pathlib

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


def third_of(nodeid: str) -> int:
    """Which third of the slow tests a test belongs to: the same one on every machine."""
    return int(hashlib.sha256(nodeid.encode()).hexdigest(), 16) % 3


def pytest_unconfigure():
    if OWN_FOLDER:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


def pytest_collection_modifyitems(config, items):
    """PUBSWAP_SLOW_THIRD=0, 1 or 2 leaves out the slow tests of the other two thirds."""
    third = os.environ.get("PUBSWAP_SLOW_THIRD", "")
    if not third:
        return
    if third not in ("0", "1", "2"):
        raise pytest.UsageError(f"PUBSWAP_SLOW_THIRD={third}: 0, 1 or 2 expected, or nothing for all slow tests")
    out = [item for item in items if item.get_closest_marker("slow") and third_of(item.nodeid) != int(third)]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]


@pytest.fixture(autouse=True, scope="module")
def _a_small_heap():
    """What a file traced and compiled is frozen at its end: else the collector walks through all of it, seconds at a time."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture
def getkey():
    """A fresh key at every call, the same ones in every run."""
    calls = iter(range(1 << 30))
    return lambda: jax.random.fold_in(jax.random.key(0), next(calls))


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real data named by PUBSWAP_DATA; tests that need it are skipped where it is not set."""
    folder = os.environ.get("PUBSWAP_DATA")
    if not folder or not pathlib.Path(folder).is_dir():
        pytest.skip("PUBSWAP_DATA names no folder of real data")
    return pathlib.Path(folder)
