"""The explanatory graph of trainings: when it is learnt, what is published, what is refused, what may fail."""

import csv
import math
import pickle
import re
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from torch import nn

from lightning_interp import DatasetError, Every, LayerError
from lightning_interp.callbacks import base
from lightning_interp.drawing import pictures
from lightning_interp.errors import MissingExtraError, ProbeError
from lightning_interp.logging.artifacts import Figure, Image
from lightning_interp.methods.graph import callback as explanatory_graph
from lightning_interp.methods.graph.callback import ExplanatoryGraph
from lightning_interp.methods.graph.decoder_files import save_decoder
from lightning_interp.methods.graph.figures import patches
from lightning_interp.methods.graph.result import GraphResult
from lightning_interp.methods.graph.up_convolution import UpConvolution
from lightning_interp.methods.parts.callback import LocationInstability
from lightning_interp.results.files import write_safetensors
from tests.helpers.absent import hide
from tests.helpers.graphs import TRAINED, assert_same_graph, make_explanation
from tests.helpers.harmless import seed_all
from tests.helpers.lightning import loader, make_module, make_trainer
from tests.helpers.parts import SpotProbe, make_spotter, spot_loader
from tests.helpers.probes import RandomProbe
from tests.helpers.quiet import LIGHTNING_NOISE

pytestmark = [
    *map(pytest.mark.filterwarnings, LIGHTNING_NOISE),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]
TOP, LOW = TRAINED
QUANTITIES = {
    *("instability", "instability_aaai2018", "correlation", "correlation_chance", "r2"),
    *("beats_centre", "beats_frozen", "purity", "purity_area", "purity_best_constant", "scored"),
}
CONTROLS = ("_raw", "_raw_same", "_frozen", "_expected", "_centre", "_random")


def train(path, callbacks, epochs=1, module=None, **options):
    # The order of the batches decides which filters are alive.
    seed_all()
    trainer = make_trainer(path, callbacks=callbacks, max_epochs=epochs, **options)
    trainer.fit(module or make_module(), loader(), loader(shuffle=False))
    return trainer


def tensorboard(path):
    return TensorBoardLogger(path, name=None, version="")


def read_back(path):
    return EventAccumulator(str(path), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()


def folders(path, name="graph"):
    return sorted(entry.name for entry in path.glob(f"interp/{name}/*"))


def same_graphs(one, two):
    """But for wall times and the moment."""
    assert_same_graph(one.layers, two.layers)
    assert_same_graph(one.learnt_from, two.learnt_from)
    assert {**one.scalars(), "seconds": 0} == pytest.approx({**two.scalars(), "seconds": 0}, abs=0, nan_ok=True)


def number_of_patterns(explaining):
    return sum(len(layer) for layer in explaining.result.layers)


class Decoder(nn.Module):
    """Draws the size of the images from maps of so many filters; fails after so many drawings."""

    def __init__(self, filters, size=24, fails_after=math.inf):
        super().__init__()
        self.filters, self.size, self.left = filters, size, fails_after
        # In train mode it would refuse a map of one value, and remember what it saw.
        self.norm = nn.BatchNorm2d(filters)

    def forward(self, maps):
        if maps.shape[1] != self.filters:
            raise ValueError(f"maps of {self.filters} filters only")
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("out of paint")
        drawn = self.norm(maps).mean(1, keepdim=True).expand(-1, 3, -1, -1)
        return nn.functional.interpolate(drawn, (self.size, self.size))


# --- When it is learnt, and who sees its scores ----------------------------------------------------------------------


class Metrics(Callback):
    """What other callbacks find in ``callback_metrics`` at the end of each epoch."""

    def __init__(self):
        self.epochs = []

    def on_validation_end(self, trainer, module):
        if not trainer.sanity_checking:
            found = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("graph/")}
            self.epochs.append(found)


def spotting(plan, *more, path, **options):
    """A training in which the first ``plan[epoch]`` of two filters follow the red spot."""
    probe, graph = SpotProbe(12), {"patterns": 2, "iterations": 4}
    explaining = make_explanation(probe, ["layer"], graph, schedule=Every())
    trainer = make_trainer(path, callbacks=[explaining, *more], max_epochs=len(plan), **options)
    trainer.fit(make_spotter(plan), spot_loader(), spot_loader())
    return trainer, explaining


