"""The method in ``lightning_interp/methods/README.md`` works as it stands."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from lightning_interp import load
from lightning_interp.data.loading import scaled
from lightning_interp.results.base import Result
from tests.helpers.lightning import loader, make_module, make_trainer
from tests.helpers.models import small_cnn
from tests.helpers.probes import RandomProbe
from tests.helpers.quiet import LIGHTNING_NOISE

pytestmark = [*map(pytest.mark.filterwarnings, LIGHTNING_NOISE)]

README = Path(__file__).parents[2] / "lightning_interp" / "methods" / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def method(tmp_path, monkeypatch):
    """The block as a module of its own; afterwards nothing knows of it."""
    (block,) = BLOCKS
    (tmp_path / "firing_method.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(Result, "_kinds", dict(Result._kinds))
    importlib.invalidate_caches()
    yield importlib.import_module("firing_method")
    sys.modules.pop("firing_method", None)


def test_the_block_is_small():
    (block,) = BLOCKS
    lines = block.splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 120


def test_it_measures_a_small_net(method, tmp_path):
    probe, net = RandomProbe(7), small_cnn()
    images = scaled(torch.stack([probe.image(index) for index in range(7)]))
    peaks = net[:2](images).detach().amax((2, 3))
    level = float(peaks.mean())
    result = method.FiringMeter(probe, ["1"], level=level, batch_size=3).once(net)
    share = (peaks > level).double().mean(0)
    assert 0 < float(share.mean()) < 1
    assert torch.equal(result["1"].share, share)
    assert result.settings["level"] == level
    assert result.headline() == {"1/mean_share": float(share.mean()), "1/dead": float((share == 0).sum())}
    assert torch.equal(load(result.save(tmp_path / "saved").parent)["1"].share, share)


def test_it_watches_a_training(method, tmp_path):
    callback = method.Firing(RandomProbe(7), ["features.2"], batch_size=3)
    saving = ModelCheckpoint(tmp_path / "saved", monitor="firing/features.2/mean_share", save_top_k=-1)
    trainer = make_trainer(tmp_path, callbacks=[callback, saving], enable_checkpointing=True)
    trainer.fit(make_module(), loader(), loader(shuffle=False))
    assert [entry["epoch"] for entry in callback.history] == [-1, 0, 1]
    assert {"firing/features.2/dead", "firing/seconds"} <= set(trainer.callback_metrics)
    assert {path.name for path in (tmp_path / "interp" / "firing").iterdir()} == {"start", "epoch_0000", "epoch_0001"}


def test_a_trial_run_looks_at_one_batch(method, tmp_path):
    callback = method.Firing(RandomProbe(7), ["features.2"], batch_size=3)
    trainer = make_trainer(tmp_path, callbacks=[callback], fast_dev_run=True)
    trainer.fit(make_module(), loader(), loader(shuffle=False))
    assert callback.result.num_images == 3


def test_a_misspelt_option_is_named(method):
    with pytest.raises(TypeError, match="did you mean 'level'"):
        method.Firing(RandomProbe(7), ["1"], levle=0.5)
