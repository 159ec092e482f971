"""What the context-bias checks read where the right answer is known.

    python -m benchmarks.known_answers --json FILE --figure FILE.png    # half an hour, two cores

It prints the whole table, checks x rho, and the bands; the figure shows reliance and worst group while networks train.

Networks learn from rendered faces whose make-up goes with lipstick by rho, and are asked on other faces: all on the
same biased ones (rho 0.95), on ones as biased as those they learnt from, and on ones without bias. R*, the exact
reliance, comes from rendering the faces again.
"""

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from lightning_interp import RenderedFaces
from lightning_interp.methods.bias.checks import DEFAULT_CHECKS
from lightning_interp.methods.bias.engine import Diagnoser
from lightning_interp.methods.bias.maths.relations import average_precision
from lightning_interp.results.files import write_text
from recipes.rendered_faces.module import ATTRIBUTES, block

# How make-up goes with lipstick on the faces to ask about; None is as on those that were learnt from.
SPLITS = {"biased": 0.95, "as trained": None, "unbiased": 0.0}
RHOS = (0.0, 0.5, 0.8, 0.95)
SEEDS = (0, 1, 2)
FOLLOWED = (0.0, 0.8)
# Other faces than any network learns from.
PROBE_SEED = 7
PLANTED = ("lipstick", "makeup")
# Pairs that have nothing to do with one another: they tell how much the cosine of an unrelated pair varies.
UNRELATED = dict.fromkeys(combinations([name for name in ATTRIBUTES if name not in PLANTED], 2), 0)
# Make-up is the easier cue by far, or networks whose maximum lets one place decide would look at both. Lipstick is as
# faint on every face, or nearly: from bolder lips networks learn it in spite of the shortcut, fainter they do not see.
STRENGTHS = {"lipstick": (0.27, 0.35), "makeup": (1.0, 1.0)}


class Band(NamedTuple):
    """What a score has to read, for every network, or those of one rho."""

    score: str
    split: str
    rho: float | None = None
    low: float = 0.0
    high: float = 1.0


# Those of the design's slow test.
RATIOS = ("exact_reliance/makeup", "crr_grey/makeup", "scr/makeup")
BANDS = (
    *(Band(name, split, 0.0, high=0.15) for name in RATIOS for split in SPLITS),
    *(Band(name, split, 0.95, low=0.85 if split == "unbiased" else 0.75) for name in RATIOS for split in SPLITS),
    *(Band("crr_by_target off R*", split, high=0.15) for split in ("biased", "as trained")),
    *(Band("scr off R*", split, high=0.12) for split in SPLITS),
    Band("e_region", "unbiased", 0.0, low=0.9, high=1.5),
    Band("e_region", "unbiased", 0.95, low=-0.3, high=0.3),
    Band("worst_group_accuracy/makeup", "unbiased", 0.0, low=0.85),
    Band("worst_group_accuracy/makeup", "unbiased", 0.95, high=0.1),
    Band("accuracy", "biased", low=0.95),
    # First of 21 pairs.
    *(Band("planted pair, precision by KL", "unbiased", rho, low=1.0) for rho in RHOS if rho > 0),
    Band("relation/smile (control)", "unbiased", low=-0.1, high=0.1),
)
Scores = dict[str, float]
Points = list[tuple[float, dict[str, Scores]]]
Columns = dict["Run", dict[str, Scores]]


class Run(NamedTuple):
    """A network to train; at a rate of 0 it stays untrained, at 1e-6 it fails to learn."""

    rho: float
    seed: int
    rate: float = 3e-3
    faces: int = 4000
    epochs: int = 12
    size: int = 64
    width: int = 16
    # Hiding the eyes of 480 faces tells a share no better than by 0.03 either way; good enough for the figure.
    biased: int = 1200
    unbiased: int = 480

    @property
    def learns(self) -> bool:
        return self.rate > 1e-4

    @property
    def followed(self) -> bool:
        """Whether it is asked while it trains, for the figure."""
        return self.learns and self.rho in FOLLOWED


UNLEARNT = [Run(0.0, 0, rate=1e-6), Run(0.0, 0, rate=0.0)]


def faces(run: Run, num: int, seed: int, rho: float) -> RenderedFaces:
    """Faces on which make-up goes with lipstick by rho."""
    return RenderedFaces(num, size=run.size, seed=seed, correlations={"makeup": rho}, strengths=STRENGTHS)


def network(width: int) -> nn.Sequential:
    """Four small convolutions; the maximum lets one place decide, as lips or eyes do."""
    return nn.Sequential(
        nn.Conv2d(3, width, 5, stride=2, padding=2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        block(width, 2 * width),
        nn.MaxPool2d(2),
        block(2 * width, 3 * width),
        block(3 * width, 6 * width),
        nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6 * width, len(ATTRIBUTES))),
    )


