"""What no test may leave behind: changed switches, open figures, threads, files in the checkout; what runs together."""

import json
import os
import random
import sys
import tempfile
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


# --- Which tests run on one worker of pytest-xdist -------------------------------------------------------------------

# By a file: xdist 3.8 loses the groups of --dist loadgroup with pytest 9.2 (pytest-dev/pytest-xdist#1386).
GROUPS = pytest.StashKey[tempfile.TemporaryDirectory]()


def group_of(item):
    """The group that a test runs in: tests that start processes never run side by side; None for most."""
    if asked := item.get_closest_marker("xdist_group"):
        return asked.args[0]
    if item.get_closest_marker("ddp"):
        return "processes"
    # What a module makes once, a second worker would have to make again.
    fixtures = getattr(item, "_fixtureinfo", None)
    shared = fixtures and any(each.scope == "module" for some in fixtures.name2fixturedefs.values() for each in some)
    return str(item.path) if shared else None


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.stash[GROUPS] = folder = tempfile.TemporaryDirectory()
        config.add_cleanup(folder.cleanup)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """Tell a worker where to write the groups."""
    node.workerinput["groups"] = os.path.join(node.config.stash[GROUPS].name, node.workerinput["workerid"])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session):
    """On a worker: write them, before xdist tells that the tests are collected."""
    if hasattr(session.config, "workerinput"):
        groups = {item.nodeid: group for item in session.items if (group := group_of(item))}
        Path(session.config.workerinput["groups"]).write_text(json.dumps(groups))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def schedule(self):
            self.groups = {}
            for file in Path(config.stash[GROUPS].name).iterdir():
                self.groups |= json.loads(file.read_text())
            super().schedule()

        def _split_scope(self, nodeid):
            return self.groups.get(nodeid, nodeid)

    return Scheduling(config, log)


# --- What is compared around each test -------------------------------------------------------------------------------


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