def test_with_a_schedule_the_scores_of_every_epoch_are_in_callback_metrics(tmp_path):
    seen, plan = Metrics(), [0, 1, 2]
    _, explaining = spotting(plan, seen, path=tmp_path)
    raw = [epoch["graph/layer/instability_raw"] for epoch in seen.epochs]
    assert raw[0] > raw[1] > raw[2] > 0
    assert [epoch["graph/layer/correlation_raw"] for epoch in seen.epochs] == pytest.approx([0, 0.5, 1])
    assert [epoch["graph/layer/patterns"] for epoch in seen.epochs] == [4, 4, 4]
    assert len({frozenset(epoch) for epoch in seen.epochs}) == 1
    assert folders(tmp_path) == ["end", "epoch_0000", "epoch_0001", "epoch_0002"]
    # The graph of the end is of the same network as that of the last epoch.
    last = GraphResult.load(tmp_path / "interp" / "graph" / "epoch_0002")
    assert_same_graph(last.layers, explaining.result.layers)
    assert (last.meta["epoch"], explaining.result.meta["epoch"]) == (2, None)


def test_checkpoints_and_stopping_can_monitor_it(tmp_path):
    monitor = "graph/layer/correlation_raw"
    best = ModelCheckpoint(tmp_path, filename="{epoch}", monitor=monitor, mode="max")
    stop = EarlyStopping(monitor, mode="max", patience=1)
    trainer, explaining = spotting([0, 2, 1, 1, 0], best, stop, path=tmp_path, enable_checkpointing=True)
    assert Path(best.best_model_path).stem == "epoch=1"
    assert trainer.current_epoch == 3
    # A training that is stopped has an end too: that of the last plan.
    assert folders(tmp_path) == ["end", "epoch_0000", "epoch_0001", "epoch_0002"]
    assert explaining.result.scalars()["layer/correlation_raw"] == pytest.approx(0.5)


def test_without_a_schedule_nothing_is_done_before_the_end(tmp_path):
    forwards, explaining = [], make_explanation()

    class Watch(Callback):
        def setup(self, trainer, module, stage):
            module.register_forward_pre_hook(lambda module, args: forwards.append(len(args[0])))

        def on_fit_start(self, trainer, module):
            forwards.clear()

        def on_train_end(self, trainer, module):
            self.until_now = list(forwards)
            self.result = explaining.result
            self.scores = [name for name in trainer.callback_metrics if name.startswith("graph/")]

    trainer = train(tmp_path, [explaining, watch := Watch()], 2, num_sanity_val_steps=0)
    # Two epochs of four batches of six, for training and for validation.
    assert watch.until_now == [6] * 16
    assert (watch.result, watch.scores) == (None, [])
    # 12 images in batches of 5, and two that are a trial of the network.
    assert forwards[16:] == [5, 5, 5]
    assert {f"graph/{name}" for name in explaining.result.scalars()} <= set(trainer.callback_metrics)
    assert (explaining.result.meta["epoch"], explaining.result.meta["global_step"]) == (None, 8)
    assert folders(tmp_path) == ["end"]


NOTHING = {
    "no batches": {"limit_train_batches": 0},
    "no epochs": {"max_epochs": 0},
    "trial": {"fast_dev_run": True},
    "barebones": {
        "barebones": True,
        **dict.fromkeys(
            ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "log_every_n_steps")
        ),
    },
}


@pytest.mark.parametrize("schedule", [None, Every(at_start=True)], ids=["end", "schedule"])
@pytest.mark.parametrize("how", NOTHING)
def test_where_nothing_is_trained_nothing_is_learnt(tmp_path, how, schedule):
    explaining = make_explanation(schedule=schedule)
    trainer = make_trainer(tmp_path, callbacks=[explaining], **{"max_epochs": 1} | NOTHING[how])
    trainer.fit(make_module(), loader(), loader(shuffle=False))
    assert explaining.result is None
    assert folders(tmp_path) == []


