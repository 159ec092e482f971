"""What no test may leave behind: changed switches, open figures, threads, files in the checkout."""

import os
import random
import sys
import threading
from pathlib import Path

# Workers share the machine, so each takes one core, as does every process of its tests. Torch reads it when imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
import torch._dynamo

# Imported here, for Lightning and dynamo set environment variables of their own when they are.
import lightning_interp  # noqa: F401
import tests.helpers.quick  # noqa: F401 - for what it changes

ROOT = Path(__file__).parents[1]
# Lightning sets these for the rest of the process.
LIGHTNINGS = {"CUBLAS_WORKSPACE_CONFIG", "PL_GLOBAL_SEED", "PL_SEED_WORKERS", "NCCL_SHM_DISABLE"}
written = set()


def note_writing(event, args):
    """Audit hook: files and folders that this process makes in the checkout, hidden ones and caches aside."""
    if event == "open":
        path, mode, flags = args
        writes = any(m in mode for m in "wxa+") if isinstance(mode, str) else bool(flags & (os.O_WRONLY | os.O_RDWR))
    elif event == "os.mkdir":
        path, writes = args[0], True
    else:
        return
    if writes and isinstance(path, str) and os.path.abspath(path).startswith(f"{ROOT}{os.sep}"):
        parts = Path(os.path.abspath(path)).relative_to(ROOT).parts
        if not any(part.startswith(".") or part == "__pycache__" for part in parts):
            written.add(os.path.join(*parts))


sys.addaudithook(note_writing)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Which tests go to one worker: those that start processes, which never run side by side, and those that share."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        if item.get_closest_marker("ddp"):
            item.add_marker(pytest.mark.xdist_group("processes"))
        elif shares_a_fixture(item):
            item.add_marker(pytest.mark.xdist_group(item.path.relative_to(ROOT).as_posix()))


def shares_a_fixture(item):
    """Whether the test uses what its module makes once, which a second worker would have to make again."""
    definitions = getattr(item, "_fixtureinfo", None)
    every = definitions.name2fixturedefs.values() if definitions else []
    return any(each.scope == "module" for several in every for each in several)


def switches():
    """Global state that changes what later tests compute."""
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "working directory": os.getcwd(),
        # Pytest writes the running test's own name there.
        "environment": {k: v for k, v in os.environ.items() if k not in LIGHTNINGS | {"PYTEST_CURRENT_TEST"}},
        "figures": sys.modules["matplotlib.pyplot"].get_fignums() if "matplotlib.pyplot" in sys.modules else [],
        "process group": torch.distributed.is_available() and torch.distributed.is_initialized(),
        "other threads": {t.name for t in threading.enumerate() if not t.daemon and t.is_alive()},
    }


@pytest.fixture(autouse=True)
def _no_trace():
    """Start each test from one random state, and fail it if it leaves a trace."""
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    before = switches()
    written.clear()
    yield
    after = switches()
    assert {name: (before[name], after[name]) for name in before if before[name] != after[name]} == {}
    assert not written, f"written into the checkout: {sorted(written)}"
    for name in LIGHTNINGS:
        os.environ.pop(name, None)
