"""One row a method, and what every question of the contract needs to be put to it: ``tests/test_contract.py``.

To put all questions to a new method, add a row. Only public names are used: rows outlive the modules that they measure.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import nn

from lightning_interp import (
    BiasResult,
    ContextBias,
    DatasetError,
    DissectionResult,
    Every,
    ExplanatoryGraph,
    GraphOptions,
    GraphResult,
    LocationInstability,
    NetworkDissection,
    PartInterpretability,
    PartResult,
    RenderedFaces,
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

IMAGES = 17  # no number of processes and no size of batch divides it
BATCH = 5
SIDE = 32  # of probe images; those of the training are smaller, so that a network can tell which it sees
TOP, BELOW = "features.5", "features.2"


class Faces(RenderedFaces):
    """Rendered faces of 0 and 255 alone, so that no sum of an exact network is rounded, whatever the size of a batch.

    Args:
        seed: Another one gives another probe set.
        damaged: Images that cannot be read.

    Attributes:
        read: The images that were read, in order.
    """

    def __init__(self, seed: int = 0, damaged: tuple[int, ...] = ()) -> None:
        super().__init__(IMAGES, size=SIDE, seed=seed, correlations={"makeup": 0.5})
        self.damaged = damaged
        self.read: list[int] = []

    def image(self, index):
        self.read.append(index)
        if index in self.damaged:
            raise DatasetError(f"face_{index}.png: cannot be decoded")
        return _two_values(super().image(index))

    def counterfactuals(self, indices, do):
        return _two_values(super().counterfactuals(indices, do))


def _two_values(picture):
    return (picture > 127).byte() * 255


class Network(LightningModule):
    """Two convolutions and two logits; seeded, and noting its losses.

    Args:
        dropout: 0 for a training that goes on as if it had not been interrupted: random states are not saved.
        exact: No batch statistics, and weights in steps of 1/16: no sum is rounded.
    """

    def __init__(self, dropout: float = 0.2, exact: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1),
            nn.Identity() if exact else nn.BatchNorm2d(6),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
            nn.Conv2d(6, 5, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Linear(5, 2)
        self.losses: list[float] = []
        if exact:
            for weights in self.parameters():
                weights.data = (weights.data * 16).round() / 16

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


@dataclass(frozen=True)
class Row:
    """A method.

    Args:
        name: Of the callback, hence first part of every tag.
        callback: Its class.
        function: The same outside of training.
        result: What both give.
        options: What both take beside the probe set, as a config file could have it.
        callback_alone: What the callback takes beyond that, as a config file could have it.
        function_alone: What the function takes beyond that.
        save: Writes a result to a folder.
        load: Reads it.
        monitor: A score that is never NaN, to choose checkpoints by.
        unsaved: Fields of the result that are neither saved nor on any process but the first.
        versions: How many versions of an image the network is shown in all, at most: itself, and changed ones.
        tries: Whether a trial run measures anything; a method that one batch tells nothing looks at no more either.
        draws: Whether it draws pictures.
        callback_decides: Options of the engine that are not the callback's user's to choose.
        fails_today: By question (the name of a test without ``test_``), why the method fails it.
    """

    name: str
    callback: type
    function: Callable[..., Any]
    result: type
    options: Mapping[str, Any]
    save: Callable[[Any, Path], Path]
    load: Callable[[Path], Any]
    monitor: str
    callback_alone: Mapping[str, Any] = field(default_factory=dict)
    function_alone: Mapping[str, Any] = field(default_factory=dict)
    unsaved: tuple[str, ...] = ()
    versions: int = 1
    tries: bool = True
    draws: bool = True
    callback_decides: tuple[str, ...] = ()
    fails_today: Mapping[str, str] = field(default_factory=dict)

    def make(self, probe: Faces | None = None, **options: Any) -> Any:
        """The callback; it probes before training and after every epoch."""
        own = {"schedule": Every(at_start=True), "batch_size": BATCH} | dict(self.callback_alone) | options
        if isinstance(own.get("options"), dict):
            own["options"] = GraphOptions(**own["options"])
        return self.callback(probe or Faces(), **self.options, **own)

    def measure(self, model: nn.Module, probe: Faces | None = None, **options: Any) -> Any:
        """What the function finds."""
        own = {"batch_size": BATCH} | dict(self.function_alone) | options
        return self.function(model, probe or Faces(), **self.options, **own)


_LEARNING = {"patterns": 2, "parents": 3, "candidates": 6, "iterations": 4}

ROWS = (
    Row(
        name="dissect",
        callback=NetworkDissection,
        function=dissect,
        result=DissectionResult,
        options={"layers": [TOP], "quantile": 0.05, "top_k": 2},
        callback_alone={"gallery_rows": 2},
        save=save_result,
        load=load_result,
        monitor=f"dissect/{TOP}/detectors",
    ),
    Row(
        name="bias",
        callback=ContextBias,
        function=diagnose,
        result=BiasResult,
        # Grey is exact; the colours of regions and of skin are means.
        options={
            "target": "lipstick",
            "region": "mouth",
            "contexts": {"makeup": "eyes"},
            "fills": ["grey"],
            "examples": 1,
        },
        save=save_bias,
        load=load_bias,
        monitor="bias/lipstick/accuracy",
        unsaved=("examples",),
        versions=12,
    ),
    Row(
        name="location",
        callback=LocationInstability,
        function=measure_parts,
        result=PartResult,
        options={"layers": [TOP]},
        callback_alone={"gallery_rows": 2},
        function_alone={"measures": ["location", "purity"]},
        callback_decides=("measures",),
        save=save_parts,
        load=load_parts,
        monitor=f"location/{TOP}/dead",
    ),
    Row(
        name="parts",
        callback=PartInterpretability,
        function=measure_parts,
        result=PartResult,
        options={"layers": [TOP]},
        function_alone={"measures": ["purity", "interpretability"]},
        callback_decides=("measures", "variant", "rule", "landmarks"),
        save=save_parts,
        load=load_parts,
        monitor=f"parts/{TOP}/dead",
        draws=False,
    ),
    Row(
        name="graph",
        callback=ExplanatoryGraph,
        function=explanatory_graph,
        result=GraphResult,
        options={"layers": [TOP, BELOW]},
        callback_alone={"options": _LEARNING},
        function_alone=_LEARNING,
        save=GraphResult.save,
        load=GraphResult.load,
        monitor=f"graph/{TOP}/patterns",
        tries=False,
    ),
)