def test_a_trial_run_finds_a_wrong_layer(tmp_path):
    with pytest.raises(LayerError, match=r"unknown layer 'features\.50'; did you mean 'features\.5'"):
        train(tmp_path, [make_explanation(layers=["features.50"])], fast_dev_run=True)


@pytest.mark.parametrize("schedule", [None, Every()], ids=["end", "schedule"])
def test_validation_alone(tmp_path, schedule):
    explaining = make_explanation(schedule=schedule)
    trainer = make_trainer(tmp_path, callbacks=[explaining])
    (metrics,) = trainer.validate(make_module(), loader(shuffle=False), verbose=False)
    assert ("graph/features.5/patterns" in metrics) == (schedule is not None)
    assert folders(tmp_path) == ([] if schedule is None else ["validate"])


def test_an_interrupted_training_has_no_graph(tmp_path):
    class Interrupt(Callback):
        def on_train_epoch_end(self, trainer, module):
            raise KeyboardInterrupt

    explaining = make_explanation()
    with pytest.raises(SystemExit):
        train(tmp_path, [explaining, Interrupt()])
    assert explaining.result is None
    assert folders(tmp_path) == []


def test_resumed_training_ends_with_a_graph_too(tmp_path):
    saving = ModelCheckpoint(tmp_path, save_last=True, save_top_k=0)
    train(tmp_path / "1", [make_explanation(), saving], enable_checkpointing=True)
    explaining, module = make_explanation(), make_module()
    trainer = make_trainer(tmp_path / "2", callbacks=[explaining], max_epochs=2)
    trainer.fit(module, loader(), loader(shuffle=False), ckpt_path=tmp_path / "last.ckpt")
    assert explaining.result.meta["global_step"] == 8
    again = make_explanation()
    again.learner.describe(module)
    same_graphs(explaining.result, again.learner(module))


# --- What is published -----------------------------------------------------------------------------------------------


def test_everything_is_in_one_events_file(tmp_path):
    explaining = make_explanation(decoder=Decoder(8), on_error="raise", scalars="all")
    train(tmp_path, [explaining], 2, logger=tensorboard(tmp_path))
    assert len(list(tmp_path.rglob("events.out.tfevents.*"))) == 1
    events = read_back(tmp_path)
    tags = events.Tags()
    measured = {f"{quantity}{kind}" for quantity in QUANTITIES for kind in ("", *CONTROLS)}
    wanted = {f"graph/{layer}/{name}" for layer in TRAINED for name in {*measured, "patterns"}} | {"graph/seconds"}
    assert {tag for tag in tags["scalars"] if tag.startswith("graph/") and "_known" not in tag} == wanted
    number = float(len(explaining.result["features.5"]))
    assert [(e.step, e.value) for e in events.Scalars("graph/features.5/patterns")] == [(8, number)]
    images = {"graph/features.5/patches", "graph/features.2/patches", "graph/patterns", "graph/drawn"}
    assert set(tags["images"]) == images | {"graph/features.2/synthesis"}
    tables = {f"graph/{layer}/table/text_summary" for layer in TRAINED}
    assert set(tags["tensors"]) == tables | {"custom_scalars__config__"}
    table = events.Tensors("graph/features.5/table/text_summary")[0].tensor_proto.string_val[0].decode()
    assert f"| raw filters | {explaining.result.scalars()['features.5/instability_raw']:.3f} |" in table
    config = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    (category,) = layout_pb2.Layout.FromString(config).category
    assert category.title == "Explanatory graph: graph"
    assert len(category.chart) == 4
    assert {tag for chart in category.chart for tag in chart.multiline.tag} < wanted


def test_every_tag_is_documented():
    text = ExplanatoryGraph.__doc__
    assert {name for name in QUANTITIES | {"patterns", "graph/seconds"} if f"``{name}``" not in text} == set()
    assert {kind for kind in CONTROLS if f"{kind}``" not in text} == set()
    pictures = ("<layer>/patches", "patterns", "drawn", "<layer>/table", "<layer>/synthesis")
    assert {name for name in pictures if f"``graph/{name}``" not in text} == set()


