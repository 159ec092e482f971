"""Is it the lipstick, or the make-up? Train on biased faces, see the shortcut, repair it, compare: `make demo`."""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from torch import nn

from lightning_interp import (
    ContextBias,
    Every,
    ExplanatoryGraph,
    NetworkDissection,
    RenderedFaces,
    RightReasons,
    diagnose,
)
from lightning_interp.losses import ContextRandomiser
from lightning_interp.methods.bias.result import Score
from recipes.lipstick.module import CONTEXT, PLACE, REGION, TARGET, LipstickFaces, LipstickNet, lipstick_logits
from recipes.lipstick.tell import Run, summary
from recipes.rendered_faces.module import ATTRIBUTES

REPAIRS = {
    "swap": "every face is shown with the eyes of another",
    "balance": "lipstick and make-up are drawn in all four combinations equally often",
    "penalty": "gradients outside the mouth are penalised",
}
LAYER = "features.3"
GRAPH_LAYERS = ["features.4", "features.3"]


def main(args: Sequence[str] | None = None) -> None:
    options = parse(args)
    start, used = time.perf_counter(), time.process_time()
    data = faces(options)
    # The trainings share what is rendered, unless they draw from it differently.
    other = faces(options, balanced=True) if options.repair == "balance" else data
    together = f"{(1 + options.rho) / 2:.1%}"
    print(
        f"The biased run: {options.faces} faces; on {together} lipstick and make-up are both there or both not",
        flush=True,
    )
    biased = run("biased", data, [], options)
    print(f"\nThe repaired run: the same, but {REPAIRS[options.repair]}", flush=True)
    # Patterns and edges of the network that is to be used, from faces without the bias.
    graph = [ExplanatoryGraph(RenderedFaces(options.graph_faces), GRAPH_LAYERS)] if options.graph_faces else []
    repaired = run("repaired", other, [*repair(options.repair), *graph], options)
    print(f"\n{summary(biased, repaired, options.runs)}")
    print(f"\nIn all: {time.perf_counter() - start:.0f} s, {time.process_time() - used:.0f} s of processor time")


def faces(options: argparse.Namespace, balanced: bool = False) -> LipstickFaces:
    return LipstickFaces(options.faces, max(options.faces // 4, 1), rho=options.rho, balanced=balanced)


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repair", choices=REPAIRS, default="swap")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--faces", type=int, default=4000, help="faces to train on")
    parser.add_argument("--probe-faces", type=int, default=256, help="faces to probe with")
    parser.add_argument("--graph-faces", type=int, default=120, help="faces to learn the graph from; 0 for no graph")
    parser.add_argument("--rho", type=float, default=0.95, help="correlation of lipstick and make-up in training")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the TensorBoard log")
    parser.add_argument("--accelerator", default="auto")
    return parser.parse_args(args)


def run(name: str, data: LipstickFaces, others: list[Callback], options: argparse.Namespace) -> Run:
    """Train once, while the callbacks say what units detect and what the score depends on."""
    seed_everything(0)
    dissection, bias = watch(data, options)
    trainer = Trainer(
        accelerator=options.accelerator,
        max_epochs=options.epochs,
        logger=TensorBoardLogger(options.runs, name=f"lipstick_{name}"),
        callbacks=[dissection, bias, *others],
        log_every_n_steps=10,
        enable_model_summary=False,
    )
    net = LipstickNet()
    trainer.fit(net, data)
    found = bias.result, dissection.result[LAYER]
    return Run(name, Path(trainer.log_dir), *found, accuracies(net, data.biased), accuracies(net, data.unbiased))


def watch(data: LipstickFaces, options: argparse.Namespace) -> tuple[NetworkDissection, ContextBias]:
    schedule = Every(n_epochs=2, at_start=True)
    # Quantile and threshold are those of the other recipe, for the same reason. Parts are asked for on unbiased faces.
    probe = RenderedFaces(options.probe_faces)
    dissection = NetworkDissection(probe, [LAYER], quantile=0.01, iou_threshold=0.1, schedule=schedule)
    # The faces to diagnose with are biased as those of the training: others are what one seldom has.
    bias = ContextBias(
        data.biased,
        TARGET,
        REGION,
        {CONTEXT: PLACE},
        checks=("groups", "occlusion", "swap", "exact", "relations"),
        fills=("mean",),
        outputs=ATTRIBUTES,
        max_samples=options.probe_faces,
        schedule=schedule,
    )
    return dissection, bias


def repair(means: str) -> list[RightReasons]:
    """What keeps the network from the shortcut; the positions are those of the masks in a batch."""
    if means == "swap":
        # If every face has another's eyes, they tell nothing of it.
        swap = ContextRandomiser("swap", p=1.0)
        return [RightReasons(2, "binary", context=3, randomiser=swap, logits=lipstick_logits)]
    return [RightReasons(2, "binary", weight=0.1, logits=lipstick_logits)] if means == "penalty" else []


def accuracies(net: nn.Module, faces: RenderedFaces) -> Mapping[str, Score]:
    """Of all faces and of the worst group, without any intervention."""
    asked = {"checks": ("groups",), "outputs": ATTRIBUTES, "max_samples": len(faces), "examples": 0}
    return diagnose(net, faces, TARGET, REGION, {CONTEXT: PLACE}, **asked).scores


if __name__ == "__main__":
    main()
