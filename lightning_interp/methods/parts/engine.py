"""What filters have to do with the parts of things: the same engine inside and outside of training."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import nn

from lightning_interp._options import passes_on, renamed
from lightning_interp.data.labels import LabelBank, LabelEncoder
from lightning_interp.data.landmarks import category_table, landmark_table
from lightning_interp.data.loading import check_least
from lightning_interp.data.probe import ProbeSet
from lightning_interp.errors import DatasetError, check_names
from lightning_interp.functional.class_selectivity import class_means, class_selectivity, largest_column
from lightning_interp.functional.location import TOP_IMAGES, CategoryRule, Variant, location_scores
from lightning_interp.functional.part_overlap import part_interpretability, part_purity
from lightning_interp.functional.peaks import peak_points, top_images, unscored
from lightning_interp.functional.upsampling import Grid
from lightning_interp.methods.parts.result import LayerParts, PartResult, TopPeaks
from lightning_interp.methods.parts.study import Gathered, PartStudy, PartTables
from lightning_interp.probing.engine import SweepEngine
from lightning_interp.probing.layers import LayerInfo
from lightning_interp.probing.receptive import Placement, image_grid
from lightning_interp.probing.sweep import Progress, Task

Measure = Literal["location", "purity", "interpretability"]

# Images a filter that are kept to be shown.
_SHOWN = 7


class PartMeter(SweepEngine[PartResult]):
    """Measures filters against landmarks and parts again and again; tables and labels are kept in between.

    Args:
        probe: The probe set: landmarks in its facts for ``"location"``, concepts of category ``"part"`` with label
            planes for the others.
        layers: Module paths, globs or ``"auto"``.
        measures: ``"location"`` (instability with its references, displacement correlation), ``"purity"`` (peaks on
            parts), ``"interpretability"`` (valid regions on parts); None for all that the probe set allows.
        variant: Which images and filters count for the location
            (:func:`~lightning_interp.functional.location.location_scores`).
        rule: Which of several categories a filter's instability is taken of.
        top_k: Images a filter; None for the variant's number, and for 100 in purity.
        landmarks: Names of the landmarks that count; None for all.
        parts: Names of the parts that count; None for all.
        category_attribute: Attribute that is an image's category; None for ``"category"`` where the probe set has that,
            else all images are of one.
        upsample: Where the maps' values lie: at the centres of their receptive fields, as published, or of equal
            ``"cell"`` of the image, for networks of which each value sees the whole image.
        **reading: How the probe set is read: :class:`~lightning_interp.data.loading.Reading`.

    Attributes:
        measures: What is measured.
        landmarks: Names of the landmarks, empty if they are neither measured nor asked for.
        parts: Names of the parts, empty if they are neither measured nor asked for.
        category: ``(N,)`` int64, category of each image.
        row: By image, its row in the tables.
        image_grids: By layer, the place of its values on the image, once :meth:`describe` has run; those on the part
            masks are its ``grids``.

    Raises:
        DatasetError: If the probe set lacks what a measure needs, saying what has it, or a name is unknown.
        ValueError: If an option is out of range.
    """

    def __init__(
        self,
        probe: ProbeSet,
        layers: Sequence[str],
        *,
        measures: Sequence[Measure] | None = None,
        variant: Variant = "cvpr2018",
        rule: CategoryRule = "least",
        top_k: int | None = None,
        landmarks: Sequence[str] | None = None,
        parts: Sequence[str] | None = None,
        category_attribute: str | None = None,
        upsample: Placement = "receptive_field",
        category: str | None = None,
        **reading: Any,
    ) -> None:
        super().__init__(probe, layers, **reading)
        check_least(top_k=(2 if top_k is None else top_k, 2))
        _check_choices(variant=(variant, TOP_IMAGES), rule=(rule, ("least", "peak")))
        _check_choices(upsample=(upsample, ("receptive_field", "cell")))
        self.variant, self.rule, self.top_k, self.upsample = variant, rule, top_k, upsample
        self.measures = _measures(probe, measures)
        self.row = {index: row for row, index in enumerate(self.indices)}
        self.landmarks: tuple[str, ...] = ()
        self.points = torch.empty(len(self.indices), 0, 2, dtype=torch.float64)
        # Names that are given are checked, whether or not they count for what is measured.
        if "location" in self.measures or landmarks is not None:
            self.landmarks, self.points = landmark_table(probe, self.indices, landmarks)
        attribute = renamed("parts", "category", "category_attribute", category, category_attribute)
        self.category = category_table(probe, self.indices, attribute)
        self.num_categories = int(self.category.max()) + 1
        masked = parts is not None or set(self.measures) - {"location"}
        self.parts, self.part_columns = _parts(probe, parts) if masked else ((), ())
        self.bank = LabelBank(LabelEncoder(probe, probe.mask_size), every_image_counts=True)
        self.image_grids: dict[str, Grid] = {}

    def place(self, module: nn.Module, layer: nn.Module, info: LayerInfo, shape: tuple[int, int, int]) -> Grid:
        """Where the layer's values lie on the image and, in the same proportions, on the masks."""
        self.image_grids[info.name] = image_grid(module, layer, info, shape, self.upsample)
        return self.image_grids[info.name].resized(self.probe.mask_size)

    def study(self, task: Task) -> PartStudy:
        """One measurement, to take part in a sweep."""
        tables = PartTables(
            purity="purity" in self.measures,
            interpretability="interpretability" in self.measures,
            parts=self.part_columns,
            row=self.row,
            category=self.category,
            num_categories=self.num_categories,
        )
        return PartStudy(task, tables)

    def result(self, study: PartStudy, **about: Any) -> PartResult:
        """What a finished study has found."""
        layers = {name: self._layer(name, found, study.kept) for name, found in study.found().items()}
        return PartResult(layers, landmarks=self.landmarks, parts=self.parts, rule=self.rule, **about)

    def notices(self, result: PartResult) -> None:
        """Filters that cannot be scored."""
        for name, layer in result.layers.items():
            self.say_nonfinite(name, layer.nonfinite.nonzero()[:, 0].tolist(), len(layer.dead), what="filters")

    def _layer(self, name: str, found: Gathered, images: Sequence[int]) -> LayerParts:
        rows = torch.tensor([self.row[index] for index in images])
        peaks, category, grid = found.peaks, self.category[rows], self.image_grids[name]
        means = class_means(found.mean, category, self.num_categories)
        dead, nonfinite = unscored(peaks.value)
        own = largest_column(means).masked_fill(dead | nonfinite, -1)
        selectivity = class_selectivity(means).masked_fill(own < 0, torch.nan)
        purity = chance = interpretability = location = None
        if "location" in self.measures:
            location = location_scores(
                peaks, self.points[rows], grid, category=category, variant=self.variant, top_k=self.top_k
            )
        if found.covered is not None:
            purity = part_purity(peaks, *found.covered, self.top_k or TOP_IMAGES["cvpr2018"])
        if found.counts is not None and found.chance is not None:
            interpretability, chance = (part_interpretability(*each, own) for each in (found.counts, found.chance))
        chosen = top_images(peaks.value, peaks.cell >= 0, _SHOWN)
        points = peak_points(peaks.cell, grid)[chosen.rows, torch.arange(len(dead))]
        top = TopPeaks(
            torch.tensor(images)[chosen.rows].masked_fill(~chosen.valid, -1).T,
            points.masked_fill(~chosen.valid[..., None], torch.nan).transpose(0, 1),
        )
        return LayerParts(
            layer=name,
            dead=dead,
            category=own,
            selectivity=selectivity if self.num_categories > 1 else None,
            top=top,
            location=location,
            purity=purity,
            interpretability=interpretability,
            chance=chance,
        )

    def settings(self) -> dict[str, Any]:
        """What the numbers depend on, JSON-able."""
        return super().settings() | {
            "measures": list(self.measures),
            "variant": self.variant,
            "rule": self.rule,
            "top_k": self.top_k,
            "categories": self.num_categories,
            "upsample": self.upsample,
        }


