"""The filter losses inside a training: the same as by hand, on any number of processes, told before it hurts."""

import copy
import math

import pytest
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interp.errors import DatasetError, LayerError
from lightning_interp.losses import LabelConditionedLoss, Ramp
from lightning_interp.methods.filters.callback import InterpretableFilters
from lightning_interp.methods.filters.maths.filter_losses import FilterLoss
from lightning_interp.methods.filters.maths.mutual_information import mutual_information
from lightning_interp.methods.filters.maths.spatial_compactness import spatial_compactness
from tests.helpers.lightning import make_trainer
from tests.helpers.quiet import LIGHTNING_NOISE
from tests.helpers.ranks import run_ranks, values

pytestmark = [pytest.mark.filterwarnings(text) for text in LIGHTNING_NOISE]
pytestmark += [pytest.mark.filterwarnings(r"ignore:Checkpoint directory .* exists and is not empty")]
CLASSES = 3


class Net(LightningModule):
    """Without anything random, and without batch statistics, so that a batch may be split."""

    def __init__(self, rate=0.05):
        super().__init__()
        torch.manual_seed(0)
        self.rate = rate
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 6, 3, padding=1),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.rate)


def data(num=24):
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(torch.rand(num, 3, 12, 10, generator=generator), torch.arange(num) % CLASSES)


def fit(path, callback, module=None, *, batch_size=6, dataset=None, fit_options=None, **options):
    module = module or Net()
    trainer = make_trainer(path, callbacks=[callback] if callback else [], **{"max_epochs": 3} | options)
    trainer.fit(module, DataLoader(dataset or data(), batch_size), **fit_options or {})
    return trainer, module


def by_hand(loss_of, *, epochs=3, accumulate=1, start_epoch=1, weight=0.5):
    """A plain loop, with the loss written out."""
    module = Net()
    optimizer = torch.optim.SGD(module.parameters(), lr=module.rate)
    batches = list(DataLoader(data(), 6))
    for epoch in range(epochs):
        loss_of.epoch()
        for step, (images, labels) in enumerate(batches, 1):
            maps = module.features(images)
            extra = loss_of(maps, labels)
            loss = nn.functional.cross_entropy(module.head(maps.mean((2, 3))), labels)
            if epoch >= start_epoch:
                loss = loss + weight * extra
            (loss / accumulate).backward()
            if step % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
    return module


class Labelled:
    def __init__(self):
        self.loss, self.steps = LabelConditionedLoss(6, CLASSES), 0

    def epoch(self):
        if self.steps:
            self.loss.assignment.reassign()

    def __call__(self, maps, labels):
        found = self.loss(maps, labels)
        if not self.steps:
            self.loss.assignment.reassign()
        self.steps += 1
        return found.loss


class Free:
    def __init__(self, function):
        self.function = function

    def epoch(self):
        pass

    def __call__(self, maps, labels):
        return self.function(maps)


BY_HAND = {
    "label_conditioned": Labelled,
    "mutual_information": lambda: Free(mutual_information),
    "spatial_compactness": lambda: Free(spatial_compactness),
}


def same(module, other, tolerance=0.0):
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("loss", BY_HAND)
def test_training_equals_a_loop_with_the_loss_written_out(tmp_path, loss, accumulate):
    callback = InterpretableFilters(["features"], CLASSES, loss=loss, weight=0.5)
    _, module = fit(tmp_path, callback, accumulate_grad_batches=accumulate)
    # Added to the step's loss in another order: the last bits differ, and steps of this size make more of them.
    same(module, by_hand(BY_HAND[loss](), accumulate=accumulate), 1e-4)
    _, without = fit(tmp_path, None, accumulate_grad_batches=accumulate)
    assert not torch.equal(module.features[0].weight, without.features[0].weight)


def test_without_weight_training_is_bit_identical(tmp_path):
    _, without = fit(tmp_path, None)
    trainer, module = fit(tmp_path, InterpretableFilters(["features"], CLASSES, weight=0.0))
    same(module, without)
    assert trainer.callback_metrics["filters/weight"] == 0
    assert not module.features._forward_hooks
    assert "training_step" not in vars(module)


