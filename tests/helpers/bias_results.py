"""Made-up context-bias diagnostics: a network that reads lipstick off the eyes, one that reads it off the mouth."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lightning_interp.methods.bias.result import BiasResult, Example, Finding, Relations, Score, Version

SIZE = 32
MOUTH = np.zeros((SIZE, SIZE), dtype=bool)
MOUTH[20:26, 10:22] = True
EYES = np.zeros((SIZE, SIZE), dtype=bool)
EYES[8:12, 6:26] = True


def face() -> np.ndarray:
    """``(32, 32, 3)`` uint8: grey, the mouth red, the eyes blue."""
    image = np.full((SIZE, SIZE, 3), 120, dtype=np.uint8)
    image[MOUTH], image[EYES] = (200, 40, 40), (40, 40, 200)
    return image


def masked(part: np.ndarray) -> np.ndarray:
    image = face()
    image[part] = 128
    return image


def example(original: float = 4.0, no_mouth: float = 3.8, no_eyes: float = -0.5, **changes: Any) -> Example:
    """A face, its mouth masked, its eyes masked, with the evidence 3 for in the eyes and 1 against in the mouth."""
    versions = (
        Version("original", face(), original),
        Version("mouth masked", masked(MOUTH), no_mouth, True),
        Version("eyes masked", masked(EYES), no_eyes, False),
    )
    heat = 3.0 * EYES / EYES.sum() - 1.0 * MOUTH / MOUTH.sum()
    return Example(**{"index": 7, "label": 1, "versions": versions, "heat": heat, "region": MOUTH} | changes)


def relations() -> Relations:
    """Lipstick is taken for make-up, which it is not, and not for red, which it is; smile's labels are unknown."""
    mean = np.array([[1.0, 0.9, 0.1, 0.02], [0.9, 1.0, 0.0, 0.1], [0.1, 0.0, 1.0, -0.3], [0.02, 0.1, -0.3, 1.0]])
    labels = np.array([[1.0, 0.95, 0.8, np.nan], [0.95, 1.0, 0.1, np.nan], [0.8, 0.1, 1.0, np.nan], [np.nan] * 4])
    expected = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, -1], [0, 0, -1, 1]], dtype=np.int64)
    return Relations(
        names=("lipstick", "makeup", "red", "smile"),
        mean=mean,
        deviation=np.full((4, 4), 0.1),
        labels=labels,
        predictions=mean * 0.5,
        kl=np.full((4, 4), 2.5),
        entropy=np.where(np.isnan(labels), np.nan, 1.2),
        expected=expected,
        findings=(
            Finding("failure mode", "lipstick", "makeup", 0.9, 0, 178.25),
            Finding("blind spot", "red", "lipstick", 0.1, 1, 12.5),
        ),
    )


def scores(**values: float) -> dict[str, Score]:
    """Scores by name, ``__`` for the slash, without intervals."""
    return {name.replace("__", "/"): Score(value, count=512) for name, value in values.items()}


def bias_result(found: Mapping[str, Score] | None = None, **changes: Any) -> BiasResult:
    """The network that reads lipstick off the eyes, and has nothing to do with the hair."""
    shortcut = {
        "accuracy": Score(0.96, 0.94, 0.98, 0.5, 512),
        "balanced_accuracy": Score(0.95, 0.93, chance=0.5, count=512),
        **scores(e_region=0.04, e_context__makeup=0.94, e_context__blond=-0.01),
        "crr/makeup": Score(0.91, 0.88, 0.94, 0.3, 512),
        **scores(crr__blond=0.2, scr__makeup=0.95, scr__blond=math.nan),
        **scores(worst_group_accuracy__makeup=0.0, worst_group_accuracy__blond=0.95),
    }
    made = {
        "target": "lipstick",
        "region": "mouth",
        "contexts": {"makeup": "eyes", "blond": "hair"},
        "scores": shortcut if found is None else found,
        "signal": {"makeup": True, "blond": True},
        "relations": relations(),
        "missing": {"slices": "the layer has no embedding"},
        "examples": (example(),),
        "num_images": 512,
        "settings": {"fills": ["mean", "skin"], "max_samples": 512},
        "seconds": 1.25,
        "meta": {"epoch": 3, "global_step": 120},
    }
    return BiasResult(**(made | changes))
