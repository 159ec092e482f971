"""Trainings compared: a table of what was found of a layer's filters, each figure beside its reference."""

from collections.abc import Mapping, Sequence

from lightning_interp.methods.dissection.console import aligned

Figures = Mapping[str, float]
"""By tag, what callbacks and network logged at the end of a training."""

# By row, a tag and that of its reference; both may name the layer.
ROWS = {
    "accuracy": ("val_accuracy", None),
    "instability (always at the centre)": ("location/{}/instability", "location/{}/centre"),
    "filters that beat the centre": ("location/{}/beats_centre", None),
    "displacement correlation (by chance)": ("location/{}/correlation", "location/{}/correlation_chance"),
    "part interpretability (by chance)": ("parts/{}/interpretability", "parts/{}/interpretability_by_chance"),
    "purity (best constant point)": ("parts/{}/purity", "parts/{}/purity_best_constant"),
    "detectors (by chance)": ("dissect/{}/detectors", "dissect/{}/detectors_by_chance"),
    "concepts (by chance)": ("dissect/{}/unique_detectors", "dissect/{}/unique_by_chance"),
}


def show(table: Mapping[str, Figures], layer: str) -> str:
    """A column for each training; rows that none of them has are left out."""
    rows = [
        (row, *(cell(found, *(tag and tag.format(layer) for tag in tags)) for found in table.values()))
        for row, tags in ROWS.items()
        if any(tags[0].format(layer) in found for found in table.values())
    ]
    return aligned([("", *table), *rows])


def cell(found: Figures, tag: str, reference: str | None) -> str:
    if tag not in found:
        return ""
    return f"{found[tag]:.3g}" if reference is None else f"{found[tag]:.3g} ({found[reference]:.3g})"


def mean(tables: Sequence[Mapping[str, Figures]]) -> dict[str, Figures]:
    """Of every figure over the trainings' seeds, column by column."""
    return {
        column: {tag: sum(table[column][tag] for table in tables) / len(tables) for tag in figures}
        for column, figures in tables[0].items()
    }
