"""What ``import lightning_interp`` gives, and what it does not load."""

import importlib
import inspect
import subprocess
import sys

import pytest

import lightning_interp
import lightning_interp.data

# Imported by torchmetrics or Lightning themselves where installed; we must not be the ones that load them.
OPTIONAL = ("matplotlib", "jsonargparse", "safetensors", "networkx")


@pytest.mark.parametrize("module", [lightning_interp, lightning_interp.data], ids=lambda m: m.__name__)
def test_every_public_name_exists_and_is_documented(module):
    assert module.__doc__
    assert list(module.__all__) == sorted(set(module.__all__))
    for name in module.__all__:
        thing = getattr(module, name)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        assert thing.__module__.startswith("lightning_interp")
        assert (thing.__doc__ or "").strip(), name
        assert not thing.__doc__.startswith(f"{name}("), f"{name} has only the docstring that dataclass writes"
        for method, member in vars(thing).items() if inspect.isclass(thing) else ():
            if inspect.isfunction(member) and not method.startswith("_"):
                assert inspect.getdoc(getattr(thing, method)), f"{name}.{method}"


def run(code):
    # Cython modules of third parties warn of a changed size when numpy differs from what they were built with.
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)


def test_import_warns_of_nothing_and_loads_nothing_optional():
    """Beside what the four libraries below load by themselves."""
    code = (
        "import sys, torch, torchvision, torchmetrics, pytorch_lightning\n"
        "before = set(sys.modules)\n"
        "import lightning_interp\n"
        f"print(sorted({{n.partition('.')[0] for n in set(sys.modules) - before}} & set({OPTIONAL!r})))\n"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_version_is_that_of_the_distribution():
    assert importlib.metadata.version("lightning-interp") == lightning_interp.__version__
