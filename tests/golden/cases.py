"""What is frozen, case by case: a function of a folder to write to, which gives frozen fields (:mod:`.freeze`)."""

import contextlib
import io
import json
import os
import re
import sys
from pathlib import Path
from unittest import mock

import pytorch_lightning
import torch
import yaml
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from lightning_interp import (
    ContextBias,
    Every,
    ExplanatoryGraph,
    GraphOptions,
    GraphResult,
    InterpretableFilters,
    LocationInstability,
    NetworkDissection,
    PartInterpretability,
    RightReasons,
    diagnose,
    dissect,
    explanatory_graph,
    load_bias,
    load_parts,
    load_result,
    measure_parts,
    save_bias,
    save_parts,
    save_result,
)
from lightning_interp.losses import ContextRandomiser, Ramp
from tests.golden.freeze import forms, freeze, in_short
from tests.golden.network import LAYERS, OUTPUTS, GoldenModule, face_loader, faces, golden_net

EVERY = Every(n_epochs=1, at_start=True)
# What was frozen is all that was logged; the headline alone came later.
ALL = {"scalars": "all"}
QUESTION = {"target": "lipstick", "region": "mouth", "contexts": {"makeup": "eyes", "blond": "hair"}}
# All but those that need captum.
CHECKS = (
    *("groups", "occlusion", "swap", "exact", "attribution", "relations"),
    *("noise", "background", "gradient", "slices"),
)


def pictures(folder):
    """The faces that all others are made from; if these differ, so will everything."""
    probe = faces(8)
    return freeze(
        {
            "images": torch.stack([probe.image(index) for index in range(8)]),
            "landmarks": torch.stack([probe.facts(index)["landmarks"] for index in range(8)]),
            "labels": {
                category: torch.stack([probe.labels(index).planes[category] for index in range(8)])
                for category in ("object", "part", "material", "texture", "color")
            },
            "attributes": [probe.facts(index)["attributes"] for index in range(8)],
            "fingerprint": probe.fingerprint(),
            "answers": golden_net()(torch.zeros(1, 3, 32, 32, dtype=torch.float64)).detach(),
        }
    )


def _dissection(folder, layers=tuple(LAYERS), **options):
    result = dissect(golden_net(), faces(), layers, batch_size=16, top_k=3, **options)
    save_result(result, folder)
    return _frozen_dissection(load_result(folder)) | freeze(forms(folder), "files")


def _frozen_dissection(result):
    """All fields, and what follows from them."""
    found = freeze(result)
    for name, layer in result.layers.items():
        derived = ("valid", "iou", "chance_iou", "best", "best_iou", "chance_best_iou", "beats_chance", "is_detector")
        for field in (*derived, "scores", "chance_scores", "information_quality", "chance_max_iou"):
            found |= freeze(getattr(layer, field), f"{name}.{field}")
        found |= freeze(layer.rows[:1], f"{name}.rows")
    return found | freeze(in_short(result.scalars()), "scalars")


def dissect_cvpr2017(folder):
    return _dissection(folder, quantile=0.02)


def dissect_pnas2020(folder):
    return _dissection(folder, LAYERS[:1], preset="pnas2020", mask_size=(16, 16))


def dissect_receptive_field(folder):
    return _dissection(folder, LAYERS[:1], upsample="receptive_field", area_images="all", quantile=0.02, max_samples=24)


def _bias(folder, net, **options):
    result = diagnose(net, faces(), batch_size=16, examples=2, **QUESTION | options)
    save_bias(result, folder)
    loaded = load_bias(folder)
    shown = {"shown": [[e.index, e.label, [v.caption for v in e.versions]] for e in result.examples]}
    drawn = [
        {"logits": [v.logit for v in e.versions], "should": [v.should_change for v in e.versions], "heat": e.heat}
        | {"image": e.versions[-1].image, "region": e.region}
        for e in result.examples
    ]
    return freeze(loaded) | freeze(shown | {"drawn": drawn}) | freeze(forms(folder), "files")


def bias_all_checks(folder):
    training = {"lipstick": [0, 1] * 20, "makeup": [0, 1] * 18 + [1, 0] * 2, "blond": [0, 0, 1, 1] * 10}
    related = {("lipstick", "blond"): 0, ("lipstick", "makeup"): 1}
    options = {"checks": CHECKS, "outputs": OUTPUTS, "training": training, "expected": related}
    return _bias(folder, golden_net(), **options)


