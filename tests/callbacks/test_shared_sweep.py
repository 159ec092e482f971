"""Callbacks that probe the same images share one sweep, and find to the bit what each finds alone."""

from datetime import timedelta

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EMAWeightAveraging, LambdaCallback, ModelCheckpoint
from torch import nn

from lightning_interp import ContextBias, Every, NetworkDissection, RenderedFaces
from lightning_interp.methods.parts.callback import LocationInstability, PartInterpretability
from lightning_interp.probing.engine import measure_together
from lightning_interp.probing.ranks import Ranks
from tests.helpers.harmless import differences, fit
from tests.helpers.lightning import loader, make_module, make_trainer
from tests.helpers.parts import SpotProbe
from tests.helpers.quiet import LIGHTNING_NOISE
from tests.helpers.ranks import run_ranks, values
from tests.helpers.results import assert_same_counts
from tests.methods.parts.test_engine import assert_same

pytestmark = [
    *map(pytest.mark.filterwarnings, LIGHTNING_NOISE),
    # What these tests are about.
    pytest.mark.filterwarnings("ignore:.*listed after EMAWeightAveraging"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]
LAYERS = ["features.4"]
IMAGES = 7
OPTIONS = {"batch_size": 3}
BATCHES = 3


def spots(images=IMAGES):
    return SpotProbe(images, side=24)


def dissection(probe, **options):
    return NetworkDissection(probe, LAYERS, quantile=0.05, report=False, gallery_rows=1, top_k=2, **OPTIONS | options)


def location(probe, layers=LAYERS, **options):
    return LocationInstability(probe, layers, **OPTIONS | options)


def parts(probe, layers=LAYERS, **options):
    return PartInterpretability(probe, layers, **OPTIONS | options)


class Passes(Callback):
    """Counts forward passes, step by step: list it first. Those of a batch of a probe have three rows."""

    def __init__(self):
        self.number = 0

    def setup(self, trainer, module, stage):
        def count(_module, args):
            self.number += len(args[0]) == 3

        module.register_forward_pre_hook(count)


def train(path, callbacks, epochs=1, **options):
    passes = Passes()
    trainer = make_trainer(path, callbacks=[passes, *callbacks], max_epochs=epochs, num_sanity_val_steps=0, **options)
    trainer.fit(make_module(), loader(), loader(shuffle=False))
    return passes.number


def assert_as_alone(path, callbacks, alone, **options):
    """Each has what its twin of ``alone`` finds by itself."""
    for number, (shared, single) in enumerate(zip(callbacks, alone, strict=True)):
        train(path / f"alone{number}", [single], **options)
        same = assert_same_counts if isinstance(shared, NetworkDissection) else assert_same
        same(shared.result, single.result)


def three(probe=spots, **options):
    return [make(probe(), **options) for make in (dissection, location, parts)]


@pytest.mark.parametrize("budget", [2**30, 0])
def test_one_sweep_for_three_with_unchanged_results(tmp_path, budget):
    callbacks = [dissection(spots(), byte_budget=budget), location(spots()), parts(spots(), byte_budget=budget)]
    alone = [dissection(spots(), byte_budget=budget), location(spots()), parts(spots(), byte_budget=budget)]
    # Before training and after each of two epochs, and as often again for what was not held.
    assert train(tmp_path, callbacks, epochs=2) == 3 * BATCHES * (1 if budget else 2)
    assert [callback.result.meta["epoch"] for callback in callbacks] == [1, 1, 1]
    assert [callback.result.meta["name"] for callback in callbacks] == ["dissect", "location", "parts"]
    assert_as_alone(tmp_path, callbacks, alone, epochs=2)


def test_layers_may_differ(tmp_path):
    probe = spots()
    callbacks = [dissection(probe), location(probe, ["features.2"]), parts(probe, ["features.2", "features.4"])]
    alone = [dissection(probe), location(probe, ["features.2"]), parts(probe, ["features.2", "features.4"])]
    assert train(tmp_path, callbacks) == 2 * BATCHES
    assert_as_alone(tmp_path, callbacks, alone)


@pytest.mark.parametrize(
    ("other", "passes"),
    [
        ({}, 2 * BATCHES),
        ({"schedule": Every(at_start=False)}, 2 * BATCHES),
        ({"max_samples": 5}, 2 * BATCHES + 2 * 2),
        ({"probe": spots(4)}, 2 * BATCHES + 2 * 2),
    ],
)
def test_only_the_same_images_at_the_same_moment(tmp_path, other, passes):
    assert train(tmp_path, [dissection(spots()), location(**{"probe": spots()} | other)]) == passes


def test_batches_of_another_size_are_not_shared(tmp_path):
    callbacks, alone = ([dissection(spots()), location(spots(), batch_size=4)] for _ in range(2))
    assert train(tmp_path, callbacks) == 2 * BATCHES
    assert_as_alone(tmp_path, callbacks, alone)


def test_schedules_meet_where_they_do(tmp_path):
    often = location(spots(), schedule=Every())
    seldom = parts(spots(), schedule=Every(n_epochs=2, at_end=False))
    # The second takes part in epochs 0 and 2 of 0...3.
    assert train(tmp_path, [seldom, often], epochs=4) == 4 * BATCHES
    assert (seldom.result.meta["epoch"], often.result.meta["epoch"]) == (2, 3)


class Shaking(Callback):
    """Changes the network between two probes."""

    def on_validation_epoch_end(self, trainer, module):
        with torch.no_grad():
            module.features[4].weight.neg_()


@pytest.mark.parametrize("between", [Shaking, lambda: EMAWeightAveraging(decay=0.5)])
def test_a_callback_between_that_may_change_the_network_parts_them(tmp_path, between):
    def pair():
        return [location(spots(), schedule=Every()), parts(spots(), schedule=Every())]

    (first, second), (_, alone) = pair(), pair()
    assert train(tmp_path / "a", [first, between(), second]) == 2 * BATCHES
    train(tmp_path / "b", [between(), alone])
    assert_same(second.result, alone.result)


def test_a_callback_between_that_does_nothing_then_does_not(tmp_path):
    between = [LambdaCallback(on_train_batch_end=lambda *args: None), ModelCheckpoint(tmp_path)]
    callbacks = [location(spots()), *between, parts(spots())]
    assert train(tmp_path, callbacks, enable_checkpointing=True) == 2 * BATCHES
    acting = LambdaCallback(on_validation_epoch_end=lambda *args: None)
    assert train(tmp_path, [location(spots()), acting, parts(spots())]) == 3 * BATCHES


def test_interventions_sweep_alone_and_part_nobody(tmp_path):
    faces = RenderedFaces(IMAGES, size=32)
    bias = ContextBias(faces, "lipstick", "mouth", {"makeup": "eyes"}, checks=["occlusion"], batch_size=5, examples=0)
    callbacks = [location(faces), bias, parts(faces, parts=["nose"])]
    assert train(tmp_path, callbacks) == 2 * BATCHES
    assert bias.result is not None


def test_validation_alone_and_without_validation(tmp_path):
    callbacks, passes = three(), Passes()
    trainer = make_trainer(tmp_path, callbacks=[passes, *callbacks])
    for turn in (1, 2):
        # A new module each time: what was found of the one before is not taken for it.
        module = make_module()
        passes.number = 0
        torch.manual_seed(turn)
        module.features[4].weight.data.normal_()
        trainer.validate(module, loader(shuffle=False), verbose=False)
        assert passes.number == BATCHES
        alone = location(spots())
        alone.meter.describe(module)
        assert_same(callbacks[1].result, alone.meter(module))
    for callback in callbacks:
        callback.schedule = Every()
    passes.number = 0
    trainer = make_trainer(tmp_path, callbacks=[passes, *callbacks], max_epochs=1)
    trainer.fit(make_module(validation=False), loader())
    assert passes.number == BATCHES
    assert [callback.result.meta["epoch"] for callback in callbacks] == [0, 0, 0]


def test_training_with_all_three_is_bit_identical(tmp_path):
    traces = [fit(tmp_path / str(len(callbacks)), callbacks)[0] for callbacks in ([], three())]
    for trace in traces:
        for entry in trace:
            entry.pop("metrics", None)
    assert differences(*traces) == []


def test_resume(tmp_path):
    saving = ModelCheckpoint(tmp_path, save_last=True, save_top_k=0)
    train(tmp_path, [*three(), saving], epochs=1, enable_checkpointing=True)
    callbacks, passes = three(), Passes()
    again = ModelCheckpoint(tmp_path, save_last=True, save_top_k=0)
    trainer = make_trainer(tmp_path, callbacks=[passes, *callbacks, again], enable_checkpointing=True)
    trainer.fit(make_module(), loader(), loader(shuffle=False), ckpt_path=tmp_path / "last.ckpt")
    assert passes.number == BATCHES
    assert [callback.result.meta["epoch"] for callback in callbacks] == [1, 1, 1]


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(inplace=True), nn.Conv2d(6, 5, 3))


def on_rank(rank, world, together):
    ranks = Ranks.connect(timedelta(seconds=30)) if world > 1 else Ranks()
    net, engines = small_net(), [callback.engine for callback in three()]
    for engine in engines:
        engine.layers = ["1", "2"]
    if together:
        return measure_together(engines, net, ranks, [{}, {}, {}])
    return [engine(net, ranks=ranks) for engine in engines]


@pytest.mark.ddp
@pytest.mark.timeout(90)
def test_two_processes_together_equal_one_alone():
    alone = on_rank(0, 1, False)
    for results in values(run_ranks(on_rank, 2, True, timeout=60)):
        assert_same_counts(results[0], alone[0])
        for shared, single in zip(results[1:], alone[1:], strict=True):
            assert_same(shared, single)