def test_scalars_of_every_layer(tmp_path):
    callback = InterpretableFilters(["features.1", "features"], CLASSES, weight=Ramp(0.1, start_epoch=1, epochs=2))
    trainer, _ = fit(tmp_path, callback)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert found["filters/weight"] == pytest.approx(0.1)
    names = ("loss", "dead", "mean_peak", "negative_share", "fewest_filters", "most_filters", "reassigned")
    assert {f"filters/{layer}/{name}" for layer in ("features.1", "features") for name in names} <= set(found)
    assert (found["filters/features.1/fewest_filters"], found["filters/features.1/most_filters"]) == (2, 3)
    assert found["filters/features/fewest_filters"] == found["filters/features/most_filters"] == 2
    assert found["filters/features/mean_peak"] > 0


def split(rank, world, folder, dataset, classes):
    """Train on this process' part of every batch."""
    part = torch.utils.data.Subset(dataset, [i for i in range(len(dataset)) if i % world == rank])
    callback = InterpretableFilters(["features"], classes, weight=0.5)
    options = {"strategy": "ddp", "devices": world} if world > 1 else {}
    _, module = fit(folder, callback, dataset=part, batch_size=6 // world, use_distributed_sampler=False, **options)
    return module.state_dict(), callback.losses["features"].state_dict()


@pytest.mark.ddp
@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", ["mixed", "one rank without positives"])
def test_two_processes_train_as_one(tmp_path, case):
    dataset, classes = data(), CLASSES
    if case != "mixed":
        # Even images, those of rank zero, are of class 0 and 1; odd ones of class 2.
        labels = torch.tensor([2 if i % 2 else i // 2 % 2 for i in range(24)])
        dataset = TensorDataset(dataset.tensors[0], labels)
    alone, kept = split(0, 1, tmp_path / "1", dataset, classes)
    for weights, statistics in values(run_ranks(split, 2, tmp_path / "2", dataset, classes, timeout=80)):
        for name, value in alone.items():
            torch.testing.assert_close(weights[name], value, rtol=1e-6, atol=1e-6, msg=name)
        assert torch.equal(statistics["assignment.assignment"], kept["assignment.assignment"])
        torch.testing.assert_close(statistics["assignment.mean_peak"], kept["assignment.mean_peak"])


def test_resume_keeps_assignments_and_goes_on_as_if_nothing_had_been(tmp_path):
    _, whole = fit(tmp_path / "whole", InterpretableFilters(["features"], CLASSES, weight=0.5), max_epochs=4)
    first = InterpretableFilters(["features"], CLASSES, weight=0.5)
    saving = ModelCheckpoint(tmp_path / "saved", save_last=True)
    trainer = make_trainer(tmp_path, callbacks=[first, saving], max_epochs=2, enable_checkpointing=True)
    trainer.fit(Net(), DataLoader(data(), 6))
    again = InterpretableFilters(["features"], CLASSES, weight=0.5)
    module = Net()
    goes_on = make_trainer(tmp_path, callbacks=[again, saving], max_epochs=4, enable_checkpointing=True)
    goes_on.fit(module, DataLoader(data(), 6), ckpt_path=tmp_path / "saved" / "last.ckpt")
    same(module, whole)
    assert again.losses["features"].assignment.images.sum() == 4 * 24


def wrong_on_one(rank, world, folder, case):
    """What is wrong on the second process only."""
    wrong, module = rank == 1, Twice() if rank == 1 and case == "layer" else Net()
    labels = (lambda batch: 0 * batch[1] + 3) if wrong and case == "labels" else 1
    fit(folder, InterpretableFilters(["features"], CLASSES, labels=labels), module, strategy="ddp", devices=world)


@pytest.mark.ddp
@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", ["labels", "layer"])
def test_what_is_wrong_on_one_process_is_told_to_all(tmp_path, case):
    text = {
        "labels": "ValueError: label 3 is none of the 3 classes",
        "layer": "LayerError: layer 'features' ran 2 times",
    }
    for outcome in run_ranks(wrong_on_one, 2, tmp_path, case, timeout=80):
        assert outcome.error.startswith(f"ProbeError: training cannot go on; rank 1: {text[case]}")
        assert outcome.seconds < 20


def moving():
    """Batches of one class each, by colour: what filters prefer moves from epoch to epoch."""
    images, labels = torch.rand(24, 3, 12, 10, generator=torch.Generator().manual_seed(1)), torch.arange(24) // 8
    images[torch.arange(24), labels] += 1
    return TensorDataset(images, labels)


class Assigned(Callback):
    """The assignment of each epoch."""

    def __init__(self, filters):
        self.filters, self.epochs = filters, []

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs.append(self.filters.losses["features"].assignment.assignment.tolist())


def go_on(path, epochs, dataset, saving=(), **options):
    """Fit for some epochs, as an uninterrupted run or from a checkpoint: module, assignments and trainer."""
    callback = InterpretableFilters(["features"], CLASSES, weight=0.5, start_epoch=0)
    module, assigned = Net(rate=0.3), Assigned(callback)
    callbacks = [callback, assigned, *saving]
    trainer = make_trainer(path, callbacks=callbacks, max_epochs=epochs, enable_checkpointing=bool(saving))
    trainer.fit(module, DataLoader(dataset, 8), **options)
    return trainer, module, assigned.epochs


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("moment", ["after the fit", "at the end of the epoch"])
def test_resume_pairs_anew_where_the_uninterrupted_run_does(tmp_path, moment):
    _, whole, expected = go_on(tmp_path, 3, moving())
    assert expected[0] != expected[1]
    saving = [ModelCheckpoint(tmp_path, "one")] if moment == "at the end of the epoch" else []
    trainer, _, before = go_on(tmp_path, 1, moving(), saving)
    if not saving:
        trainer.save_checkpoint(tmp_path / "one.ckpt")
    _, module, after = go_on(tmp_path, 3, moving(), ckpt_path=tmp_path / "one.ckpt")
    assert before + after == expected
    same(module, whole)


def filled(path, **options):
    """A callback after a fit, and its state."""
    callback = InterpretableFilters(["features"], CLASSES, **options)
    fit(path, callback, max_epochs=1)
    return callback, callback.state_dict()


def test_state_is_whole_between_loading_and_the_first_step(tmp_path):
    _, state = filled(tmp_path)
    again = InterpretableFilters(["features"], CLASSES)
    again.load_state_dict(copy.deepcopy(state))
    torch.testing.assert_close(again.state_dict(), state, rtol=0, atol=0)


def test_a_checkpoint_of_another_number_of_classes_is_named(tmp_path):
    _, state = filled(tmp_path)
    with pytest.raises(ValueError, match="the checkpoint's statistics of 'features' are of 3 classes, not of 4"):
        InterpretableFilters(["features"], 4).load_state_dict(state)


def test_a_checkpoint_of_other_layers_or_another_loss_is_no_obstacle(tmp_path):
    trainer, _ = fit(tmp_path, InterpretableFilters(["features.1"], CLASSES), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "other.ckpt")
    options = {"max_epochs": 2, "fit_options": {"ckpt_path": tmp_path / "other.ckpt"}}
    callback = InterpretableFilters(["features"], CLASSES)
    fit(tmp_path, callback, **options)
    assert list(callback.losses) == ["features"]
    callback = InterpretableFilters(["features.1"], loss="mutual_information")
    trainer, _ = fit(tmp_path, callback, **options)
    assert not callback.losses
    assert not [name for name in trainer.callback_metrics if "reassigned" in name]


def test_a_reused_callback_begins_anew_and_believes_a_checkpoint(tmp_path):
    trainer, _ = fit(tmp_path, first := InterpretableFilters(["features"], CLASSES, weight=0.5), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    expected = copy.deepcopy(first.state_dict())
    first._warned = True
    fit(tmp_path, first, max_epochs=1)
    torch.testing.assert_close(first.state_dict(), expected, rtol=0, atol=0)
    # As one that has seen another training, with a checkpoint of this one.
    fit(tmp_path, first, dataset=moving(), max_epochs=2)
    fit(tmp_path, first, max_epochs=3, fit_options={"ckpt_path": tmp_path / "one.ckpt"})
    assert first.losses["features"].assignment.total == 3 * 24


def test_another_fit_of_the_same_trainer_goes_on(tmp_path):
    callback = InterpretableFilters(["features"], CLASSES)
    trainer, module = fit(tmp_path, callback, max_epochs=1)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, DataLoader(data(), 6))
    assert callback.losses["features"].assignment.total == 2 * 24


def told(peaks):
    """Steps of filters with these mean peaks, 0 where all are dead."""
    callback = InterpretableFilters(["features"], loss="spatial_compactness")
    nothing = torch.zeros(())
    for peak in peaks:
        dead = torch.full((6,), peak == 0)
        callback._told("features", FilterLoss(nothing, nothing, dead, torch.tensor(peak), nothing))
        callback._steps += 1


def test_the_look_at_the_peaks_starts_at_the_first_that_can_be_compared():
    for first in (0.0, math.nan, math.inf):
        told([first, first] + [1.0] * 58)
        with pytest.warns(UserWarning, match=r"peaks of 'features' are \d+ times those at the start"):
            told([first] + [1.0 + step for step in range(59)])
    told([0.0] * 60)


def test_filters_that_only_fire_later_and_then_die_are_told():
    with pytest.warns(UserWarning, match=r"peaks of 'features' are 0 in 100% more filters"):
        told([0.0] + [1.0] * 9 + [0.0] * 10)


def test_classes_without_a_filter_are_told_once(tmp_path):
    callback = InterpretableFilters(["features"], 10, weight=1e-3)
    with pytest.warns(
        UserWarning, match="'features' has 6 filters for 10 classes: 4 of the classes have none"
    ) as found:
        fit(tmp_path, callback, max_epochs=3)
    assert len([w for w in found if "classes have none" in str(w.message)]) == 1


def test_a_weight_so_high_that_filters_die_is_told(tmp_path):
    callback = InterpretableFilters(["features"], CLASSES, weight=300.0)
    with pytest.warns(
        UserWarning, match=r"filters: the peaks of 'features' are 0 in \d+% more .* weight 300 is too high"
    ):
        fit(tmp_path, callback, max_epochs=12)


def test_a_weight_so_high_that_activations_inflate_is_told(tmp_path):
    # Every image is of the one class, so that nothing holds the activations back.
    callback = InterpretableFilters(["features"], 1, weight=10.0, labels=lambda batch: torch.ones(len(batch[1]), 1))
    with pytest.warns(UserWarning, match=r"filters: the peaks of 'features' are \d+ times .* weight 10 is too high"):
        fit(tmp_path, callback, max_epochs=16)


def test_a_usual_weight_is_not_told_of(tmp_path):
    fit(tmp_path, InterpretableFilters(["features"], CLASSES, weight=1e-2), max_epochs=12)


def test_mixed_precision_runs_and_the_loss_is_in_float32(tmp_path):
    _, module = fit(tmp_path, InterpretableFilters(["features"], CLASSES, weight=0.5), precision="bf16-mixed")
    assert all(value.isfinite().all() for value in module.state_dict().values())
    exact = by_hand(Labelled())
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, exact.state_dict()[name], rtol=0.1, atol=0.02, msg=name)


@pytest.mark.slow
def test_a_compiled_backbone_trains_the_same(tmp_path):
    module = Net()
    module.features = torch.compile(module.features, backend="aot_eager")
    _, module = fit(tmp_path, InterpretableFilters(["features"], CLASSES, weight=0.5), module)
    expected = by_hand(Labelled()).state_dict()
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, expected[name.replace("_orig_mod.", "")], rtol=1e-5, atol=1e-6, msg=name)


def test_labels_by_key_function_and_membership(tmp_path):
    batches = [{"x": x[None], "y": y[None]} for x, y in data(6)]

    class Keyed(Net):
        def training_step(self, batch, batch_idx):
            return super().training_step((batch["x"], batch["y"]), batch_idx)

    for labels in ("y", lambda batch: batch["y"], lambda batch: nn.functional.one_hot(batch["y"], CLASSES)):
        callback = InterpretableFilters(["features"], CLASSES, labels=labels)
        make_trainer(tmp_path, callbacks=[callback], max_epochs=1).fit(Keyed(), DataLoader(batches, None))
        assert callback.losses["features"].assignment.images.tolist() == [2, 2, 2]


class Twice(Net):
    def training_step(self, batch, batch_idx):
        self(batch[0])
        return super().training_step(batch, batch_idx)


BAD = {
    "unknown layer": (["feature"], {}, Net, LayerError, "did you mean 'features'"),
    "before the ReLU": (["features.3"], {}, Net, LayerError, "'features.3' gives values below 0; name the ReLU"),
    "no maps": (["head"], {}, Net, LayerError, "'head' gives no float maps"),
    "twice": (["features"], {}, Twice, LayerError, "'features' ran 2 times"),
    "no labels": (["features"], {"labels": 2}, Net, ValueError, "labels=2 is not in the batch, a list"),
    "class K": (["features"], {"labels": lambda b: b[1] + 1}, Net, ValueError, "label 3 is none of the 3 classes"),
    "ignored": (["features"], {"labels": lambda b: b[1] - 100}, Net, ValueError, "-100 is torch's ignore_index"),
    "halves": (["features"], {"labels": lambda b: b[1] + 0.5}, Net, ValueError, r"label \d.5 is none"),
    "a list": (["features"], {"labels": lambda b: b[1].tolist()}, Net, ValueError, "must be a tensor .*, not list"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_work_is_named(tmp_path, case):
    layers, options, kind, error, text = BAD[case]
    # In-place layers after it would hide what is below 0.
    module = kind()
    module.features[4] = nn.ReLU()
    with pytest.raises(error, match=text):
        fit(tmp_path, InterpretableFilters(layers, CLASSES, **options), module)
    assert "training_step" not in vars(module)
    assert not any(m._forward_hooks for m in module.modules())


def test_bad_arguments_are_named_at_once():
    with pytest.raises(DatasetError, match="unknown filter loss 'mutual_info'; did you mean 'mutual_information'"):
        InterpretableFilters(["features"], 3, loss="mutual_info")
    with pytest.raises(ValueError, match="needs num_classes"):
        InterpretableFilters(["features"])
    for loss in ("label_conditioned", "mutual_information"):
        with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
            InterpretableFilters(["features"], 0, loss=loss)
    with pytest.raises(ValueError, match="unknown centre='middle'; there are argmax, centroid"):
        InterpretableFilters(["features"], 3, centre="middle")


def test_two_of_one_name_are_refused_and_two_of_two_names_add_up(tmp_path):
    twins = [InterpretableFilters(["features"], CLASSES) for _ in range(2)]
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `InterpretableFilters`"):
        make_trainer(tmp_path, callbacks=twins).fit(Net(), DataLoader(data(), 6))
    both = [InterpretableFilters(["features"], loss="spatial_compactness", weight=0.25, name=n) for n in ("a", "b")]
    module, once = Net(), copy.deepcopy(Net())
    make_trainer(tmp_path, callbacks=both).fit(module, DataLoader(data(), 6))
    single = InterpretableFilters(["features"], loss="spatial_compactness", weight=0.5)
    make_trainer(tmp_path, callbacks=[single]).fit(once, DataLoader(data(), 6))
    same(module, once, 1e-5)


def test_an_unknown_template_is_refused_on_construction():
    with pytest.raises(ValueError, match="unknown template=-1; there are paper, code, or beta above 0"):
        InterpretableFilters(["layer"], 2, template=-1)