def bias_some_checks(folder):
    options = {
        "checks": ("groups", "occlusion"),
        "contexts": {"makeup": "eyes"},
        "fills": ("grey",),
        "layer": LAYERS[1],
    }
    return _bias(folder, golden_net(1), **options)


def _parts(folder, **options):
    measures = ["location", "purity", "interpretability"]
    result = measure_parts(golden_net(), faces(), LAYERS, measures=measures, batch_size=16, **options)
    save_parts(result, folder)
    return _frozen_parts(load_parts(folder)) | freeze(forms(folder), "files")


def _frozen_parts(result):
    nonfinite = {name: layer.nonfinite for name, layer in result.layers.items()}
    return freeze(result) | freeze(nonfinite, "nonfinite") | freeze(in_short(result.scalars()), "scalars")


def parts_cvpr2018(folder):
    return _parts(folder, variant="cvpr2018", top_k=12)


def parts_aaai2018(folder):
    return _parts(folder, variant="aaai2018", rule="peak", category_attribute="blond", parts=["eye", "mouth", "nose"])


GRAPH = {"patterns": (3, 2), "iterations": 5, "parents": 4}


def _graph(folder, **options):
    net = golden_net()
    graph = explanatory_graph(net, faces(24), LAYERS, batch_size=16, **GRAPH | options)
    graph.save(folder)
    graph = GraphResult.load(folder)
    files = freeze(forms(folder), "files")
    return _frozen_graph(graph) | freeze(_uses(graph, net)) | files


def _frozen_graph(graph):
    return (
        freeze(graph)
        | freeze(in_short(graph.scalars()), "scalars")
        | freeze([list(graph.names), list(graph.pruned)], "names")
    )


def _uses(graph, net):
    """What is done with a graph: inference, ranking, edits."""
    best = [pattern.name for pattern in graph.rank(top=6)]
    smaller = graph.prune(best[:3]).restore(best[1:2]).prune(best[4:5])
    boxes = {index: (8.0, 8.0, 24.0, 24.0) for index in (0, 3, 5)}
    return {
        "inferred": graph.infer(faces(6, seed=2), net),
        "ranked": [list(pattern) for pattern in map(_values, graph.rank(top=12))],
        "smaller": {"pruned": list(smaller.pruned), "edits": smaller.edits, "undone": list(smaller.undo().pruned)},
        "kept": {name: smaller.kept(name) for name in smaller.names},
        "doubtful": [_values(pattern) for pattern in smaller.rank_for_pruning(boxes)[:8]],
        "offset": graph.layers[1].offset(graph.layers[0]),
    }


def _values(pattern):
    return list(freeze(pattern).values())


def graph_with_landmarks(folder):
    return _graph(folder)


def graph_with_flips(folder):
    return _graph(folder, flips=True, pose=0, learn_width=True, filters=5)


class Memory(Logger):
    """Keeps what it is sent, in order."""

    name, version = "memory", 0

    def __init__(self):
        super().__init__()
        self.sent = []

    def log_metrics(self, metrics, step=None):
        self.sent.append({"step": step} | {key: float(value) for key, value in metrics.items()})

    def log_hyperparams(self, *args, **kwargs):
        pass


class Notes(pytorch_lightning.Callback):
    """Keeps the scores that a ModelCheckpoint could read at the end of each epoch; list it last."""

    def __init__(self):
        self.epochs = []

    def on_train_epoch_end(self, trainer, module):
        self.epochs.append({key: float(value) for key, value in trainer.callback_metrics.items()})


def make_trainer(folder, callbacks, **options):
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    options = {"logger": False, "max_epochs": 2, "precision": "64-true", "log_every_n_steps": 1} | quiet | options
    return pytorch_lightning.Trainer(
        accelerator="cpu", devices=1, default_root_dir=folder, callbacks=callbacks, **options
    )


