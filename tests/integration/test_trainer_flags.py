"""When it probes, with which weights, what the Trainer's other callbacks see of it, and what is refused."""

import ctypes
import gc
import itertools
import os
import sys
import threading

import numpy as np
import psutil
import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from torch import nn
from torch.utils.data import DataLoader

from lightning_interp import Every, LayerError, NetworkDissection, ProbeError, dissect, load_result
from tests.helpers.harmless import count_hooks, make_dissection, noisy_loader, seed_all
from tests.helpers.lightning import loader, make_module, make_trainer
from tests.helpers.planted import MONITOR, make_planted, planted_dissection, planted_loader
from tests.helpers.probes import RandomProbe
from tests.helpers.quiet import LIGHTNING_NOISE
from tests.helpers.results import assert_same_counts

pytestmark = [pytest.mark.filterwarnings(text) for text in LIGHTNING_NOISE]


class Steps(Callback):
    """Notes epoch and step of every probe."""

    def __init__(self, dissection):
        self.dissection, self.seen = dissection, []

    def on_validation_epoch_end(self, trainer, module):
        result = self.dissection.result
        if result is not None and (entry := (result.meta["epoch"], result.meta["global_step"])) not in self.seen:
            self.seen.append(entry)


def test_first_validation_of_an_epoch_is_probed(tmp_path):
    dissection = make_dissection()
    steps = Steps(dissection)
    trainer = make_trainer(tmp_path, callbacks=[dissection, steps], val_check_interval=0.5)
    trainer.fit(make_module(), loader(), loader(shuffle=False))
    assert steps.seen == [(0, 2), (1, 6)]


def test_sanity_check_is_not_probed(tmp_path):
    dissection = make_dissection(schedule=Every(at_start=False))
    seen = []

    class Look(Callback):
        def on_sanity_check_end(self, trainer, module):
            seen.append((dissection.result, [name for name in trainer.callback_metrics if "dissect" in name]))

    make_trainer(tmp_path, callbacks=[dissection, Look()], max_epochs=1).fit(
        make_module(), loader(), loader(shuffle=False)
    )
    assert seen == [(None, [])]
    assert [entry["epoch"] for entry in dissection.history] == [0]


def test_fast_dev_run_probes_one_batch_and_writes_nothing(tmp_path):
    dissection = make_dissection(images=14, batch_size=6)
    trainer = make_trainer(tmp_path, callbacks=[dissection], fast_dev_run=True)
    trainer.fit(make_module(), loader(), loader(shuffle=False))
    assert dissection.result.num_images == 6
    assert "dissect/features.4/detectors" in trainer.callback_metrics
    assert not list(tmp_path.rglob("interp"))


def test_fast_dev_run_finds_a_typo(tmp_path):
    trainer = make_trainer(tmp_path, callbacks=[make_dissection(layers=["feature.4"])], fast_dev_run=True)
    with pytest.raises(LayerError, match=r"unknown layer 'feature\.4'; did you mean 'features\.4'"):
        trainer.fit(make_module(), loader(), loader(shuffle=False))


def test_trial_leaves_nothing_to_the_training_after_it(tmp_path):
    dissection = make_dissection(images=14, batch_size=6)
    for trial in (True, False):
        trainer = make_trainer(tmp_path, callbacks=[dissection], fast_dev_run=trial, max_epochs=1)
        trainer.fit(make_module(), loader(), loader(shuffle=False))
    assert dissection.result.num_images == 14
    assert [entry["epoch"] for entry in dissection.history] == [-1, 0]


def test_second_training_starts_anew(tmp_path):
    dissection, layouts = make_dissection(), []
    for run in ("first", "second"):
        logger = TensorBoardLogger(tmp_path / run, name=None, version="")
        trainer = make_trainer(tmp_path, callbacks=[dissection], logger=logger)
        trainer.fit(make_module(), loader(), loader(shuffle=False))
        layouts.append("custom_scalars__config__" in EventAccumulator(trainer.log_dir).Reload().Tags()["tensors"])
    assert [entry["epoch"] for entry in dissection.history] == [-1, 0, 1]
    assert layouts == [True, True]
    assert len(list((tmp_path / "second").rglob("dissection.json"))) == 3