def test_files(tmp_path):
    explaining = make_explanation()
    train(tmp_path, [explaining])
    end = tmp_path / "interp" / "graph" / "end"
    names = sorted(path.name for path in end.iterdir())
    assert [re.sub("-[0-9a-f]{16}", "", name) for name in names] == [
        "graph.safetensors", "graph.html", "graph.json"
    ]  # fmt: skip
    same_graphs(GraphResult.load(end), explaining.result)
    page = (end / "graph.html").read_text()
    assert not re.findall(r"""(?:src|href|url\()\s*=?\s*["']?(?:https?:)?//""", page)
    assert "data:image/jpeg;base64," in page
    assert "steadier than the centre" in page


def test_without_landmarks_there_is_a_graph_but_no_evaluation(tmp_path, told):
    explaining = make_explanation(RandomProbe(12), on_error="raise")
    train(tmp_path, [explaining])
    assert set(explaining.result.scalars()) == {"features.5/patterns", "features.2/patterns", "seconds"}
    assert [kind for kind, *_ in explaining.shown(explaining.result)] == [Image, Image, Figure, Figure]
    assert explaining.charts(explaining.result) == {}
    assert not any("correlation" in line for line in told)
    assert told[-1].startswith(f"graph: {number_of_patterns(explaining)} patterns; browse them in ")
    same_graphs(GraphResult.load(tmp_path / "interp" / "graph" / "end"), explaining.result)


def test_csv_holds_every_scalar(tmp_path):
    explaining = make_explanation(scalars="all")
    train(tmp_path, [explaining], logger=CSVLogger(tmp_path, name=None, version=""))
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {f"graph/{name}" for name in explaining.result.scalars()} <= set(rows[-1])
    assert float(rows[-1]["graph/features.2/patterns"]) == len(explaining.result["features.2"])
    assert folders(tmp_path) == ["end"]


@pytest.fixture
def told(monkeypatch):
    lines = []
    for module in (explanatory_graph, base):
        monkeypatch.setattr(module, "rank_zero_info", lines.append)
    return lines


def test_an_estimate_comes_first_then_progress_then_the_findings(tmp_path, told):
    explaining = make_explanation()
    train(tmp_path, [explaining])
    first, *rest = told
    assert re.fullmatch(r"graph: learning the graph, about \d+ s in all", first)
    progress = [int(found[1]) for line in rest if (found := re.fullmatch(r"graph: (\d+) % after \d+ s", line))]
    assert len(progress) == 3
    assert progress == sorted(set(progress))
    found = explaining.result.scalars()
    assert rest[3].startswith(
        f"graph: features.5: displacement correlation with parts {found['features.5/correlation']:.2f}"
    )
    assert f"of the patterns held still {found['features.2/instability_frozen']:.3f}" in rest[4]
    assert rest[5:] == [
        f"graph: {number_of_patterns(explaining)} patterns; browse them in {tmp_path / 'interp/graph/end/graph.html'}"
    ]


def test_estimate_by_hand(monkeypatch, told):
    """The first iteration is no measure; then work of 1 takes 2 s, so that all 10 take 20, the first 2 of them over."""
    explaining = make_explanation()
    explaining.prepare(make_module(), None)
    for done, now in ((1, 10.0), (2, 12.0), (3, 14.0), (4, 16.0), (8, 24.0), (10, 28.0)):
        monkeypatch.setattr(explanatory_graph.time, "perf_counter", lambda now=now: now)
        explaining.learner.learning(done, 10)
    assert told == [
        "graph: learning the graph, about 20 s in all", "graph: 30 % after 6 s", "graph: 80 % after 16 s"
    ]  # fmt: skip


def test_progress_of_every_graph_of_a_schedule(tmp_path, told):
    train(tmp_path, [make_explanation(schedule=Every())], 2)
    assert sum("learning the graph, about" in line for line in told) == 3


# --- Several callbacks -----------------------------------------------------------------------------------------------