def _fit(folder, callback):
    """All scores of two epochs, what was sent to loggers, the files, the state, and what training came to."""
    module, memory, notes = GoldenModule(), Memory(), Notes()
    torch.manual_seed(0)
    trainer = make_trainer(folder, [callback, notes], logger=memory)
    trainer.fit(module, face_loader(), face_loader())
    return {
        **_by_moment("callback_metrics after epoch", notes.epochs),
        **_by_moment("sent to loggers", memory.sent),
        **freeze({"files": _files(Path(folder) / "interp")}),
        **freeze(in_short(callback.state_dict()), "state"),
        **freeze(dict(module.state_dict()), "weights"),
    }


def _by_moment(what, scores):
    """Every tag of every moment in full, as ``callback_metrics after epoch 0: <tag>``."""
    found = {}
    for number, values in enumerate(scores):
        for tag, value in sorted(values.items()):
            found |= freeze(value, f"{what} {number}: {tag}")
    return found


def _files(folder):
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(re.sub(r"graph-[0-9a-f]{16}", "graph-DIGEST", name) for name in names)


def make_dissection(**options):
    return NetworkDissection(
        faces(),
        LAYERS,
        **{"quantile": 0.02, "batch_size": 16, "top_k": 2, "gallery_rows": 3, "schedule": EVERY} | ALL | options,
    )


def make_bias(**options):
    options = {"outputs": OUTPUTS, "batch_size": 16, "examples": 1, "schedule": EVERY} | ALL | options
    return ContextBias(faces(), **QUESTION, **options)


def make_small_bias():
    """Of few checks, so that its checkpoint is small."""
    return make_bias(checks=("occlusion",), max_samples=20)


def make_location(**options):
    options = {"batch_size": 16, "gallery_rows": 3, "schedule": EVERY} | ALL | options
    return LocationInstability(faces(), LAYERS, **options)


def make_parts(**options):
    return PartInterpretability(faces(), LAYERS, **{"batch_size": 16, "schedule": EVERY} | ALL | options)


def make_graph(**options):
    options = {"options": GraphOptions(**GRAPH), "batch_size": 16, "schedule": Every()} | ALL | options
    return ExplanatoryGraph(faces(24), LAYERS, **options)


def make_small_graph():
    """Soon learnt."""
    return make_graph(options=GraphOptions(patterns=2, iterations=2, parents=2), max_samples=12)


def fit_dissection(folder):
    return _fit(folder, make_dissection())


def fit_bias(folder):
    return _fit(folder, make_bias())


def fit_location(folder):
    return _fit(folder, make_location())


def fit_parts(folder):
    return _fit(folder, make_parts())


def fit_graph(folder):
    return _fit(folder, make_graph())


def fit_graph_at_end(folder):
    return _fit(folder, make_graph(schedule=None))


def tensorboard_tags(folder):
    """What is shown in TensorBoard, by kind, and the layout of its charts, of all that watches in one training."""
    schedule = Every()
    watching = [
        make_dissection(schedule=schedule, max_samples=16),
        make_bias(schedule=schedule, max_samples=16, checks=("groups", "occlusion", "swap", "exact", "relations")),
        make_location(schedule=schedule, max_samples=16),
        make_parts(schedule=schedule, max_samples=16),
        make_small_graph(),
    ]
    logger = TensorBoardLogger(folder)
    trainer = make_trainer(folder, watching, logger=logger, max_epochs=1)
    trainer.fit(GoldenModule(), face_loader(8), face_loader(8))
    events = EventAccumulator(logger.log_dir, {"scalars": 0, "images": 1, "tensors": 1, "histograms": 1}).Reload()
    # Scalars are frozen with their values elsewhere.
    kinds = {kind: sorted(events.Tags()[kind]) for kind in ("images", "histograms", "tensors")}
    (layout,) = events.Tensors("custom_scalars__config__")[-1].tensor_proto.string_val
    charts = [
        [category.title, chart.title, *chart.multiline.tag, *_margins(chart)]
        for category in Layout.FromString(layout).category
        for chart in category.chart
    ]
    return freeze({"tags": kinds, "charts": charts})


def _margins(chart):
    return [tag for series in chart.margin.series for tag in (series.value, series.lower, series.upper)]


def fit_filters(folder):
    options = {"labels": lambda batch: batch[1][:, 0].long(), "weight": 0.05, "start_epoch": 1}
    return _fit(folder, InterpretableFilters(LAYERS, 2, **options))


def fit_filters_compact(folder):
    return _fit(folder, InterpretableFilters(LAYERS[:1], loss="spatial_compactness", weight=0.1, start_epoch=0))


