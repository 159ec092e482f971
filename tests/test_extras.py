from importlib.metadata import metadata

import pytest

from lightning_interp import _extras
from lightning_interp._extras import available, require
from lightning_interp.errors import MissingExtraError
from tests.helpers.absent import hide


@pytest.fixture
def absent(monkeypatch):
    """As if none of the optional packages were installed."""
    hide(monkeypatch, _extras._EXTRA_OF)


@pytest.mark.usefixtures("absent")
@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("matplotlib.figure", "viz"),
        ("safetensors.numpy", "io"),
        ("networkx", "graph"),
        ("jsonargparse", "cli"),
        ("captum.attr", "attribution"),
    ],
)
def test_names_the_extra(module, extra):
    root = module.partition(".")[0]
    with pytest.raises(
        MissingExtraError, match=rf"{root} is not installed; run: pip install 'lightning-interp\[{extra}\]'"
    ):
        require(module)


def test_gives_what_is_installed():
    assert require("safetensors.numpy").__name__ == "safetensors.numpy"
    assert available("safetensors.numpy")
    assert not available("no_such_package_at_all")


def test_an_import_that_fails_inside_a_package_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "halfway.py").write_text("import no_such_package_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(_extras._EXTRA_OF, "halfway", "viz")
    with pytest.raises(ModuleNotFoundError, match="no_such_package_at_all") as caught:
        require("halfway")
    assert not isinstance(caught.value, MissingExtraError)


def test_every_extra_exists():
    assert set(_extras._EXTRA_OF.values()) <= set(metadata("lightning-interp").get_all("Provides-Extra"))
