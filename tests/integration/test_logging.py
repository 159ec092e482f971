"""What arrives in every logger and on disk: each documented tag, its values, and nothing else."""

import csv
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from lightning_interp import NetworkDissection, load_result
from tests.helpers.harmless import make_dissection
from tests.helpers.lightning import loader, make_module, make_trainer
from tests.helpers.quiet import LIGHTNING_NOISE
from tests.helpers.results import assert_same_counts

pytestmark = [pytest.mark.filterwarnings(text) for text in LIGHTNING_NOISE]

LAYERS = ("features.0", "features.4")
CATEGORIES = ("object", "part", "scene", "material", "texture")
BY_LAYER = ["detectors", "unique_detectors", "unique_by_category", "interpretable_share", "mean_iou", "max_iou"]
BY_LAYER += ["information_quality", "detectors_by_chance", "unique_by_chance", "max_iou_by_chance", "beats_chance"]
BY_LAYER += ["born", "died", "changed", "invalid_units"]
BY_CATEGORY = ("detectors", "unique_detectors")
IMAGES = ("units", "best_units", "concepts", "timeline")
HISTOGRAMS = ("iou", "iou_by_chance")
SCALARS = {f"dissect/{layer}/{key}" for layer in LAYERS for key in BY_LAYER}
SCALARS |= {f"dissect/{layer}/{c}/{key}" for layer in LAYERS for c in CATEGORIES for key in BY_CATEGORY}
SCALARS |= {"dissect/seconds"}
# Of Lightning, and of the module itself.
OTHERS = {"epoch", "val_loss"}


def under(kinds):
    return {f"dissect/{layer}/{kind}" for layer in LAYERS for kind in kinds}


def train(path, logger, report=False, **options):
    dissection = make_dissection(LAYERS, report=report, **{"scalars": "all"} | options)
    trainer = make_trainer(path, callbacks=[dissection], logger=logger)
    trainer.fit(make_module(), loader(), loader(shuffle=False))
    return trainer, dissection


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("tensorboard")
    trainer, dissection = train(path, TensorBoardLogger(path, name=None, version=""), report=True)
    sizes = {"scalars": 0, "images": 0, "tensors": 0, "histograms": 0}
    events = EventAccumulator(trainer.log_dir, size_guidance=sizes).Reload()
    return SimpleNamespace(trainer=trainer, dissection=dissection, events=events, path=path)


@pytest.mark.parametrize("tag", sorted(BY_LAYER + list(IMAGES) + ["table", "iou", "iou_by_chance", "seconds"]))
def test_docstring_names_every_tag(tag):
    text = NetworkDissection.__doc__
    assert f"/{tag}``" in text


def test_docstring_names_no_other_scalar():
    """The first list of the docstring is about scalars: nothing is in it that is not written."""
    listed = NetworkDissection.__doc__.split("To loggers that show them")[0].split("Scalars,")[1]
    names = {part.split("/")[-1] for part in listed.split("``")[1::2] if "/" in part}
    assert names == {*BY_LAYER, "seconds"}


def test_event_file_holds_every_scalar_and_no_other(run):
    assert set(run.events.Tags()["scalars"]) == SCALARS | OTHERS


def test_event_file_holds_every_view_and_no_other(run):
    tags = run.events.Tags()
    assert set(tags["images"]) == under(IMAGES)
    assert set(tags["histograms"]) == under(HISTOGRAMS)
    texts = {f"{tag}/text_summary" for tag in under(["table"])}
    assert set(tags["tensors"]) == texts | {"custom_scalars__config__"}
    assert not tags["audio"]


def test_every_probe_is_in_the_event_file(run):
    """Before training and after both epochs, views at the step of the network that they show."""
    assert [entry["step"] for entry in run.dissection.history] == [0, 4, 8]
    views = [*map(run.events.Images, under(IMAGES)), *map(run.events.Histograms, under(HISTOGRAMS))]
    assert {tuple(event.step for event in view) for view in views} == {(0, 4, 8)}
    # Lightning counts the steps of what is logged from 0.
    for tag in SCALARS:
        assert [event.step for event in run.events.Scalars(tag)] == [0, 3, 7], tag


