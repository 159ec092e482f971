"""Options are written once, shown where they arrive, and a misspelt or renamed one is named."""

import ast
import inspect
from pathlib import Path

import pytest

from lightning_interp import (
    ContextBias,
    ExplanatoryGraph,
    LocationInstability,
    NetworkDissection,
    diagnose,
    dissect,
    explanatory_graph,
    measure_parts,
)
from lightning_interp._options import passes_on, take
from tests.helpers.models import small_cnn
from tests.helpers.probes import RandomProbe

PACKAGE = Path(__file__).parents[1] / "lightning_interp"


def declarations(name):
    """Where an argument or field of that name is declared."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.arg) and node.arg == name:
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}"
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}"


@pytest.mark.parametrize("option", ["batch_size", "num_workers", "max_samples", "loader_timeout"])
def test_reading_is_declared_once(option):
    assert [place.partition(":")[0] for place in declarations(option)] == ["data/loading.py"]


@pytest.mark.parametrize(
    ("target", "defaults"),
    [
        (dissect, {"batch_size": 64, "max_samples": None, "byte_budget": 2**30, "top_k": 9, "quantile": None}),
        (
            NetworkDissection,
            {"batch_size": 64, "schedule": NetworkDissection, "gallery_rows": 10, "scalars": "headline"},
        ),
        (diagnose, {"max_samples": 512, "on_bad_image": "raise", "examples": 4}),
        (ContextBias, {"max_samples": 512, "alarm": 0.5, "name": "bias", "num_workers": 0}),
        (measure_parts, {"variant": "cvpr2018", "max_samples": None}),
        (LocationInstability, {"variant": "cvpr2018", "byte_budget": 2**30, "gallery_rows": 10}),
        (explanatory_graph, {"byte_budget": 2**31, "patterns": explanatory_graph, "category": None}),
        (ExplanatoryGraph, {"byte_budget": 2**31, "upsample": "receptive_field", "timeout": 600.0}),
    ],
)
def test_defaults_are_those_of_the_method(target, defaults):
    shown = inspect.signature(target).parameters
    for name, default in defaults.items():
        # The target itself stands for some default, whichever.
        assert shown[name].default == default or (default is target and shown[name].default is not inspect._empty)


def test_a_misspelt_option_is_named_with_whom_it_was_given_to():
    probe, net = RandomProbe(4), small_cnn()
    with pytest.raises(TypeError, match=r"^dissect: unknown option 'quantil'; did you mean 'quantile'"):
        dissect(net, probe, quantil=0.1)
    with pytest.raises(TypeError, match=r"^NetworkDissection: unknown option 'schedul'; did you mean 'schedule'"):
        NetworkDissection(probe, schedul=None)
    with pytest.raises(TypeError, match=r"^explanatory_graph: unknown option 'patern'; did you mean 'pattern"):
        explanatory_graph(net, probe, ["1"], patern=3)


def test_old_names_are_taken_with_a_warning():
    probe, net = RandomProbe(6), small_cnn()
    with pytest.warns(DeprecationWarning, match="option 'images' is called 'area_images' now"):
        old = dissect(net, probe, ["1"], images="all")
    new = dissect(net, probe, ["1"], area_images="all")
    assert old.settings == new.settings
    assert old.settings["images"] == "all"
    with (
        pytest.warns(DeprecationWarning, match="option 'category' is called 'category_attribute' now"),
        pytest.raises(ValueError, match="attribute"),
    ):
        measure_parts(net, probe, ["1"], measures=["interpretability"], category="species")


def test_options_are_shared_out():
    def engine(probe, *, top_k=9, rows=3): ...

    def base(*, name="x", rows=5): ...

    @passes_on(engine, base, omit=("top_k",))
    def made(probe, *, own=1, **options):
        return own, take(options, base), options

    assert str(inspect.signature(made)) == "(probe, *, own=1, rows=5, name='x')"
    assert made(0, name="y", own=2) == (2, {"name": "y"}, {})