def test_longer_training_with_the_same_trainer_goes_on(tmp_path):
    module, dissection = make_module(), make_dissection()
    trainer = make_trainer(tmp_path, callbacks=[dissection], max_epochs=1)
    trainer.fit(module, loader(), loader(shuffle=False))
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, loader(), loader(shuffle=False))
    assert [entry["epoch"] for entry in dissection.history] == [-1, 0, 1, 2]


@pytest.mark.parametrize("options", [{"max_epochs": 0}, {"limit_train_batches": 0}])
def test_no_training_gives_nothing(tmp_path, options):
    dissection = make_dissection()
    trainer = make_trainer(tmp_path, callbacks=[dissection], **options)
    trainer.fit(make_module(), loader(), loader(shuffle=False))
    assert dissection.result is None
    assert not list(tmp_path.rglob("interp"))


def test_barebones_probes_nothing(tmp_path):
    dissection = make_dissection()
    names = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "log_every_n_steps")
    trainer = make_trainer(tmp_path, callbacks=[dissection], barebones=True, **dict.fromkeys(names))
    trainer.fit(make_module(), loader(), loader(shuffle=False))
    assert dissection.result is None


def test_testing_and_predicting_probe_nothing(tmp_path):
    class Testable(type(make_module())):
        def test_step(self, batch, index):
            self(batch[0])

        def predict_step(self, batch, index):
            return self(batch[0])

    dissection = make_dissection()
    trainer = make_trainer(tmp_path, callbacks=[dissection])
    trainer.test(Testable(), loader(shuffle=False), verbose=False)
    trainer.predict(Testable(), loader(shuffle=False))
    assert dissection.result is None
    assert not list(tmp_path.rglob("interp"))


def test_validation_alone_publishes_the_scores_of_dissect(tmp_path):
    module, dissection = make_module(), make_dissection()
    trainer = make_trainer(tmp_path, callbacks=[dissection])
    (metrics,) = trainer.validate(module, loader(shuffle=False), verbose=False)
    expected = dissect(module, RandomProbe(14), ["features.4"], batch_size=6, quantile=0.05, top_k=2)
    assert_same_counts(dissection.result, expected)
    names = [f"features.4/{key}" for key in ("detectors", "mean_iou", "born")]
    values = expected.scalars() | {"features.4/born": 0.0}
    assert [metrics[f"dissect/{name}"] for name in names] == [pytest.approx(values[name]) for name in names]
    (document,) = tmp_path.rglob("dissection.json")
    assert_same_counts(load_result(document.parent), expected)


def test_validation_after_training_leaves_the_history(tmp_path):
    module, dissection = make_module(), make_dissection()
    trainer = make_trainer(tmp_path, callbacks=[dissection])
    trainer.fit(module, loader(), loader(shuffle=False))
    before = [entry["epoch"] for entry in dissection.history], dissection.state_dict()["last_epoch"]
    trainer.validate(module, loader(shuffle=False), verbose=False)
    assert before == ([-1, 0, 1], 1)
    assert ([entry["epoch"] for entry in dissection.history], dissection.last_epoch) == before


def test_mixed_precision_is_what_validation_sees(tmp_path):
    scores = {}
    for precision in ("32-true", "bf16-mixed", "bf16-true"):
        dissection = make_dissection(schedule=Every(at_start=False))
        trainer = make_trainer(tmp_path, callbacks=[dissection], precision=precision, max_epochs=1)
        seed_all()
        trainer.fit(make_module(), loader(), loader(shuffle=False))
        scores[precision] = torch.from_numpy(dissection.result["features.4"].top.score)
    rounded = {name: torch.equal(score, score.bfloat16().float()) for name, score in scores.items()}
    assert rounded == {"32-true": False, "bf16-mixed": True, "bf16-true": True}


class Keep(Callback):
    """Keeps the weights that are in the module at the end of every training epoch: the raw ones."""

    def on_train_epoch_end(self, trainer, module):
        self.state = {name: value.clone() for name, value in module.state_dict().items()}