def test_event_file_and_callback_metrics_agree(run):
    metrics = run.trainer.callback_metrics
    assert {tag for tag in metrics if tag.startswith("dissect")} == SCALARS
    for tag in SCALARS:
        assert run.events.Scalars(tag)[-1].value == metrics[tag].item(), tag


def test_scalars_are_those_of_the_result(run):
    values = run.dissection.result.scalars()
    assert len(values) == len(SCALARS) - 3 * len(LAYERS)
    for key, value in values.items():
        assert run.trainer.callback_metrics[f"dissect/{key}"].item() == np.float32(value), key


def test_custom_scalars_chart_tags_that_exist(run):
    (event,) = run.events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    charted = {tag for category in layout.category for chart in category.chart for tag in chart.multiline.tag}
    assert len(charted) == len(LAYERS) * (2 + 2 + len(CATEGORIES) + 3)
    assert charted <= SCALARS


def test_files_are_complete_and_loadable(run):
    folder = run.path / "interp" / "dissect"
    names = {
        "dissection.json",
        *(f"{p}{layer}{s}" for layer in LAYERS for p, s in (("units_", ".csv"), ("", ".safetensors"))),
    }
    probes = {path.parent.name: path.parent for path in folder.rglob("dissection.json")}
    assert set(probes) == {"start", "epoch_0000", "epoch_0001"}
    assert (folder / "report.html").stat().st_size > 1000
    for path in probes.values():
        assert {file.name for file in path.iterdir()} == names
    results = [load_result(probes[name]) for name in ("start", "epoch_0000", "epoch_0001")]
    assert [result.meta["epoch"] for result in results] == [None, 0, 1]
    assert [result.meta["global_step"] for result in results] == [0, 4, 8]
    assert_same_counts(results[-1], run.dissection.result)
    assert results[-1].scalars() == run.dissection.result.scalars()
    told = [entry["detects"]["features.4"].tolist() for entry in run.dissection.history]
    assert told == [np.where(r["features.4"].is_detector, r["features.4"].best, -1).tolist() for r in results]


def test_csv_logger_gets_every_scalar_in_every_row(tmp_path):
    _, dissection = train(tmp_path, CSVLogger(tmp_path, name=None, version=""))
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["dissect/seconds"]]
    assert set(rows[0]) == SCALARS | OTHERS | {"step"}
    assert [int(row["step"]) for row in rows] == [0, 3, 7]
    assert all(row[tag] for row in rows for tag in SCALARS)
    tag = "features.4/mean_iou"
    assert float(rows[-1][f"dissect/{tag}"]) == np.float32(dissection.result.scalars()[tag])
    assert (tmp_path / "interp" / "dissect" / "epoch_0001" / "dissection.json").exists()


def test_without_a_logger_there_are_files_and_metrics(tmp_path):
    trainer, dissection = train(tmp_path, False)
    assert {tag for tag in trainer.callback_metrics if tag.startswith("dissect")} == SCALARS
    assert_same_counts(load_result(tmp_path / "interp" / "dissect" / "epoch_0001"), dissection.result)


def test_without_matplotlib_there_are_no_charts_but_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_interp.methods.dissection.callback.available", lambda name: name != "matplotlib")
    logger = TensorBoardLogger(tmp_path, name=None, version="")
    trainer, _ = train(tmp_path, logger)
    tags = EventAccumulator(trainer.log_dir).Reload().Tags()
    assert set(tags["images"]) == under(("units", "best_units"))
    assert set(tags["scalars"]) == SCALARS | OTHERS