@passes_on(PartMeter)
def measure_parts(
    model: nn.Module,
    probe: ProbeSet,
    layers: Sequence[str] = ("auto",),
    *,
    progress: Progress | None = None,
    **options: Any,
) -> PartResult:
    """Measure a network's filters against landmarks and parts outside of training: what the callbacks publish.

    Args:
        model: Any module; it is left exactly as it was.
        probe: The probe set.
        layers: Module paths, globs or ``"auto"``.
        progress: Called with images done and images in all.
        **options: As in :class:`PartMeter`.

    Raises:
        LayerError: If a layer is unknown, gives no ``(B, U, H, W)`` map exactly once, or one of a single value, or has
            no receptive fields.
        DatasetError: If the probe set lacks what a measure needs, or a name is unknown.
        ValueError: If an option is out of range.

    Example:
        >>> from lightning_interp import RenderedFaces
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU())
        >>> found = measure_parts(net, RenderedFaces(8, size=32), ["1"])
        >>> sorted(found.scalars())[:3]
        ['1/beats_best_constant', '1/beats_centre', '1/best_constant']
    """
    return PartMeter(probe, layers, **options).once(model, progress=progress)


def has_parts(probe: ProbeSet) -> bool:
    """Whether a probe set has concepts of category ``"part"``, hence masks of parts."""
    return any(concept.category == "part" for concept in probe.concepts)


def _measures(probe: ProbeSet, wanted: Sequence[Measure] | None) -> tuple[Measure, ...]:
    """What is wanted, or all that the probe set allows."""
    if wanted is None:
        return tuple(_measurable(probe))
    check_names(wanted, get_args(Measure), "measure")
    if not wanted:
        raise ValueError(f"measures is empty; give some of {', '.join(get_args(Measure))}, or None for all")
    return tuple(wanted)


def _measurable(probe: ProbeSet) -> list[Measure]:
    """All that the probe set allows; with neither landmarks nor parts, the location, to say what it lacks."""
    masks: list[Measure] = ["purity", "interpretability"] if has_parts(probe) else []
    facts = probe.facts(0)
    located = "landmarks" in facts or "part_landmarks" in facts or not masks
    return ["location", *masks] if located else masks


def _parts(probe: ProbeSet, names: Sequence[str] | None) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names of parts, and their columns among the concepts."""
    known = {concept.name: column for column, concept in enumerate(probe.concepts) if concept.category == "part"}
    if not known:
        raise DatasetError(
            f"{type(probe).__name__} has no concept of category 'part'; RenderedFaces, CelebAMaskHQ, FacesWithParts, "
            "AnimalPart, VOCParts and Broden have some, with label planes that say where they are"
        )
    check_names(names or (), known, "part")
    own = tuple(dict.fromkeys(names or known))
    return own, tuple(known[name] for name in own)


def _check_choices(**choices: tuple[str, Any]) -> None:
    for name, (value, known) in choices.items():
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")