def averaged_training(tmp_path, order, **options):
    dissection = make_dissection()
    keep, averaging = Keep(), EMAWeightAveraging(decay=0.5)
    by_name = {"dissection": dissection, "averaging": averaging}
    module = make_module()
    trainer = make_trainer(tmp_path, callbacks=[*(by_name[name] for name in order), keep], **options)
    seed_all()
    trainer.fit(module, loader(), loader(shuffle=False))
    # At the end of the training the module gets the averaged weights.
    averaged, raw = module, make_module()
    raw.load_state_dict(keep.state)
    options = {"batch_size": 6, "quantile": 0.05, "top_k": 2}
    return dissection.result, *(dissect(m, RandomProbe(14), ["features.4"], **options) for m in (averaged, raw))


def test_averaged_weights_are_probed_when_listed_before(tmp_path):
    result, averaged, raw = averaged_training(tmp_path, ["dissection", "averaging"])
    assert_same_counts(result, averaged)
    assert not np.array_equal(raw["features.4"].thresholds, averaged["features.4"].thresholds)


def test_raw_weights_are_probed_when_listed_after_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="listed after EMAWeightAveraging.*list NetworkDissection before it"):
        result, averaged, raw = averaged_training(tmp_path, ["averaging", "dissection"])
    assert_same_counts(result, raw)
    assert not np.array_equal(raw["features.4"].thresholds, averaged["features.4"].thresholds)


def test_raw_weights_are_probed_without_validation_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="without validation, EMAWeightAveraging leaves the raw weights to be probed"):
        result, _, raw = averaged_training(tmp_path, ["dissection", "averaging"], limit_val_batches=0)
    assert_same_counts(result, raw)


def test_two_dissections_with_two_names(tmp_path):
    one, two = make_dissection(), make_dissection(layers=["features.0"], name="early")
    trainer = make_trainer(tmp_path, callbacks=[one, two])
    trainer.fit(make_module(), loader(), loader(shuffle=False))
    assert {"dissect/features.4/detectors", "early/features.0/detectors"} <= set(trainer.callback_metrics)
    assert "dissect/features.0/detectors" not in trainer.callback_metrics
    assert one.state_key != two.state_key
    folders = {path.parent.parent.name for path in tmp_path.rglob("dissection.json")}
    assert folders == {"dissect", "early"}


def test_two_dissections_share_one_layout(tmp_path):
    one, two = make_dissection(), make_dissection(layers=["features.0"], name="early")
    trainer = make_trainer(tmp_path, callbacks=[one, two], logger=TensorBoardLogger(tmp_path))
    trainer.fit(make_module(), loader(), loader(shuffle=False))
    events = EventAccumulator(trainer.log_dir).Reload().Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(events[-1].tensor_proto.string_val[0])
    assert [c.title for c in layout.category] == ["Network Dissection: dissect", "Network Dissection: early"]


@pytest.mark.filterwarnings("ignore:Total length of `DataLoader` across ranks is zero")
def test_validation_loader_that_is_empty_leaves_the_probe_to_the_epochs_end(tmp_path):
    dissection = make_dissection()
    trainer = make_trainer(tmp_path, callbacks=[dissection], num_sanity_val_steps=0)
    trainer.fit(make_module(), loader(), DataLoader([]))
    assert [entry["epoch"] for entry in dissection.history] == [-1, 0, 1]


def test_log_of_the_users_own_survives(tmp_path):
    module, said = make_module(), []
    module.__dict__["log"] = lambda *args, **kwargs: said.append(args)
    own = module.log
    make_trainer(tmp_path, callbacks=[make_dissection()]).fit(module, loader(), loader(shuffle=False))
    assert module.log is own
    assert said


def test_one_name_for_two_of_a_class_is_refused(tmp_path):
    with pytest.raises(RuntimeError, match="more than one stateful callback"):
        make_trainer(tmp_path, callbacks=[make_dissection(), make_dissection(layers=["features.0"])])


def test_one_name_for_two_classes_is_refused(tmp_path):
    class Other(NetworkDissection):
        pass

    twin = Other(RandomProbe(3), ["features.4"])
    trainer = make_trainer(tmp_path, callbacks=[make_dissection(), twin])
    with pytest.raises(ProbeError, match="two callbacks are named 'dissect'"):
        trainer.fit(make_module(), loader(), loader(shuffle=False))