def test_two_categories_are_two_callbacks(tmp_path):
    probe = SpotProbe(24, categories=2, side=24)
    pair = [make_explanation(probe, category=number, name=f"kind_{number}") for number in range(2)]
    trainer = train(tmp_path, pair)
    for number, each in enumerate(pair):
        assert each.result.learnt_from.images.tolist() == list(range(number, 24, 2))
        stored = GraphResult.load(tmp_path / "interp" / f"kind_{number}" / "end")
        assert (stored.settings["category"], stored.meta["name"]) == (number, f"kind_{number}")
        alone = make_explanation(probe, category=number)
        alone.learner.describe(trainer.lightning_module)
        same_graphs(each.result, alone.learner(trainer.lightning_module))


def test_two_of_one_name_are_refused(tmp_path):
    # By Lightning, which asks for callbacks' states.
    with pytest.raises(RuntimeError, match="more than one stateful callback"):
        train(tmp_path, [make_explanation(category=0), make_explanation(category=0)])
    with pytest.raises(ProbeError, match="two callbacks are named 'graph'; give one of them another name="):
        train(tmp_path, [make_explanation(), LocationInstability(SpotProbe(12, side=24), [TOP], name="graph")])


class Passes(Callback):
    """Counts forward passes of five rows, which are batches of the probe."""

    def __init__(self):
        self.number = 0

    def setup(self, trainer, module, stage):
        def count(_module, args):
            self.number += len(args[0]) == 5

        module.register_forward_pre_hook(count)


class Drawing(ExplanatoryGraph):
    """Notes what it has drawn when its files are written."""

    def save(self, result, folder):
        self.kept = [*getattr(self, "kept", []), self.drawn]
        super().save(result, folder)


@pytest.mark.parametrize("order", [1, -1], ids=["first", "second"])
def test_a_sweep_is_shared_with_unchanged_results(tmp_path, told, order):
    probe, passes = SpotProbe(12, side=24), Passes()
    location = LocationInstability(probe, TRAINED, schedule=Every(), batch_size=5)
    explaining, alone = (
        make_explanation(probe, schedule=Every(), decoder=Decoder(8), kind=kind) for kind in (Drawing, ExplanatoryGraph)
    )
    train(tmp_path / "together", [passes, *[explaining, location][::order]], num_sanity_val_steps=0)
    # Three batches for both after the epoch, three for the graph at the end, and two drawings of six images.
    assert passes.number == 6
    assert [each.layer for each in explaining.kept] == [LOW, LOW]
    # Of the graph that is shown with it, not of the one before.
    assert explaining.kept[0] is not explaining.kept[1]
    assert sum("learning the graph, about" in line for line in told) == 2
    train(tmp_path / "alone", [alone], num_sanity_val_steps=0)
    shared, single = (
        GraphResult.load(tmp_path / name / "interp" / "graph" / "epoch_0000") for name in ("together", "alone")
    )
    same_graphs(shared, single)


def test_it_goes_to_other_processes(tmp_path):
    """Launchers that start processes send the callbacks there."""
    explaining = pickle.loads(pickle.dumps(make_explanation(decoder=Decoder(6))))
    train(tmp_path, [explaining])
    assert explaining.result.names == TRAINED


# --- Decoders --------------------------------------------------------------------------------------------------------


def test_a_decoder_draws_from_the_layer_that_it_fits(tmp_path):
    decoder = Decoder(6).train()
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    explaining = make_explanation(decoder=decoder, on_error="raise")
    train(tmp_path, [explaining])
    assert explaining.drawn.layer == TOP
    assert explaining.drawn.images.shape == explaining.drawn.made.kept.shape == (6, 3, 24, 24)
    # Everything of it is as it was.
    assert decoder.training
    for name, value in decoder.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_decoder_comes_from_its_file(tmp_path):
    decoder = UpConvolution.for_maps(torch.rand(2, 6, 6, 6), torch.rand(2, 3, 24, 24), width=16)
    save_decoder(decoder, tmp_path / "decoder.safetensors")
    explaining = make_explanation(decoder=str(tmp_path / "decoder.safetensors"), on_error="raise")
    train(tmp_path, [explaining])
    assert explaining.drawn.layer == TOP
    assert torch.allclose(explaining.drawn.made.full, decoder.mean_image.expand(6, -1, -1, -1), atol=1e-5)


