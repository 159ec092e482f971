"""Explanatory graphs within trainings: they change nothing, agree on all processes, and keep nothing."""

import gc
import weakref

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch import nn

from lightning_interp import Every
from lightning_interp.methods.graph.callback import ExplanatoryGraph
from lightning_interp.methods.graph.maths.learn import learn_graph
from lightning_interp.methods.graph.result import GraphResult
from lightning_interp.methods.graph.study import GraphStudy
from lightning_interp.probing.runner import module_device
from tests.helpers.graphs import assert_same_graph, make_explanation
from tests.helpers.harmless import differences, digest, fit
from tests.helpers.lightning import loader, make_module, make_trainer
from tests.helpers.parts import SpotProbe
from tests.helpers.quiet import LIGHTNING_NOISE
from tests.helpers.ranks import run_ranks, values

pytestmark = [pytest.mark.timeout(120), *map(pytest.mark.filterwarnings, LIGHTNING_NOISE)]


def bare(trace):
    """Without the metrics, among which are those of the callback."""
    return [{key: value for key, value in entry.items() if key != "metrics"} for entry in trace]


class Decoder(nn.Module):
    """From maps of 6 x 6 to images, with dropout and a BatchNorm."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(6, 3, 1), nn.BatchNorm2d(3), nn.Dropout(), nn.Upsample(size=(24, 24)))

    def forward(self, maps):
        return self.layers(maps)


SCENARIOS = {
    "end": {},
    "schedule": {"schedule": Every(at_start=True)},
    "flips": {"graph": {"flips": True}, "schedule": Every()},
    "loader processes": {"num_workers": 1, "trainer": {"limit_val_batches": 0}, "schedule": Every()},
    "decoder": {"decoder": True, "schedule": Every()},
    "bf16-mixed": {"decoder": True, "trainer": {"precision": "bf16-mixed"}},
    "bf16-true": {"decoder": True, "trainer": {"precision": "bf16-true"}},
    "two validations an epoch": {"trainer": {"accumulate_grad_batches": 3, "val_check_interval": 0.5}},
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_training_is_bit_identical(tmp_path, name):
    options = dict(SCENARIOS[name])
    trainer, decoder = options.pop("trainer", {}), Decoder() if options.pop("decoder", False) else None
    without, _, _ = fit(tmp_path / "without", [], max_epochs=1, **trainer)
    explaining = make_explanation(decoder=decoder, on_error="raise", **options)
    trace, _, _ = fit(tmp_path / "with", [explaining], max_epochs=1, **trainer)
    assert not differences(bare(without), bare(trace))
    assert explaining.result.meta["epoch"] is None
    assert (explaining.drawn is None) == (decoder is None)
    if options.get("graph"):
        assert 0 < explaining.result.learnt_from.mirrored.sum() < 12
    once = ["start"] if name == "schedule" else []
    scheduled = ["epoch_0000"] if "schedule" in options else []
    written = sorted(path.parent.name for path in tmp_path.rglob("graph.json"))
    assert written == ["end", *scheduled, *once]


class Elsewhere(Callback):
    """Says after the training that it was on a GPU, and notes where the network is asked to go."""

    def __init__(self, monkeypatch):
        self.monkeypatch, self.asked = monkeypatch, []

    def on_train_end(self, trainer, module):
        place = property(lambda strategy: torch.device("cuda", 3))
        self.monkeypatch.setattr(type(trainer.strategy), "root_device", place)
        module.to = self.asked.append


class Asked:
    """An engine that only notes that it was asked."""

    def __init__(self, engine, note):
        self.engine, self.note = engine, note

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def __call__(self, *args, **options):
        self.note()


def test_the_network_is_probed_where_it_was_trained_and_put_back(tmp_path, monkeypatch):
    """Lightning has moved it to the CPU by then."""
    explaining, watch, during = make_explanation(), Elsewhere(monkeypatch), []
    trainer = make_trainer(tmp_path, callbacks=[explaining, watch], max_epochs=1)
    monkeypatch.setattr(explaining, "engine", Asked(explaining.engine, lambda: during.extend(watch.asked)))
    trainer.fit(make_module(), loader(), loader(shuffle=False))
    assert during == [torch.device("cuda", 3)]
    assert watch.asked == [torch.device("cuda", 3), torch.device("cpu")]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_training_on_a_gpu_ends_with_a_graph_learnt_there(tmp_path, monkeypatch):
    devices = []

    def learn(layers, *args, **options):
        devices.append(layers[0].maps.device.type)
        return learn_graph(layers, *args, **options)

    monkeypatch.setattr("lightning_interp.methods.graph.study.learn_graph", learn)
    explaining, module = make_explanation(decoder=Decoder()), make_module()
    trainer = make_trainer(tmp_path, callbacks=[explaining], max_epochs=1, accelerator="gpu", devices=1)
    trainer.fit(module, loader(), loader(shuffle=False))
    assert devices == ["cuda"]
    assert module_device(module).type == "cpu"


@pytest.mark.parametrize("before", [True, False])
def test_averaged_weights_are_explained_wherever_it_is_listed(tmp_path, before):
    explaining, averaging = make_explanation(), EMAWeightAveraging(decay=0.5)
    _, module, _ = fit(
        tmp_path, [explaining, averaging][:: 1 if before else -1], max_epochs=1, limit_val_batches=0 if before else 4
    )
    # The averaged weights are the network's after the training.
    averaged = dict(averaging._average_model.module.named_parameters())
    assert all(torch.equal(value, averaged[name]) for name, value in module.named_parameters())
    assert_same_graph(explaining.result.layers, alone(module, SpotProbe(12, side=24)).layers)


def alone(module, probe, **options):
    """The graph of a network without a training."""
    engine = make_explanation(probe, **options).learner
    engine.describe(module)
    return engine(module)


# --- What is kept ----------------------------------------------------------------------------------------------------


class Watched(GraphStudy):
    """Remembers all studies, and their maps, weakly."""

    studies, maps_seen = [], []

    def start(self, num_images):
        self.studies.append(weakref.ref(self))
        return super().start(num_images)

    def update(self, batch, maps):
        super().update(batch, maps)
        self.maps_seen.extend(weakref.ref(own[-1]) for own in self.maps.values())


class Tensors(Callback):
    """Counts the tensors that are left at the end of each epoch, and their elements."""

    def __init__(self):
        self.counts = []

    def on_train_epoch_end(self, trainer, module):
        gc.collect()
        found = [each for each in gc.get_objects() if isinstance(each, torch.Tensor)]
        self.counts.append((len(found), sum(each.numel() for each in found)))


@pytest.fixture
def _new_objects_alone():
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_new_objects_alone")
def test_nothing_is_kept_of_a_probe_but_its_result(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_interp.methods.graph.engine.GraphStudy", Watched)
    Watched.studies, Watched.maps_seen = [], []
    explaining, counting = make_explanation(schedule=Every(), decoder=Decoder()), Tensors()
    trainer = make_trainer(tmp_path, callbacks=[explaining, counting], max_epochs=5)
    trainer.fit(make_module(), loader(), loader(shuffle=False))
    assert len(Watched.studies) == 6
    assert len(Watched.maps_seen) == 6 * 3 * 2
    gc.collect()
    assert [ref() for ref in Watched.studies + Watched.maps_seen if ref() is not None] == []
    # From the second epoch on, when the optimiser has its state. A filter that dies has no patterns any more; the maps
    # of a layer have more than 2000 elements.
    numbers, elements = zip(*counting.counts[1:], strict=True)
    assert len(set(numbers)) == 1
    assert max(elements) - min(elements) < 1000


# --- Several processes -----------------------------------------------------------------------------------------------


class Counting(ExplanatoryGraph):
    """Counts how often this process wrote files."""

    written = 0

    def save(self, result, folder):
        self.written += 1
        super().save(result, folder)


# 13 images: shards of 7 and 6, in batches of 5 and less.
IMAGES = 13


VARIANTS = {"with": {}, "flips": {"graph": {"flips": True}}, "without": None}


def explain_on(rank, world, folder):
    told = {}
    for name, options in VARIANTS.items():
        explaining = make_explanation(SpotProbe(IMAGES, side=24), kind=Counting, decoder=Decoder(), **(options or {}))
        callbacks = [] if options is None else [explaining]
        ddp = {"strategy": "ddp", "devices": world, "limit_val_batches": 0}
        trace, module, _ = fit(folder / name, callbacks, max_epochs=1, **ddp)
        did = explaining.written, explaining.drawn is not None
        told[name] = digest(bare(trace)), module.state_dict(), explaining.result, did
    return told


def edges(graph):
    pairs = [pair for layer in graph.layers for pair in zip(layer.names(), layer.parents.tolist(), strict=True)]
    return [(name, parent) for name, parents in pairs for parent in parents]


@pytest.fixture(scope="module")
def on_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return folder, values(run_ranks(explain_on, 2, folder, timeout=90))


@pytest.mark.ddp
@pytest.mark.parametrize("name", ["with", "flips"])
def test_two_processes_learn_the_graph_that_one_learns_and_write_it_once(on_two, name):
    folder, ranks = on_two
    (_, state, graph, did), (_, _, other, did_other) = (told[name] for told in ranks)
    # One graph, to the bit; but for the wall time.
    assert_same_graph(graph.layers, other.layers)
    assert_same_graph(graph.learnt_from, other.learnt_from)
    assert graph.learnt_from.images.tolist() == list(range(IMAGES))
    assert (did, did_other) == ((1, True), (0, False))
    (end,) = (folder / name / "interp" / "graph").iterdir()
    assert len(list(end.iterdir())) == 3
    assert_same_graph(GraphResult.load(end).layers, graph.layers)
    module = make_module()
    module.load_state_dict(state)
    single = alone(module, SpotProbe(IMAGES, side=24), **VARIANTS[name])
    assert edges(graph) == edges(single)
    assert len(edges(graph)) > 30
    for layer, one in zip(graph.layers, single.layers, strict=True):
        for field in ("position", "width", "spread", "score", "weight", "sway"):
            torch.testing.assert_close(getattr(layer, field), getattr(one, field), rtol=1e-6, atol=1e-6)
    assert torch.equal(graph.learnt_from.mirrored, single.learnt_from.mirrored)
    assert bool(graph.learnt_from.mirrored.any()) == (name == "flips")
    numbers, expected = ({**each.scalars(), "seconds": 0} for each in (graph, single))
    assert numbers == pytest.approx(expected, rel=1e-6, abs=1e-6, nan_ok=True)


@pytest.mark.ddp
def test_training_on_two_processes_is_bit_identical(on_two):
    _, ranks = on_two
    for told in ranks:
        assert told["without"][2] is None
        assert told["with"][0] == told["flips"][0] == told["without"][0]
    # Each has batches of its own.
    assert ranks[0]["with"][0] != ranks[1]["with"][0]