class Metrics(Callback):
    """Notes a metric at the end of every epoch."""

    def __init__(self, name):
        self.name, self.values = name, []

    def on_train_epoch_end(self, trainer, module):
        self.values.append(trainer.callback_metrics[self.name].item())


@pytest.mark.parametrize("validation", [True, False])
def test_checkpoint_of_the_best_epoch(tmp_path, validation):
    plan = [1, 3, 2, 0]
    metrics = Metrics(MONITOR)
    checkpoint = ModelCheckpoint(
        tmp_path / "best",
        filename="{epoch}-{dissect/layer/unique_detectors:.0f}",
        auto_insert_metric_name=False,
        monitor=MONITOR,
        mode="max",
    )
    # The checkpoint is listed first: Lightning moves it behind every other callback.
    callbacks = [checkpoint, planted_dissection(), metrics]
    options = {} if validation else {"limit_val_batches": 0}
    trainer = make_trainer(tmp_path, callbacks=callbacks, max_epochs=4, enable_checkpointing=True, **options)
    trainer.fit(make_planted(plan), planted_loader(), planted_loader())
    assert metrics.values == plan
    assert os.listdir(tmp_path / "best") == ["1-3.ckpt"]
    assert checkpoint.best_model_score == 3
    best = torch.load(checkpoint.best_model_path, weights_only=True)
    assert best["epoch"] == 1
    assert best["state_dict"]["layer.weight"].sum() == 3


def test_checkpoint_with_the_metric_in_its_name_makes_folders(tmp_path):
    """What the documentation warns of: a tag has slashes."""
    checkpoint = ModelCheckpoint(tmp_path / "best", filename="{epoch}-{dissect/layer/unique_detectors:.0f}")
    trainer = make_trainer(
        tmp_path, callbacks=[checkpoint, planted_dissection()], max_epochs=1, enable_checkpointing=True
    )
    trainer.fit(make_planted([2]), planted_loader(), planted_loader())
    (path,) = (tmp_path / "best").rglob("*.ckpt")
    assert str(path.relative_to(tmp_path / "best")) == "epoch=0-dissect/layer/unique_detectors=2.ckpt"


def test_checkpoint_monitors_with_two_validations_an_epoch(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path / "best", monitor="dissect/features.4/mean_iou", mode="max", save_top_k=-1)
    dissection = make_dissection()
    options = {"val_check_interval": 0.5, "enable_checkpointing": True, "max_epochs": 1}
    trainer = make_trainer(tmp_path, callbacks=[checkpoint, dissection], **options)
    trainer.fit(make_module(), loader(), loader(shuffle=False))
    assert len(checkpoint.best_k_models) == 2
    assert checkpoint.best_model_score == pytest.approx(dissection.result.scalars()["features.4/mean_iou"])