def fit_right_reasons(folder):
    swap = ContextRandomiser("swap", p=0.5)
    weight = Ramp(0.1, start_epoch=0, epochs=2)
    return _fit(folder, RightReasons(2, "multilabel", weight=weight, randomiser=swap, context=3, seed=4))


def command_dissect(folder):
    probe = {"class_path": "lightning_interp.RenderedFaces", "init_args": {"num_images": 24, "size": 32, "seed": 1}}
    own = {"probe": probe, "layers": LAYERS, "quantile": 0.02, "batch_size": 8, "top_k": 2}
    config = _config(folder, "NetworkDissection", own)
    command = ["dissect", "--config", config, "--output", f"{folder}/out", "--rows", "3"]
    said = [_said(folder, *command)]
    torch.save(GoldenModule().state_dict(), Path(folder) / "weights.pt")
    said.append(_said(folder, *command, "--ckpt", f"{folder}/weights.pt", "--layers", f"[{LAYERS[1]}]"))
    said.append(_said(folder, *command, "--layers", "[features.9]"))
    return freeze({"said": said, "files": _files(Path(folder))})


def command_graph(folder):
    probe = {"class_path": "lightning_interp.RenderedFaces", "init_args": {"num_images": 16, "size": 32, "seed": 1}}
    own = {"probe": probe, "layers": LAYERS, "options": GRAPH | {"patterns": [3, 2]}, "batch_size": 8}
    said = [_said(folder, "graph", "--config", _config(folder, "ExplanatoryGraph", own), "--output", f"{folder}/out")]
    saved = f"{folder}/out/graph"
    first, second = f"{LAYERS[0]}/0/0", f"{LAYERS[1]}/3/1"
    Path(folder, "pruned.json").write_text(json.dumps({"pruned": [second]}))
    for command in (
        ["show", saved, "--rows", "3"],
        ["prune", saved, "--names", first, second],
        ["prune", saved, "--file", f"{folder}/pruned.json"],
        ["restore", saved, "--names", second],
        ["undo", saved],
        ["prune", saved, "--file", f"{folder}/pruned.json"],
        ["show", saved, "--rows", "1"],
        ["undo", saved],
        ["undo", saved],
        ["undo", saved],
        ["prune", saved, "--names", f"{LAYERS[0]}/0/9"],
        ["export", saved, f"{folder}/out/graph.graphml"],
        ["page", saved, "--out", f"{folder}/out/page.html"],
    ):
        said.append(_said(folder, "graph", *command))
    return freeze({"said": said, "files": _files(Path(folder))})


def _config(folder, callback, options):
    content = {
        "seed_everything": 0,
        "trainer": {
            **{"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "precision": "64-true"},
            "default_root_dir": str(folder),
            "callbacks": [{"class_path": f"lightning_interp.{callback}", "init_args": options}],
        },
        "model": {"class_path": "tests.golden.network.GoldenModule"},
    }
    path = Path(folder) / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def _said(folder, *args):
    """The exit code and the lines of a command, without wall times and places."""
    from lightning_interp.cli import main

    out, error = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["lightning-interp"]),
        mock.patch.object(sys, "path", list(sys.path)),
        mock.patch.dict(os.environ, {"JSONARGPARSE_DEPRECATION_WARNINGS": "off"}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
    ):
        code = main(list(args))
    last = [line for line in error.getvalue().splitlines() if line.startswith("lightning-interp: error:")]
    lines = [
        re.sub(r"\d+\.\d+ s\b", "# s", line.replace(str(folder), "FOLDER")) for line in out.getvalue().splitlines()
    ]
    return {"command": " ".join(args).replace(str(folder), "FOLDER"), "code": code, "out": lines, "error": last}


CASES = {
    each.__name__: each
    for each in (
        *(pictures, dissect_cvpr2017, dissect_pnas2020, dissect_receptive_field, bias_all_checks, bias_some_checks),
        *(parts_cvpr2018, parts_aaai2018, graph_with_landmarks, graph_with_flips),
        *(fit_dissection, fit_bias, fit_location, fit_parts, fit_graph, fit_graph_at_end, tensorboard_tags),
        *(fit_filters, fit_filters_compact, fit_right_reasons, command_dissect, command_graph),
    )
}
