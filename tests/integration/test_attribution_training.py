"""Attribution by captum within trainings: nothing of them changes, and what is told is the same everywhere."""

import pytest
import torch
from pytorch_lightning import Callback
from torch import nn

from lightning_interp.errors import LayerError
from lightning_interp.probing.evidence.attribution import ATTRIBUTIONS
from tests.helpers.bias import make_bias
from tests.helpers.harmless import differences, fit, module_state, noisy_loader, random_state
from tests.helpers.lightning import loader, make_module, make_trainer
from tests.helpers.quiet import LIGHTNING_NOISE

pytest.importorskip("captum")
pytestmark = [pytest.mark.timeout(120), *map(pytest.mark.filterwarnings, LIGHTNING_NOISE)]

BY_CAPTUM = [method for method in ATTRIBUTIONS if method != "gradient_x_activation"]
# Behind a convolution, so that another one, BatchNorm and in-place ReLUs are in the way.
OPTIONS = {"checks": ("attribution",), "layer": "features.0", "outputs": None}


def by_layers():
    """The small classifier with a head of layers alone, and children that no forward pass runs."""
    module = make_module()
    module.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))
    module.loss, module.unused = nn.CrossEntropyLoss(), nn.SiLU()
    module.forward = lambda x: module.head(module.features(x))
    return module


def states(module):
    return {name: module_state(part) for name, part in module.named_modules()}, random_state()


@pytest.mark.parametrize("method", BY_CAPTUM)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_is_bit_identical(tmp_path, method, precision):
    without, _, _ = fit(tmp_path / "without", [], module=by_layers, precision=precision)
    bias = make_bias(attribution=method, **OPTIONS)
    trace, _, trainer = fit(tmp_path / "with", [bias], module=by_layers, precision=precision)
    bare, watched = (
        [{k: v for k, v in entry.items() if k != "metrics"} for entry in each] for each in (without, trace)
    )
    assert not differences(bare, watched)
    assert [entry["epoch"] for entry in bias.history] == [-1, 0, 1]
    assert 0 < float(trainer.callback_metrics["bias/lipstick/mass"]) < 1


@pytest.mark.parametrize("method", BY_CAPTUM)
def test_validation_alone_runs_in_inference_mode_and_leaves_no_trace(tmp_path, method):
    module, seen = by_layers(), {}

    class Look(Callback):
        def __init__(self, when):
            self.when = when

        def on_validation_epoch_end(self, trainer, module):
            seen[self.when] = torch.is_inference_mode_enabled(), states(module)

    bias = make_bias(attribution=method, **OPTIONS)
    trainer = make_trainer(tmp_path, callbacks=[Look("before"), bias, Look("after")])
    (metrics,) = trainer.validate(module, noisy_loader(shuffle=False), verbose=False)
    assert seen["before"][0]
    assert seen["before"] == seen["after"]
    assert 0 < metrics["bias/lipstick/mass"] < 1
    # A training that follows refuses whatever was made in inference mode.
    trainer.fit(module, noisy_loader(), noisy_loader(shuffle=False))
    assert bias.history[0]["scalars"]["lipstick/mass"] == pytest.approx(metrics["bias/lipstick/mass"], abs=1e-6)


def test_several_are_several_callbacks(tmp_path):
    callbacks = [make_bias(attribution=method, name=method, **OPTIONS) for method in ATTRIBUTIONS]
    trainer = make_trainer(tmp_path, callbacks=callbacks, max_epochs=1)
    trainer.fit(by_layers(), loader(), loader(shuffle=False))
    masses = [float(trainer.callback_metrics[f"{method}/lipstick/mass"]) for method in ATTRIBUTIONS]
    assert len(set(masses)) == len(ATTRIBUTIONS)
    tags = [{tag.partition("/")[2] for tag in trainer.callback_metrics if tag.startswith(m)} for m in ATTRIBUTIONS]
    assert all(own == tags[0] for own in tags)


def test_what_lrp_cannot_follow_is_named_before_the_first_step(tmp_path):
    class Never(Callback):
        def on_train_start(self, trainer, module):
            raise AssertionError("too late")

    # Its forward() takes a mean.
    module = make_module()
    before = states(module.features)[0]
    trainer = make_trainer(tmp_path, callbacks=[make_bias(attribution="lrp", **OPTIONS), Never()])
    with pytest.raises(LayerError, match="'lrp' cannot follow what forward"):
        trainer.fit(module, loader(), loader(shuffle=False))
    assert states(module.features)[0] == before