@pytest.mark.parametrize("validation", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_early_stopping_in_the_same_epoch(tmp_path, validation, first):
    early, dissection = EarlyStopping(MONITOR, mode="max", patience=1), planted_dissection()
    # Without validation its place in the list decides when it looks; it then must come after.
    early._check_on_train_epoch_end = not validation
    callbacks = [early, dissection] if first else [dissection, early]
    options = {} if validation else {"limit_val_batches": 0}
    trainer = make_trainer(tmp_path, callbacks=callbacks, max_epochs=6, **options)
    trainer.fit(make_planted([1, 3, 2, 3, 3, 3]), planted_loader(), planted_loader())
    assert early.stopped_epoch == 2
    assert early.best_score == 3
    assert [entry["epoch"] for entry in dissection.history] == [-1, 0, 1, 2]


def test_early_stopping_on_scores_of_every_second_epoch_is_warned_of(tmp_path):
    early, dissection = EarlyStopping(MONITOR, mode="max", patience=2), planted_dissection(schedule=Every(2))
    trainer = make_trainer(tmp_path, callbacks=[early, dissection], max_epochs=1)
    with pytest.warns(UserWarning, match="multiply its patience by 2"):
        trainer.fit(make_planted([1]), planted_loader(), planted_loader())


def test_early_stopping_at_several_validations_an_epoch_is_warned_of(tmp_path):
    early, dissection = EarlyStopping(MONITOR, mode="max", patience=4), planted_dissection()
    trainer = make_trainer(tmp_path, callbacks=[early, dissection], max_epochs=1, val_check_interval=0.5)
    with pytest.warns(UserWarning, match="multiply its patience by 2"):
        trainer.fit(make_planted([1]), planted_loader(), planted_loader())


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class Awkward(type(make_module())):
    """Layers that cannot be dissected: unused, used twice, giving a pair, giving vectors."""

    def __init__(self):
        super().__init__()
        self.unused, self.twice, self.pair = nn.Conv2d(3, 3, 1), nn.ReLU(), Pair()
        self.forwards = 0

    def forward(self, x):
        self.forwards += 1
        return super().forward(self.pair(self.twice(self.twice(x)))[0])


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["features.44"], r"unknown layer 'features\.44'; did you mean 'features\.4'"),
        (["layer4"], r"unknown layer 'layer4'; the layers are features, features\.0"),
        (["features.9*"], r"no layer matches 'features\.9\*'"),
        ([""], "empty layer name stands for the whole network"),
        ([], "no layer given"),
        ("features.4", r"layers must be a list of names; write layers=\['features\.4'\]"),
        (["unused"], "'unused' ran 0 times in a forward pass, expected 1; the forward pass does not use it"),
        (["twice"], "'twice' ran 2 times in a forward pass"),
        (["pair"], "'pair' gives a tuple; expected one tensor"),
        (["head"], r"'head' gives shape \(1, 2\) \(torch.float32\); expected float maps"),
    ],
)
def test_layers_that_cannot_be_dissected_are_named_before_the_first_epoch(tmp_path, layers, message):
    module = Awkward()
    dissection = NetworkDissection(RandomProbe(4), layers=layers)
    trainer = make_trainer(tmp_path, callbacks=[dissection])
    with pytest.raises(LayerError, match=message):
        trainer.fit(module, loader(), loader(shuffle=False))
    assert module.losses == []
    # The one image of the description at most, and not the sanity check.
    assert module.forwards <= 1
    assert count_hooks(module) == 0
    with pytest.raises(LayerError, match=message):
        trainer.validate(module, loader(shuffle=False), verbose=False)


class Growth(Callback):
    """Counts what is alive at the start of every epoch of the later half."""

    def __init__(self, epochs):
        self.process, self.first, self.rows = psutil.Process(), epochs // 2, []

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch < self.first:
            return
        gc.collect()
        if sys.platform == "linux":
            # Resident size is of what is in use, not of what the allocator keeps for later.
            ctypes.CDLL(None).malloc_trim(0)
        objects = gc.get_objects()
        row = {
            "tensors": sum(issubclass(type(o), torch.Tensor) for o in objects),
            "objects": len(objects),
            # Matplotlib keeps each font open from its first use on.
            "files": self.process.num_fds() - sum(f.path.endswith(".ttf") for f in self.process.open_files()),
            "threads": threading.active_count(),
            "hooks": count_hooks(module),
            "rss": self.process.memory_info().rss / 2**20,
        }
        self.rows.append(row)


def median_slope(values):
    """Median rise over all pairs (Theil and Sen): a leak raises every pair, a single jump of the allocator few."""
    return np.median([(b - a) / (j - i) for (i, a), (j, b) in itertools.combinations(enumerate(values), 2)])


@pytest.fixture
def _new_objects_alone():
    """What the tests before made is neither collected nor counted, which would take a second each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_new_objects_alone")
def test_memory_is_flat(tmp_path):
    epochs = 20
    watch = Growth(epochs)
    # With a logger, for without one less is done.
    trainer = make_trainer(tmp_path, callbacks=[make_dissection(images=37), watch], max_epochs=epochs, logger=True)
    trainer.fit(make_module(), noisy_loader(), noisy_loader(shuffle=False))
    each = {name: [row[name] for row in watch.rows] for name in watch.rows[0]}
    assert len(each["rss"]) == epochs - watch.first
    slope = {name: median_slope(values) for name, values in each.items()}
    assert slope["rss"] <= 0.1, each
    for name in ("files", "threads", "hooks"):
        assert len(set(each[name])) == 1, each
    assert each["hooks"][0] == 0
    # The history grows by one small tensor an epoch, and the few objects around it.
    assert slope["tensors"] <= 1.01, each
    assert slope["objects"] <= 20, each