def train(run: Run) -> Iterator[tuple[float, nn.Module]]:
    """The network before training, then after each half epoch, with the number of epochs."""
    data = faces(run, run.faces, 1000 + run.seed, run.rho).classification(ATTRIBUTES)
    images, labels = (torch.stack(part) for part in zip(*data, strict=True))
    torch.manual_seed(run.seed)
    net = network(run.width)
    yield 0.0, net.eval()
    optimizer = torch.optim.AdamW(net.parameters(), run.rate, weight_decay=1e-2)
    steps = len(images) // 64
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, run.rate, total_steps=run.epochs * steps)
    for epoch in range(run.epochs if run.rate else 0):
        batches = torch.randperm(len(images))[: steps * 64].split(64)
        for step, rows in enumerate(batches, 1):
            net.train()
            loss = nn.functional.binary_cross_entropy_with_logits(net(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if step in (steps // 2, steps):
                yield epoch + (0.5 if step < steps else 1), net.eval()


def diagnosers(run: Run, checks: Mapping[str, Sequence[str]], **options: Any) -> dict[str, Diagnoser]:
    """By split, what asks a network."""
    rhos = {split: run.rho if rho is None else rho for split, rho in SPLITS.items()}
    return {
        split: Diagnoser(
            faces(run, run.unbiased if split == "unbiased" else run.biased, PROBE_SEED, rhos[split]),
            "lipstick",
            "mouth",
            {"makeup": "eyes"},
            outputs=ATTRIBUTES,
            expected=UNRELATED,
            examples=0,
            batch_size=min(64, run.biased, run.unbiased),
            checks=own,
            **options,
        )
        for split, own in checks.items()
    }


def ask(net: nn.Module, asking: Mapping[str, Diagnoser]) -> dict[str, Scores]:
    """By split and name, every score, and whether there is signal."""
    found: dict[str, Scores] = {}
    for split, diagnoser in asking.items():
        diagnoser.describe(net)
        result = diagnoser(net)
        assert result is not None  # nobody stops it
        scores = {name: score.value for name, score in result.scores.items()}
        scores |= {
            f"{name} {end}": getattr(result.scores[name], end)
            for name in ("crr/makeup", "crr_by_target/makeup", "scr/makeup", "exact_reliance/makeup")
            if name in scores
            for end in ("low", "high")
        }
        truth = scores.get("exact_reliance/makeup", math.nan)
        scores |= {
            f"{name} off R*": abs(scores[f"{name}/makeup"] - truth)
            for name in ("crr_by_target", "scr")
            if f"{name}/makeup" in scores
        }
        found[split] = scores | {"signal": float(result.signal.get("makeup", False))} | ranking(result.relations)
    return found


def ranking(relations: Any) -> Scores:
    """How well the planted pair is found, also by the baseline, the entropy of the labels; the control pair."""
    if relations is None:
        return {}
    pairs = [(i, j) for i in range(len(relations.names)) for j in range(i)]
    planted = {tuple(sorted(map(relations.names.index, PLANTED), reverse=True))}
    by_kl = sorted(pairs, key=lambda pair: -relations.kl[pair])
    by_entropy = sorted(pairs, key=lambda pair: relations.entropy[pair])
    control = relations.names.index("lipstick"), relations.names.index("smile")
    return {
        "planted pair, precision by KL": average_precision(by_kl, planted),
        "planted pair, precision by label entropy": average_precision(by_entropy, planted),
        "relation/smile (control)": float(relations.mean[control]),
    }


def answer(run: Run) -> Points:
    """By epoch and split: a few scores of a network that is followed, while it trains; every score at the end."""
    few = {"as trained": ("occlusion", "swap", "exact"), "unbiased": ("groups",)}
    light = diagnosers(run._replace(biased=min(run.biased, run.unbiased)), few, fills=("grey",))
    points: Points = []
    for epoch, net in train(run):
        if epoch == (run.epochs if run.rate else 0):
            checks = dict.fromkeys(SPLITS, DEFAULT_CHECKS) | {"as trained": ("groups", *few["as trained"])}
            every = diagnosers(run, checks, fills=("grey", "skin"))
            points.append((epoch, ask(net, every)))
        elif run.followed and (epoch <= 4 or epoch % 4 == 0):
            points.append((epoch, ask(net, light)))
    return points


def bands(columns: Columns) -> Iterator[tuple[str, bool, str]]:
    """Claim, whether it holds for every network that it is about, and the figures seen."""
    learnt = {run: column for run, column in columns.items() if run.learns}
    rhos = sorted({run.rho for run in learnt})
    for band in BANDS:
        values = [column[band.split][band.score] for run, column in learnt.items() if band.rho in (None, run.rho)]
        if values:
            where = "" if band.rho is None else f", rho {band.rho:g}"
            wanted = f"{band.low:g} to {band.high:g}"
            yield f"{band.score}, {band.split}{where}: {wanted}", _within(values, band.low, band.high), _span(values)
    for split in ("biased", "as trained") if len(rhos) > 1 else ():
        truth = [column[split]["exact_reliance/makeup"] for column in learnt.values()]
        read = [column[split]["crr_by_target/makeup"] for column in learnt.values()]
        correlation = float(np.corrcoef(_ranks(read), _ranks(truth))[0, 1])
        claim = f"crr_by_target, {split}: rank correlation with R* 0.95 or more"
        yield claim, correlation >= 0.95, f"{correlation:.3f}"
    means = [
        float(
            np.mean([column["unbiased"]["exact_reliance/makeup"] for run, column in learnt.items() if run.rho == rho])
        )
        for rho in rhos
    ]
    yield "R*, mean over seeds: rises with rho", sorted(set(means)) == means, " ".join(f"{mean:.3f}" for mean in means)
    signals = [(run.learns, column[split]["signal"] == 1.0) for run, column in columns.items() for split in SPLITS]
    yield (
        "signal where a network has learnt, and nowhere else",
        all(a == b for a, b in signals),
        f"{len(signals)} asked",
    )


def _within(values: Sequence[float], low: float, high: float) -> bool:
    return all(low <= value <= high for value in values)


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.3f} to {max(values):.3f}"


def _ranks(values: Sequence[float]) -> np.ndarray:
    return np.argsort(np.argsort(values)).astype(float)


def show(columns: Columns) -> None:
    """The whole table, then the bands."""
    titles = [f"{run.rho:g}/{run.seed}" if run.learns else "failed" if run.rate else "untrained" for run in columns]
    for split in SPLITS:
        print(f"\n{split + ' faces, rho/seed':42s}" + "".join(title.rjust(10) for title in titles))
        for name in next(iter(columns.values()))[split]:
            print(f"  {name:40s}" + "".join(f"{column[split][name]:10.3f}" for column in columns.values()))
    print()
    for claim, holds, figures in bands(columns):
        print(f"{'holds' if holds else 'FAILS':6s} {claim}: {figures}")


def draw(curves: Mapping[Run, Points], path: Path) -> None:
    """Reliance on faces as trained on, and the worst group on unbiased ones, with and without a bias to learn."""
    from matplotlib.figure import Figure

    figure = Figure((12, 3.4), layout="constrained")
    panels = (
        ("exact reliance R*, faces as trained on", "exact_reliance/makeup", "as trained"),
        ("CRR, as trained on, no context labels", "crr_by_target/makeup", "as trained"),
        ("SCR, faces as trained on", "scr/makeup", "as trained"),
        ("worst group, unbiased faces", "worst_group_accuracy/makeup", "unbiased"),
    )
    lines = {}
    for axes, (title, name, split) in zip(figure.subplots(1, 4, sharex=True, sharey=True), panels, strict=True):
        for run, points in curves.items():
            shown = [(epoch, found[split][name]) for epoch, found in points]
            colour = "#d1495b" if run.rho else "#30638e"
            (lines[f"rho {run.rho:g}"],) = axes.plot(*zip(*shown, strict=True), color=colour, marker="o", ms=3, lw=1.2)
        axes.set_title(title, loc="left", fontsize=9)
        axes.set_xlabel("epochs")
        axes.set_ylim(0, 1)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(lines.values(), lines, loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=130)


def load(path: Path | None) -> dict[Run, Points]:
    """What an earlier call found."""
    kept = json.loads(path.read_text()) if path and path.exists() else []
    return {Run(*run): points for run, points in kept}


def collect(runs: Sequence[Run], jobs: int = 2, path: Path | None = None) -> dict[Run, Points]:
    """The answers of networks, each trained and asked by a process with one thread, which the weights depend on.

    Args:
        runs: The networks.
        jobs: Processes.
        path: Where to keep the answers; those that it has are not asked for again.
    """
    found = load(path)
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        tasks = {pool.submit(answer, run): run for run in runs if run not in found}
        for task in as_completed(tasks):
            run = tasks[task]
            found[run] = task.result()
            print(f"asked the network of rho {run.rho:g}, seed {run.seed}, rate {run.rate:g}", flush=True)
            if path:
                write_text(path, json.dumps([[own, points] for own, points in found.items()]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rhos", type=float, nargs="+", default=RHOS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--jobs", type=int, default=2, help="networks trained at once, a thread each")
    parser.add_argument("--figure", type=Path, metavar="FILE.png", help="epoch by epoch at rho 0 and 0.8")
    parser.add_argument("--json", type=Path, help="keep the numbers here; networks that it has are not trained again")
    options = parser.parse_args()
    runs = [*(Run(rho, seed) for rho in options.rhos for seed in options.seeds), *UNLEARNT]
    found = collect(runs, options.jobs, options.json)
    show({run: found[run][-1][1] for run in runs})
    if options.figure:
        draw({run: found[run] for run in runs if run.followed}, options.figure)


if __name__ == "__main__":
    main()
