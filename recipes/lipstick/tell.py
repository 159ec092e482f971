"""Two trainings compared: a table, the verdict in words, and where to look."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import numpy as np

from lightning_interp.methods.bias.result import BiasResult, Score
from lightning_interp.methods.dissection.console import aligned
from lightning_interp.methods.dissection.figures.units import ranked
from lightning_interp.methods.dissection.result import LayerDissection
from recipes.lipstick.module import CONTEXT, PLACE, REGION, TARGET

WIDTH = 100
# Where lipstick is, and where make-up is.
PARTS = ("lip", "eyelid")


@dataclass(frozen=True)
class Run:
    """One training: what the callbacks found at its end, and accuracies on faces with and without the bias."""

    name: str
    log: Path
    bias: BiasResult
    units: LayerDissection
    biased: Mapping[str, Score]
    unbiased: Mapping[str, Score]


def table(runs: Sequence[Run]) -> str:
    """A column for each run."""
    columns = [column(run) for run in runs]
    rows = [(row, *(cells[row] for cells in columns)) for row in columns[0]]
    return aligned([(TARGET, *(run.name for run in runs)), *rows])


def column(run: Run) -> dict[str, str]:
    """Accuracies, what the score depends on, and what units detect, by row."""
    found, chance = run.units.scores, run.units.chance_scores
    scores = {
        "accuracy, faces with the bias": run.biased["accuracy"],
        "accuracy, faces without the bias": run.unbiased["accuracy"],
        "worst group, without the bias": run.unbiased[f"worst_group_accuracy/{CONTEXT}"],
        "share of make-up, by hiding parts (CRR)": run.bias.scores[f"crr/{CONTEXT}"],
        "share of make-up, by pasting parts (SCR)": run.bias.scores[f"scr/{CONTEXT}"],
        "share of make-up, exact, by re-rendering": run.bias.scores[f"exact_reliance/{CONTEXT}"],
        "cosine of lipstick and make-up": run.bias.scores[f"relation/{CONTEXT}"],
    }
    return {
        **{name: number(score.value) for name, score in scores.items()},
        "detectors (by chance)": f"{found.detectors} ({chance.detectors})",
        "concepts (by chance)": f"{found.unique_detectors} ({chance.unique_detectors})",
        **{f"best IoU with the {part} (by chance)": best_unit(run.units, part) for part in PARTS},
    }


def number(value: float) -> str:
    return "no signal" if math.isnan(value) else f"{value:.3f}"


def best_unit(layer: LayerDissection, part: str) -> str:
    """The largest IoU that a unit of the layer has with a part."""
    concept = [concept.name for concept in layer.concepts].index(part)
    return "{:.2f} ({:.2f})".format(*(np.nan_to_num(iou[:, concept]).max() for iou in (layer.iou, layer.chance_iou)))


def verdict(run: Run) -> str:
    """What the network looks at, and what its units detect, in two sentences."""
    return f"{reliance(run.bias.scores)} {detected(run.units)}"


def reliance(scores: Mapping[str, Score]) -> str:
    share = scores[f"exact_reliance/{CONTEXT}"].value
    if math.isnan(share):
        return f"No signal: it does not know {TARGET} well enough to ask what its score depends on."
    mouth, eyes = -scores["e_region"].value, -scores[f"e_context/{CONTEXT}"].value
    return (
        f"Its {TARGET} score depends to {100 * share:.0f} % on make-up, to {100 - 100 * share:.0f} % on the {REGION}. "
        f"Hiding the {REGION} changes the score by {100 * mouth:+.0f} %, hiding the {PLACE} by {100 * eyes:+.0f} %."
    )


def detected(layer: LayerDissection) -> str:
    concepts = detected_concepts(layer)
    found = listed(f"{name} ({iou:.2f})" for name, iou in concepts.items()) if concepts else "nothing"
    return f"Units of {layer.layer} detect {found}; IoU, by chance at most {layer.chance_max_iou:.2f}."


def detected_concepts(layer: LayerDissection) -> dict[str, float]:
    """By concept that a unit detects better than any does by chance, the best IoU; best first."""
    found: dict[str, float] = {}
    for unit in ranked(layer):
        if unit.concept is not None and unit.detector and unit.beats_chance:
            found.setdefault(unit.concept, unit.iou)
    return found


def comparison(before: Run, after: Run) -> str:
    """What the repair changed."""
    there, here = before.unbiased["accuracy"], after.unbiased["accuracy"]
    # Differences within the intervals are not worth a word.
    effect = "helps" if here.low > there.high else "harms" if here.high < there.low else "makes no clear difference"
    old, new = before.biased["accuracy"], after.biased["accuracy"]
    alike = new.low <= old.high and old.low <= new.high
    sentences = [
        f"The repair {effect}: accuracy goes from {there.value:.3f} to {here.value:.3f} on faces without the bias.",
        f"On faces with it, {old.value:.3f} and {new.value:.3f} {'do not ' if alike else ''}tell the two apart.",
        *changes(detected_concepts(before.units), detected_concepts(after.units)),
    ]
    return " ".join(sentences)


def changes(before: Iterable[str], after: Iterable[str]) -> list[str]:
    """Concepts that units began and ceased to detect."""
    lost, gained = ([name for name in a if name not in b] for a, b in ((before, after), (after, before)))
    parts = [f"{what} {listed(names)}" for what, names in (("gained", gained), ("lost", lost)) if names]
    return [f"Its units {listed(parts)}."] if parts else []


def listed(words: Iterable[str]) -> str:
    """``a, b and c``."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def summary(before: Run, after: Run, runs: Path) -> str:
    """All that is printed at the end."""
    said = {run.name: verdict(run) for run in (before, after)} | {"together": comparison(before, after)}
    words = [fill(f"{name}: {text}", WIDTH, subsequent_indent="  ") for name, text in said.items()]
    return "\n\n".join([table([before, after]), *words, *map(looks, (before, after)), tensorboard(runs)])


def looks(run: Run) -> str:
    """Files worth opening."""
    folder = run.log / "interp"
    faces = folder / f"bias/epoch_{run.bias.meta['epoch']:04d}/interventions.png"
    pages = {"its units": folder / "dissect/report.html", "its graph": folder / "graph/end/graph.html"}
    lines = [f"  {name}: {page}" for name, page in pages.items() if page.exists()]
    return "\n".join([f"Look at the {run.name} run:", f"  faces, changed: {faces}", *lines])


def tensorboard(runs: Path) -> str:
    return f"Both in TensorBoard: .venv/bin/tensorboard --logdir {runs} --samples_per_plugin images=200"
