"""Checkpoints of an earlier version go on: those in `tests/golden/checkpoints`, of two epochs, one callback each."""

import pytest
import torch
from pytorch_lightning import Callback

from tests.golden.cases import make_trainer
from tests.golden.make import CHECKPOINTS, MONITORS, one_thread
from tests.golden.network import GoldenModule, face_loader
from tests.helpers.quiet import LIGHTNING_NOISE

pytestmark = [pytest.mark.filterwarnings(text) for text in LIGHTNING_NOISE]


class AtStart(Callback):
    """Keeps the scores that there are before the first probe of the training that goes on; list it last."""

    def on_train_start(self, trainer, module):
        self.scores = {tag: float(value) for tag, value in trainer.callback_metrics.items()}


def saved_state(name):
    (state,) = torch.load(CHECKPOINTS / f"{name}.ckpt", weights_only=True)["callbacks"].values()
    return state


def resume(name, path):
    """One more epoch: the callback, the scores before it and those after it."""
    callback, start = MONITORS[name](), AtStart()
    trainer = make_trainer(path, [callback, start], max_epochs=3)
    with one_thread():
        # No weights_only: the default has to do.
        trainer.fit(GoldenModule(), face_loader(), face_loader(), ckpt_path=CHECKPOINTS / f"{name}.ckpt")
    after = {tag: float(value) for tag, value in trainer.callback_metrics.items()}
    return callback, start.scores, after


@pytest.mark.parametrize("name", MONITORS)
def test_goes_on(name, tmp_path):
    before = saved_state(name)
    callback, start, after = resume(name, tmp_path)
    assert before["last_epoch"] == 1
    assert callback.last_epoch == 2
    # The scores of the epoch before are there to be monitored, until they are taken again.
    assert start == pytest.approx(before["values"], nan_ok=True)
    assert len(start) >= 15
    own = {tag for tag in after if tag.startswith(f"{callback.name}/")}
    # Whether a score is known came later.
    assert {tag for tag in own if "_known" not in tag} == set(before["values"])
    assert callback.state_dict()["values"].keys() == own
    # The epochs of the checkpoint are not probed again.
    probed = {path.name for path in (tmp_path / "interp" / callback.name).iterdir() if path.is_dir()}
    assert probed - {"end", "report_images"} == {"epoch_0002"}


@pytest.mark.parametrize("name", MONITORS)
def test_state_is_of_its_callback(name):
    saved = torch.load(CHECKPOINTS / f"{name}.ckpt", weights_only=True)["callbacks"]
    assert list(saved) == [MONITORS[name]().state_key]


def test_dissection_keeps_history_and_gallery(tmp_path):
    before = saved_state("dissection")
    callback, _, after = resume("dissection", tmp_path)
    assert [entry["epoch"] for entry in callback.history] == [-1, 0, 1, 2]
    for old, new in zip(before["history"], callback.history, strict=False):
        assert (old["step"], old["scalars"]) == (new["step"], new["scalars"])
        assert all(torch.equal(old["detects"][layer], new["detects"][layer]) for layer in old["detects"])
    assert set(before["gallery"]) == set(callback.history[-1]["detects"])
    assert callback.state_dict()["gallery"] == before["gallery"]
    # What changed is counted from the last epoch of the checkpoint.
    for layer, now in callback.history[-1]["detects"].items():
        then = before["history"][-1]["detects"][layer]
        assert after[f"dissect/{layer}/born"] == int(((then < 0) & (now >= 0)).sum())


def test_bias_keeps_history_and_the_untrained_network(tmp_path):
    before = saved_state("bias")
    callback, start, after = resume("bias", tmp_path)
    assert [entry["epoch"] for entry in callback.history] == [-1, 0, 1, 2]
    assert [entry["scalars"] for entry in callback.history[:3]] == [
        pytest.approx(entry["scalars"], nan_ok=True) for entry in before["history"]
    ]
    assert callback.untrained == pytest.approx(before["untrained"], nan_ok=True)
    untrained = {tag: value for tag, value in before["values"].items() if "_untrained" in tag}
    assert len(untrained) >= 10
    for scores in (start, after):
        assert {tag: scores[tag] for tag in untrained} == pytest.approx(untrained, nan_ok=True)
