"""Is it the lipstick, or the make-up? Train on biased faces, see the shortcut, repair it, compare."""

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.loggers import TensorBoardLogger
from torch import nn

from lightning_interp import ContextBias, Every, RenderedFaces, RightReasons, diagnose
from lightning_interp.bias_results import Score
from lightning_interp.losses import ContextRandomiser
from lightning_interp.report.console import aligned
from recipes.lipstick.module import CONTEXT, PLACE, REGION, TARGET, LipstickFaces, LipstickNet, lipstick_logits
from recipes.rendered_faces.module import ATTRIBUTES

REPAIRS = ("swap", "balance", "penalty")


def main(args: Sequence[str] | None = None) -> None:
    options = parse(args)
    start, used = time.perf_counter(), time.process_time()
    columns = {"biased": run("biased", "", options), "repaired": run("repaired", options.repair, options)}
    rows = [(row, *(number(column[row]) for column in columns.values())) for row in columns["biased"]]
    print(f"\n{aligned([(TARGET, *columns), *rows])}")
    print(f"\nTensorBoard: .venv/bin/tensorboard --logdir {options.runs} --samples_per_plugin images=200")
    print(f"\nIn all: {time.perf_counter() - start:.0f} s, {time.process_time() - used:.0f} s of processor time")


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repair", choices=REPAIRS, default="swap")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--faces", type=int, default=4000, help="faces to train on")
    parser.add_argument("--probe-faces", type=int, default=256, help="faces to diagnose with")
    parser.add_argument("--rho", type=float, default=0.95, help="correlation of lipstick and make-up in training")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the TensorBoard log")
    parser.add_argument("--accelerator", default="auto")
    return parser.parse_args(args)


def run(name: str, means: str, options: argparse.Namespace) -> dict[str, float]:
    """Train once, while the callback says what the score depends on, and give a column of the table."""
    print(f"\nThe {name} run: {options.faces} faces, {TARGET} and {CONTEXT} correlated by {options.rho}", flush=True)
    seed_everything(0)
    data = LipstickFaces(options.faces, max(options.faces // 4, 1), rho=options.rho, balanced=means == "balance")
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
        schedule=Every(n_epochs=2, at_start=True),
    )
    trainer = Trainer(
        accelerator=options.accelerator,
        max_epochs=options.epochs,
        logger=TensorBoardLogger(options.runs, name=f"lipstick_{name}"),
        callbacks=[bias, *repair(means)],
        log_every_n_steps=10,
    )
    net = LipstickNet()
    trainer.fit(net, data)
    return column(net, data, bias.result.scores)


def repair(means: str) -> list[RightReasons]:
    """What keeps the network from the shortcut; the positions are those of the masks in a batch."""
    if means == "swap":
        # If every face has another's eyes, they tell nothing of it.
        swap = ContextRandomiser("swap", p=1.0)
        return [RightReasons(2, "binary", context=3, randomiser=swap, logits=lipstick_logits)]
    return [RightReasons(2, "binary", weight=0.1, logits=lipstick_logits)] if means == "penalty" else []


def column(net: nn.Module, data: LipstickFaces, reliance: Mapping[str, Score]) -> dict[str, float]:
    """Accuracies by split, and what the diagnostics found."""
    biased, unbiased = accuracies(net, data.biased), accuracies(net, data.unbiased)
    names = {"CRR": "crr", "SCR": "scr", "exact reliance": "exact_reliance", "cosine with make-up": "relation"}
    return {
        "accuracy, biased split": biased["accuracy"].value,
        "accuracy, unbiased split": unbiased["accuracy"].value,
        "worst group, unbiased split": unbiased[f"worst_group_accuracy/{CONTEXT}"].value,
        **{title: reliance[f"{name}/{CONTEXT}"].value for title, name in names.items()},
    }


def accuracies(net: nn.Module, faces: RenderedFaces) -> Mapping[str, Score]:
    """Of all faces and of the worst group, without any intervention."""
    asked = {"checks": ("groups",), "outputs": ATTRIBUTES, "max_samples": len(faces), "examples": 0}
    return diagnose(net, faces, TARGET, REGION, {CONTEXT: PLACE}, **asked).scores


def number(value: float) -> str:
    return "no signal" if math.isnan(value) else f"{value:.3f}"


if __name__ == "__main__":
    main()
