import sys
from io import BytesIO
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure as MatplotlibFigure
from PIL import Image as PillowImage
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from lightning_interp.logging.artifacts import (
    CustomScalars,
    Figure,
    Histogram,
    Image,
    Scalars,
    Table,
    Text,
    safe_tag,
)
from lightning_interp.logging.loggers import shows, write
from lightning_interp.methods.dissection.figures.histogram import iou_histogram
from tests.helpers.results import HOSTILE, counted_layer

PICTURE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
BINS, _ = iou_histogram(counted_layer([[40, 0, 0, 0], [50, 0, 0, 0]], [[0] * 4] * 2))


def every_kind():
    return [
        Scalars({"dissect/layer4/detectors": 3.0}),
        Image("gallery", PILLOW),
        Figure("bars", MatplotlibFigure(figsize=(1, 1))),
        Histogram("iou", BINS),
        Text("note", "**bold**"),
        Table("units", ["unit", "concept"], [[1, "a|b"]]),
        CustomScalars({"layer4": {"detectors": ("Multiline", ["dissect/layer4/detectors"])}}),
    ]


PILLOW = PillowImage.fromarray(PICTURE)


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    logger = TensorBoardLogger(tmp_path_factory.mktemp("runs"), name=None, version="")
    assert [write(logger, artifact, 7) for artifact in every_kind()] == [True] * 7
    logger.experiment.close()
    read = EventAccumulator(logger.log_dir, size_guidance={"images": 0, "tensors": 0, "histograms": 0})
    return read.Reload()


def test_tensorboard_gets_every_tag_and_no_other(events):
    tags = events.Tags()
    assert tags["scalars"] == ["dissect/layer4/detectors"]
    assert sorted(tags["images"]) == ["bars", "gallery"]
    assert tags["histograms"] == ["iou"]
    assert sorted(tags["tensors"]) == ["custom_scalars__config__", "note/text_summary", "units/text_summary"]


def test_tensorboard_gets_values_and_steps(events):
    (scalar,) = events.Scalars("dissect/layer4/detectors")
    assert (scalar.step, scalar.value) == (7, 3.0)
    (image,) = events.Images("gallery")
    assert (image.step, image.width, image.height) == (7, 6, 4)


def test_tensorboard_gets_pixels(events):
    (image,) = events.Images("gallery")
    with PillowImage.open(BytesIO(image.encoded_image_string)) as picture:
        assert (np.asarray(picture) == PICTURE).all()


def test_tensorboard_gets_the_bins(events):
    (histogram,) = events.Histograms("iou")
    value = histogram.histogram_value
    assert (value.num, value.min, value.max) == (2, 0.25, 50 / 150)
    filled = {edge: n for edge, n in zip(value.bucket_limit, value.bucket, strict=True) if n}
    assert filled == {0.26: 1, 0.34: 1}


def test_tensorboard_gets_markdown_and_the_layout(events):
    def content(tag):
        return events.Tensors(tag)[0].tensor_proto.string_val[0]

    assert content("note/text_summary") == b"**bold**"
    assert b"| 1 | a&#124;b |" in content("units/text_summary")
    layout = layout_pb2.Layout.FromString(content("custom_scalars__config__"))
    assert layout.category[0].chart[0].multiline.tag == ["dissect/layer4/detectors"]


class Recorder:
    """Notes every call: method, positional and keyword arguments."""

    run_id = "run"

    def __init__(self):
        self.calls = []
        self.experiment = SimpleNamespace(log_image=self._note("log_image"), log_text=self._note("log_text"))

    def _note(self, name):
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))

    def __getattr__(self, name):
        if name.startswith("log_"):
            return self._note(name)
        raise AttributeError(name)


class WandbLogger(Recorder):
    pass


class MLFlowLogger(Recorder):
    pass


class MyLogger(WandbLogger):
    pass


class OtherLogger(Recorder):
    pass


def test_wandb_by_the_name_of_a_base_class(monkeypatch):
    wandb = ModuleType("wandb")
    wandb.Histogram = lambda np_histogram: ("histogram", np_histogram[0].sum())
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    logger = MyLogger()
    assert [write(logger, artifact, 7) for artifact in every_kind()] == [True] * 6 + [False]
    names = [name for name, _, _ in logger.calls]
    assert names == ["log_metrics", "log_image", "log_image", "log_metrics", "log_text", "log_table"]
    assert all(kwargs["step"] == 7 for _, _, kwargs in logger.calls)
    assert logger.calls[1][2]["images"][0].tobytes() == PICTURE.tobytes()
    assert logger.calls[3][1] == ({"iou": ("histogram", 2)},)
    assert logger.calls[5][2] == {"key": "units", "columns": ["unit", "concept"], "data": [[1, "a|b"]], "step": 7}


def test_mlflow_files_carry_the_step():
    logger = MLFlowLogger()
    assert [write(logger, a, 7) for a in every_kind()] == [True, True, True, False, True, True, False]
    assert [(name, args[-1]) for name, args, _ in logger.calls[1:]] == [
        ("log_image", "gallery/step_00000007.png"),
        ("log_image", "bars/step_00000007.png"),
        ("log_text", "note/step_00000007.md"),
        ("log_text", "units/step_00000007.md"),
    ]


def test_any_other_logger_gets_scalars_only(tmp_path):
    logger = OtherLogger()
    assert [write(logger, artifact, 7) for artifact in every_kind()] == [True] + [False] * 6
    assert logger.calls == [("log_metrics", ({"dissect/layer4/detectors": 3.0},), {"step": 7})]
    csv = CSVLogger(tmp_path, name=None, version="")
    write(csv, Scalars({"a": 1.0}), 7)
    csv.save()
    assert (tmp_path / "metrics.csv").read_text().split() == ["a,step", "1.0,7"]


@pytest.mark.parametrize("logger", [MyLogger(), MLFlowLogger()])
def test_what_is_shown_is_what_is_written(logger, monkeypatch):
    wandb = ModuleType("wandb")
    wandb.Histogram = lambda np_histogram: None
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    assert [shows(logger, type(a)) for a in every_kind()] == [write(logger, a, 0) for a in every_kind()]
    assert [shows(OtherLogger(), type(a)) for a in every_kind()] == [True] + [False] * 6


def test_a_figure_is_empty_after_it_was_written():
    figure = MatplotlibFigure(figsize=(1, 1))
    figure.add_subplot()
    write(MyLogger(), Figure("bars", figure), 0)
    assert figure.axes == []


@pytest.mark.parametrize("name", [*HOSTILE, "../../etc/passwd", "/", "..", "a" * 500])
def test_tags_are_safe(name):
    tag = safe_tag(f"dissect/{name}")
    assert tag.startswith("dissect")
    assert len(tag) <= 200
    assert ".." not in tag.split("/")
    assert all(c.isascii() and (c.isalnum() or c in "_.- /") for c in tag)
    assert safe_tag(name)