@pytest.mark.parametrize(
    ("decoder", "text"),
    [
        (Decoder(5), "features.5: maps of 5 filters only; features.2: maps of 5 filters only"),
        (Decoder(6, size=20), r"features.5: draws \(1, 3, 20, 20\), not \(1, 3, 24, 24\)"),
    ],
    ids=["filters", "size"],
)
def test_a_decoder_that_fits_no_layer_is_refused_before_training(tmp_path, decoder, text):
    module = make_module()
    with pytest.raises(DatasetError, match=f"the decoder fits none of the layers .*{text}.*recipes/graph_decoder"):
        train(tmp_path, [make_explanation(decoder=decoder)], module=module)
    assert module.losses == []


def test_a_foreign_file_is_no_decoder(tmp_path):
    write_safetensors(tmp_path / "weights.safetensors", {"a": torch.zeros(2).numpy()})
    with pytest.raises(DatasetError, match=r"weights\.safetensors: these are not the weights of an up-convolution"):
        make_explanation(decoder=tmp_path / "weights.safetensors")
    with pytest.raises(DatasetError, match=r"nothing\.safetensors: cannot be read"):
        make_explanation(decoder=tmp_path / "nothing.safetensors")


# --- What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"layers": TRAINED[::-1]}, LayerError, r"layers go from the top down, .*give \['features.5', 'features.2'\]"),
        ({"layers": ["features.9"]}, LayerError, "unknown layer 'features.9'"),
        ({"layers": ["head"]}, LayerError, "head"),
        ({"probe": SpotProbe(1, side=24)}, DatasetError, "2 patterns a filter cannot be learnt from 1 images"),
        ({"byte_budget": 1000}, DatasetError, "the maps of 12 images take .* GiB, more than the byte_budget"),
        ({"graph": {"patterns": 50}}, LayerError, "50 patterns a filter, but its maps have 36 units"),
    ],
    ids=["order", "unknown", "no maps", "one image", "budget", "patterns"],
)
def test_what_cannot_work_is_refused_before_training(tmp_path, options, error, text):
    module = make_module()
    with pytest.raises(error, match=text):
        train(tmp_path, [make_explanation(**options)], module=module)
    assert module.losses == []


def test_unknown_options_are_refused_at_once():
    with pytest.raises(DatasetError, match="unknown category 'dog'"):
        make_explanation(category="dog")
    with pytest.raises(DatasetError, match="no image of SpotProbe is of category 3"):
        make_explanation(category=3)
    with pytest.raises(ValueError, match="upsample must be one of receptive_field, cell; got 'nearest'"):
        make_explanation(upsample="nearest")


# --- What may fail without ending the training -----------------------------------------------------------------------


def fail(*args, **options):
    raise OSError("no space left")


def test_failing_outputs_are_said_once_and_harm_no_other(tmp_path, monkeypatch):
    for function in ("draw_graph", "node_patches", "evaluation_table", "page_scores"):
        monkeypatch.setattr(explanatory_graph, function, fail)
    explaining = make_explanation(schedule=Every())
    with pytest.warns(UserWarning, match="graph: could not write") as warned:
        train(tmp_path, [explaining], 1, logger=tensorboard(tmp_path))
    said = [str(each.message) for each in warned if "could not write" in str(each.message)]
    assert [text.split(": OSError: no space left. ")[0] for text in said] == [
        f"graph: could not write {kind}" for kind in ("files", "image", "table", "figure")
    ]
    tags = read_back(tmp_path).Tags()
    assert tags["images"] == ["graph/patterns"]
    assert {"graph/features.5/patterns", "graph/seconds"} <= set(tags["scalars"])
    same_graphs(GraphResult.load(tmp_path / "interp" / "graph" / "end"), explaining.result)


