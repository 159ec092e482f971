"""Location instability of every epoch, on a module whose filters are known to follow a spot, or not to."""

import csv
import math
from pathlib import Path

import pytest
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_interp import DatasetError, Every, LayerError
from lightning_interp.methods.parts.callback import LocationInstability
from lightning_interp.methods.parts.files import load_parts
from tests.helpers.harmless import differences, fit
from tests.helpers.lightning import make_trainer
from tests.helpers.parts import SpotProbe, fixed_deviation, make_spotter, spot_loader
from tests.helpers.probes import RandomProbe
from tests.helpers.quiet import LIGHTNING_NOISE

pytestmark = [
    *map(pytest.mark.filterwarnings, LIGHTNING_NOISE),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]
PROBE = SpotProbe(12)
OPTIONS = {"landmarks": ["red"], "batch_size": 5}


def train(path, callbacks, plan, resume=None, **options):
    trainer = make_trainer(path, callbacks=callbacks, **{"max_epochs": len(plan)} | options)
    trainer.fit(make_spotter(plan), spot_loader(), spot_loader(), ckpt_path=resume)
    return trainer


class Metrics(Callback):
    """What other callbacks find in ``callback_metrics`` at the end of each epoch."""

    def __init__(self):
        self.epochs = []

    def on_validation_end(self, trainer, module):
        if not trainer.sanity_checking:
            found = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("location/")}
            self.epochs.append(found)


def test_scores_of_every_epoch_are_in_callback_metrics(tmp_path):
    seen = Metrics()
    train(tmp_path, [LocationInstability(PROBE, ["layer"], **OPTIONS), seen], [0, 1, 2])
    still, tag = fixed_deviation(PROBE), "location/layer/"
    assert [e[f"{tag}instability"] for e in seen.epochs] == pytest.approx([still, still / 2, 0])
    assert [e[f"{tag}correlation"] for e in seen.epochs] == pytest.approx([0, 0.5, 1])
    assert [e[f"{tag}r2"] for e in seen.epochs] == pytest.approx([0, 0.5, 1])
    assert [e[f"{tag}beats_centre"] for e in seen.epochs] == [0, 0.5, 1]
    assert [e[f"{tag}beats_best_constant"] for e in seen.epochs] == [0, 0.5, 1]
    assert [e[f"{tag}purity"] for e in seen.epochs][2] == 1
    assert len({frozenset(epoch) for epoch in seen.epochs}) == 1
    names = {name.removeprefix(tag) for name in seen.epochs[0]}
    assert names >= {"random", "best_constant", "oracle", "correlation_chance", "dead", "nonfinite", "undefined"}
    assert {"purity_by_chance", "purity_best_constant", "purity_beats_constant"} <= names
    assert seen.epochs[0][f"{tag}oracle"] == 0 < seen.epochs[0][f"{tag}best_constant"]


def test_checkpoints_and_stopping_can_monitor_it(tmp_path):
    monitor = "location/layer/instability"
    best = ModelCheckpoint(tmp_path, filename="{epoch}", monitor=monitor, mode="min")
    stop = EarlyStopping(monitor, mode="min", patience=1)
    callbacks = [LocationInstability(PROBE, ["layer"], **OPTIONS), best, stop]
    trainer = train(tmp_path, callbacks, [0, 2, 1, 1, 0], enable_checkpointing=True)
    assert Path(best.best_model_path).stem == "epoch=1"
    assert trainer.current_epoch == 3


