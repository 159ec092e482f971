"""Import paths of before the methods got packages of their own still work, and say where things are now."""

import inspect
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path

import pytest

from lightning_interp import _moved

# Every name in an ``__all__``, the README, a recipe, a config or a public docstring of version 0.1, each with the
# arguments that it takes by name.
LINES = (Path(__file__).parent / "names_of_0_1.txt").read_text().splitlines()
NAMES = {name: arguments for name, *arguments in map(str.split, LINES)}


def found(dotted):
    """What a dotted name stands for: the longest module of it, then attributes."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            thing = import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            thing = getattr(thing, name)
        return thing
    raise AssertionError(f"nothing is called {dotted}")


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_before_is_found(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert found(name) is not None


@pytest.mark.parametrize("name", [name for name, arguments in NAMES.items() if arguments])
def test_every_argument_of_before_is_taken(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        taken = inspect.signature(found(name)).parameters
    assert [argument for argument in NAMES[name] if argument not in taken] == []


def test_an_old_path_warns_of_the_new_one_where_it_is_used():
    with pytest.warns(DeprecationWarning, match=r"moved to lightning_interp\.methods\.graph\.options") as seen:
        from lightning_interp.graphs.options import GraphOptions
    assert seen[0].filename == __file__
    import lightning_interp

    assert GraphOptions is lightning_interp.GraphOptions


def test_an_old_module_has_no_other_names():
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        from lightning_interp.graphs.options import nothing  # noqa: F401


@pytest.mark.parametrize("new", sorted({new for new in _moved.MODULES.values() if new}))
def test_every_new_place_exists(new):
    assert import_module(f"lightning_interp.{new}")


def test_nothing_of_the_package_uses_an_old_path():
    code = (
        "import warnings; warnings.simplefilter('error', DeprecationWarning); import lightning_interp, pkgutil\n"
        "for module in pkgutil.walk_packages(lightning_interp.__path__, 'lightning_interp.'):\n"
        "    __import__(module.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