def test_a_file_that_cannot_be_written_is_said_once(tmp_path, monkeypatch, told):
    monkeypatch.setattr(GraphResult, "save", fail)
    explaining = make_explanation()
    with pytest.warns(UserWarning, match="graph: could not write files: OSError: no space left"):
        train(tmp_path, [explaining])
    assert explaining.result is not None
    # A page that is not there is not to be browsed.
    assert told[-1] == f"graph: {number_of_patterns(explaining)} patterns"


def test_a_failing_decoder_is_said_once(tmp_path):
    # It has drawn once to be checked, at the start.
    explaining = make_explanation(decoder=Decoder(8, fails_after=1), schedule=Every())
    with pytest.warns(UserWarning, match="graph: could not write synthesis: .*out of paint") as warned:
        train(tmp_path, [explaining])
    assert sum("could not write" in str(each.message) for each in warned) == 1
    assert explaining.drawn is None
    assert folders(tmp_path) == ["end", "epoch_0000"]


def test_failing_outputs_raise_if_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(explanatory_graph, "write_graph_page", fail)
    with pytest.raises(OSError, match="no space left"):
        train(tmp_path, [make_explanation(on_error="raise")])


class Die(Callback):
    """The top layer falls silent."""

    def on_train_epoch_start(self, trainer, module):
        nn.init.constant_(module.features[4].weight, 0.0)
        nn.init.constant_(module.features[4].bias, -100.0)


SILENT = r"graph: layer 'features\.5' has no filter whose response is ever above 0; there is nothing to show of it"


def test_a_network_without_a_graph_is_said_and_nothing_is_lost(tmp_path):
    saving, explaining = ModelCheckpoint(tmp_path, save_last=True), make_explanation()
    with pytest.warns(UserWarning, match=SILENT):
        train(tmp_path, [explaining, Die(), saving], logger=tensorboard(tmp_path), enable_checkpointing=True)
    assert explaining.result is None
    assert (tmp_path / "last.ckpt").exists()
    assert not (tmp_path / "interp" / "graph").exists()
    assert "val_loss" in read_back(tmp_path).Tags()["scalars"]


@pytest.mark.parametrize("order", [1, -1], ids=["first", "second"])
def test_others_show_what_they_find_where_there_is_no_graph(tmp_path, order):
    probe = SpotProbe(12, side=24)
    location = LocationInstability(probe, TRAINED, schedule=Every(), batch_size=5)
    explaining = make_explanation(probe, schedule=Every())
    with pytest.warns(UserWarning, match=SILENT):
        trainer = train(tmp_path, [Die(), *[explaining, location][::order]], num_sanity_val_steps=0)
    assert location.result is not None
    assert any(name.startswith("location/") for name in trainer.callback_metrics)
    assert not any(name.startswith("graph/") for name in trainer.callback_metrics)


def test_without_matplotlib_there_are_no_figures_but_all_else(tmp_path, monkeypatch):
    hide(monkeypatch, {"matplotlib"})
    for module in (explanatory_graph, pictures):
        monkeypatch.setattr(module, "available", lambda name: name != "matplotlib")
    # Neither the fonts of the tests before are taken, nor are these left to the tests after.
    monkeypatch.setattr(patches, "scalable_font", pictures.scalable_font.__wrapped__)
    explaining = make_explanation(on_error="raise")
    train(tmp_path, [explaining], logger=tensorboard(tmp_path))
    assert set(read_back(tmp_path).Tags()["images"]) == {f"graph/{layer}/patches" for layer in TRAINED}
    assert (tmp_path / "interp" / "graph" / "end" / "graph.html").exists()


def test_without_safetensors_it_is_said_that_the_graph_is_not_saved(tmp_path, monkeypatch, told):
    hide(monkeypatch, {"safetensors"})
    monkeypatch.setattr(explanatory_graph, "available", lambda name: name != "safetensors")
    (tmp_path / "decoder.safetensors").touch()
    with pytest.raises(MissingExtraError, match="safetensors"):
        make_explanation(decoder=tmp_path / "decoder.safetensors")
    train(tmp_path, [make_explanation(on_error="raise")])
    assert "graph: the graph is not saved: pip install 'lightning-interp[io]'" in told
    assert [path.name for path in (tmp_path / "interp" / "graph" / "end").iterdir()] == ["graph.html"]