class Recording(Logger):
    """A logger that keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.metrics, self.media = [], Counter()

    name, version = "fake", 0

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        self.metrics.append((step, dict(metrics)))

    def scalars(self):
        return {tag for _, metrics in self.metrics for tag, value in metrics.items() if isinstance(value, float)}


class WandbLogger(Recording):
    """As Lightning's class of the name, without its service."""

    def log_image(self, key, images, step=None, **kwargs):
        self.media["image", key, step] += len(images)

    def log_table(self, key, columns=None, data=None, step=None, **kwargs):
        assert all(len(row) == len(columns) for row in data)
        self.media["table", key, step] += 1

    log_text = log_table


class MLFlowLogger(Recording):
    run_id = "run"

    @property
    def experiment(self):
        return self

    def log_image(self, run_id, image, artifact_file):
        assert run_id == "run"
        self.media[("image", *artifact_file.rsplit("/", 1))] += 1

    def log_text(self, run_id, text, artifact_file):
        assert run_id == "run"
        self.media[("text", *artifact_file.rsplit("/", 1))] += 1


def test_weights_and_biases(tmp_path, monkeypatch):
    wandb = ModuleType("wandb")
    wandb.Histogram = lambda np_histogram: np_histogram
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    logger = WandbLogger()
    train(tmp_path, logger)
    assert logger.scalars() - OTHERS == SCALARS
    histograms = {tag for _, metrics in logger.metrics for tag, value in metrics.items() if isinstance(value, tuple)}
    assert histograms == under(HISTOGRAMS)
    images = {("image", tag, step) for tag in under(IMAGES) for step in (0, 4, 8)}
    tables = {("table", tag, step) for tag in under(["table"]) for step in (0, 4, 8)}
    assert logger.media == Counter(images | tables)


def test_mlflow(tmp_path):
    logger = MLFlowLogger()
    train(tmp_path, logger)
    assert logger.scalars() - OTHERS == SCALARS
    steps = [f"step_{step:08d}" for step in (0, 4, 8)]
    images = {("image", tag, f"{step}.png") for tag in under(IMAGES) for step in steps}
    texts = {("text", tag, f"{step}.md") for tag in under(["table"]) for step in steps}
    assert logger.media == Counter(images | texts)


def test_two_loggers_get_the_same(tmp_path):
    first, second = MLFlowLogger(), MLFlowLogger()
    train(tmp_path, [first, second])
    assert first.media == second.media
    assert len(first.media) == len(LAYERS) * 5 * 3
    assert first.metrics == second.metrics


def test_logger_of_unknown_kind_gets_scalars_only(tmp_path):
    logger = Recording()
    train(tmp_path, logger)
    assert logger.scalars() - OTHERS == SCALARS


def test_figure_that_fails_is_one_warning(tmp_path, monkeypatch):
    def broken(*args):
        raise RuntimeError("no ink")

    monkeypatch.setattr("lightning_interp.methods.dissection.callback.detector_bars", broken)
    logger = MLFlowLogger()
    with pytest.warns(UserWarning, match="dissect: could not write .*RuntimeError: no ink") as warned:
        trainer, _ = train(tmp_path, logger)
    assert sum("no ink" in str(w.message) for w in warned) == 1
    assert {tag for kind, tag, _ in logger.media if kind == "image"} == under(set(IMAGES) - {"concepts"})
    assert set(trainer.callback_metrics) >= SCALARS
    with pytest.raises(RuntimeError, match="no ink"):
        train(tmp_path, MLFlowLogger(), on_error="raise")


def test_folder_that_cannot_be_written_is_one_warning_a_kind(tmp_path):
    (tmp_path / "interp").write_text("in the way")
    with pytest.warns(UserWarning, match="dissect: could not write (files|report): .*Error") as warned:
        trainer, dissection = train(tmp_path, False, report=True)
    assert len([w for w in warned if "could not write" in str(w.message)]) == 2
    assert trainer.current_epoch == 2
    assert [entry["epoch"] for entry in dissection.history] == [-1, 0, 1]
    assert Path(tmp_path / "interp").read_text() == "in the way"