def test_files_and_pictures(tmp_path):
    location = LocationInstability(PROBE, ["layer"], on_error="raise", **OPTIONS)
    train(tmp_path, [location], [1], logger=TensorBoardLogger(tmp_path, "", ""))
    root = tmp_path / "interp" / "location"
    assert sorted(path.name for path in root.iterdir()) == ["epoch_0000", "start"]
    stored = load_parts(root / "epoch_0000")
    assert stored.scalars() == pytest.approx(location.result.scalars(), nan_ok=True)
    with open(root / "epoch_0000" / "filters_layer.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["filter"], row["landmark"], float(row["correlation"])) for row in rows] == [
        ("0", "red", pytest.approx(1)), ("1", "red", 0)
    ]  # fmt: skip
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = events.Tags()
    assert tags["images"] == ["location/layer/steadiest"]
    assert [each.step for each in events.Images("location/layer/steadiest")] == [0, 1]
    assert "location/layer/table/text_summary" in tags["tensors"]
    assert "custom_scalars__config__" in tags["tensors"]
    table = events.Tensors("location/layer/table/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "| 0 | 0.000 |" in table


def test_what_was_found_is_said_at_the_end(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("lightning_interp.callbacks.base.rank_zero_info", told.append)
    train(tmp_path, [LocationInstability(PROBE, ["layer"], **OPTIONS)], [1])
    (line,) = told
    assert line.startswith(f"location: layer: instability {fixed_deviation(PROBE) / 2:.3f}, ")
    assert "which 50 % of the filters beat; displacement correlation 0.50" in line


def test_training_is_bit_identical(tmp_path):
    plain, _, _ = fit(tmp_path / "a", [])
    location = LocationInstability(SpotProbe(7, side=24), ["features.4"], batch_size=3)
    watched, _, _ = fit(tmp_path / "b", [location])
    for entry in watched:
        entry.pop("metrics", None)
    for entry in plain:
        entry.pop("metrics", None)
    assert differences(plain, watched) == []
    assert location.result.num_images == 7


def test_resumed_training_probes_no_epoch_twice(tmp_path):
    saving = ModelCheckpoint(tmp_path, save_last=True, save_top_k=0)
    options = {"enable_checkpointing": True, "schedule": Every(n_epochs=2)}
    schedule = options.pop("schedule")
    train(tmp_path, [LocationInstability(PROBE, ["layer"], schedule=schedule, **OPTIONS), saving], [0, 0], **options)
    # The last epoch, 1, is probed too; from there it is two to the next.
    seen = LocationInstability(PROBE, ["layer"], schedule=schedule, **OPTIONS)
    train(tmp_path, [seen], [0, 0, 1, 2], tmp_path / "last.ckpt", max_epochs=4)
    assert [entry["epoch"] for entry in seen.history] == [0, 1, 3]
    assert seen.result.scalars()["layer/correlation"] == pytest.approx(1)


def test_what_cannot_work_is_refused_before_training(tmp_path):
    with pytest.raises(DatasetError, match="no image of RandomProbe has a landmark of a part; RenderedFaces, CelebA"):
        LocationInstability(RandomProbe(3), ["layer"])
    with pytest.raises(DatasetError, match="probe must be a ProbeSet, got list"):
        LocationInstability([], ["layer"])
    with pytest.raises(DatasetError, match="unknown landmark 'blue'"):
        LocationInstability(PROBE, ["layer"], landmarks=["blue"])
    with pytest.raises(LayerError, match="unknown layer 'lager'; did you mean 'layer'"):
        train(tmp_path, [LocationInstability(PROBE, ["lager"])], [0])


def test_without_masks_there_is_no_purity():
    probe = SpotProbe(4)
    probe.concepts = probe.concepts[:1]
    assert LocationInstability(probe, ["layer"]).engine.measures == ("location",)
    with pytest.raises(DatasetError, match="SpotProbe has no concept of category 'part'"):
        LocationInstability(probe, ["layer"], parts=["red spot"])


def test_filters_without_a_score_give_nan(tmp_path):
    """No image shows the landmark twice: nothing to compare."""
    seen = Metrics()
    location = LocationInstability(SpotProbe(2), ["layer"], landmarks=["green"])
    train(tmp_path, [location, seen], [1])
    assert math.isnan(seen.epochs[0]["location/layer/instability"])
    assert seen.epochs[0]["location/layer/undefined"] == 2
