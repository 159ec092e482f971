"""Gathered peaks and cells on parts: the same rows however images arrive, alone and on real processes."""

import itertools
import math
from datetime import timedelta

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_interp.data.labels import LabelBank, LabelEncoder
from lightning_interp.data.loading import ProbeBatch, Reading
from lightning_interp.data.probe import Concept, Labels, ProbeSet
from lightning_interp.functional.location import location_scores
from lightning_interp.functional.part_overlap import covered_cells
from lightning_interp.functional.peaks import find_peaks
from lightning_interp.functional.upsampling import Axis, Grid
from lightning_interp.methods.parts.study import PartStudy, PartTables
from lightning_interp.probing.layers import LayerInfo
from lightning_interp.probing.ranks import Ranks
from lightning_interp.probing.sweep import Task
from tests.helpers.ranks import run_ranks, values

IMAGES, FILTERS, PARTS, SIZE = 9, 3, 2, (16, 20)
MAPS = torch.randn(IMAGES, FILTERS, 4, 5, generator=torch.Generator().manual_seed(0)).clamp(min=-0.5)
MAPS[2, 1] = 0.0
MAPS[3, 0, 1, 1] = math.nan
MASKS = torch.zeros(IMAGES, PARTS, *SIZE, dtype=torch.bool)
for image in range(IMAGES):
    MASKS[image, 0, image : image + 7, 4:14] = True
    MASKS[image, 1, 2:12, image : image + 9] = image % 3 > 0
LANDMARKS = torch.rand(IMAGES, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 40 - 5
LANDMARKS[1, 0] = LANDMARKS[5, 1] = math.nan
CATEGORY = torch.arange(IMAGES) % 2
GRID = Grid(Axis.cells(4, SIZE[0]), Axis.cells(5, SIZE[1]))


class Masked(ProbeSet):
    """Has the masks above; nothing else is asked of it."""

    concepts = (Concept(1, "one", "part"), Concept(2, "two", "part"))
    mask_size = SIZE

    def __len__(self):
        return IMAGES

    def image(self, index):
        raise AssertionError("maps are given")

    def labels(self, index):
        return Labels({"part": MASKS[index].long() * torch.tensor([1, 2])[:, None, None]})


def study_of(filters=FILTERS, measures=(), ranks=None):
    probe = Masked()
    task = Task(
        module=nn.Identity(),
        forward=None,
        ranks=ranks or Ranks(),
        device=torch.device("cpu"),
        probe=probe,
        labels=LabelBank(LabelEncoder(probe, SIZE), every_image_counts=True),
        infos={"layer": LayerInfo("layer", filters, 4, 5)},
        grids={"layer": GRID},
        reading=Reading(),
    )
    tables = PartTables(
        "purity" in measures, "interpretability" in measures, (0, 1), dict(enumerate(range(9))), CATEGORY, 2
    )
    return PartStudy(task, tables)


def gather(batches, maps=MAPS, measures=("purity",), ranks=None):
    study = study_of(maps.shape[1], measures, ranks)
    study.start(IMAGES)
    batches = [list(rows) for rows in batches]
    for rows in batches:
        study.update(ProbeBatch(torch.empty(0), rows, [None] * len(rows), []), {"layer": maps[rows]})
    study.settle(range(IMAGES))
    assert study.tally(batches) == []
    study.freeze()
    return study


def read(study):
    found = study.found()["layer"]
    return *found.peaks, found.mean, *found.covered


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a.nan_to_num(nan=-1e9), b.nan_to_num(nan=-1e9))


def test_rows_are_what_was_given():
    value, cell, mean, covered, shown = read(gather([range(IMAGES)]))
    expected = find_peaks(MAPS)
    assert torch.equal(value, expected.value)
    assert torch.equal(cell, expected.cell)
    assert torch.equal(mean[0], MAPS[0].clamp(min=0).mean((1, 2)))
    assert mean[3, 0] == -math.inf
    assert torch.equal(covered, covered_cells(MASKS, GRID))
    assert torch.equal(shown, MASKS.flatten(2).any(2))


@given(order=st.permutations(range(IMAGES)), cuts=st.sets(st.integers(1, IMAGES - 1)), again=st.integers(0, IMAGES - 1))
@settings(max_examples=20, deadline=None)
def test_any_split_gives_the_same_rows(order, cuts, again):
    edges = [0, *sorted(cuts), IMAGES]
    batches = [order[a:b] for a, b in itertools.pairwise(edges)]
    assert_same(read(gather([*batches, [again]])), read(gather([range(IMAGES)])))


@given(order=st.permutations(range(IMAGES)), cuts=st.sets(st.integers(1, IMAGES - 1)))
@settings(max_examples=15, deadline=None)
def test_any_split_gives_the_same_counts(order, cuts):
    edges = [0, *sorted(cuts), IMAGES]
    measures = ("purity", "interpretability")
    split, whole = (
        gather(batches, measures=measures)
        for batches in ([order[a:b] for a, b in itertools.pairwise(edges)], [range(IMAGES)])
    )
    for one, other in zip(split.totals.items(), whole.totals.items(), strict=True):
        assert one[0] == other[0]
        assert_same([one[1]], [other[1]])


def test_images_not_seen_do_not_count():
    study = gather([[0, 1, 2, 4]])
    value, cell, mean, covered, shown = read(study)
    unseen = [3, 5, 6, 7, 8]
    assert (value[unseen] == -math.inf).all()
    assert (mean[unseen] == -math.inf).all()
    assert (cell[unseen] == -1).all()
    assert not shown[unseen].any()
    assert not covered[unseen].any()
    category = CATEGORY.masked_fill(mean[:, 1] == -math.inf, -1)
    assert category.tolist() == [0, 1, 0, -1, 0, -1, -1, -1, -1]
    peaks = study.found()["layer"].peaks
    scores = location_scores(peaks, LANDMARKS, GRID, category=category)
    seen = type(peaks)(*(values[:5] for values in peaks))
    assert scores.summary() == pytest.approx(
        location_scores(seen, LANDMARKS[:5], GRID, category=category[:5]).summary(), nan_ok=True
    )


def test_only_what_was_kept_is_found_in_its_order():
    study = gather([range(IMAGES)])
    whole = read(study)
    study.kept = [1, 4, 7]
    assert_same(read(study), [values[[1, 4, 7]] for values in whole])


@pytest.mark.parametrize("filters", [1, FILTERS])
def test_shapes_and_types(filters):
    """Those of one filter, one image or nothing seen too."""
    for batches in ([range(IMAGES)], []):
        study = gather(batches, MAPS[:, :filters], ("purity", "interpretability"))
        found = study.found()["layer"]
        assert {values.shape for values in (*found.peaks, found.mean)} == {(IMAGES, filters)}
        assert [tuple(values.shape) for values in found.covered] == [(IMAGES, PARTS, 20), (IMAGES, PARTS)]
        for associated, images in (found.counts, found.chance):
            assert (tuple(associated.shape), tuple(images.shape)) == ((filters, 2, PARTS), (2, PARTS))
            assert {associated.dtype, images.dtype} == {torch.int64}
        assert study.totals["layer: cell"].dtype == torch.int32
        assert study.totals["layer: covered"].dtype == torch.int8
        study.kept = [4]
        assert study.found()["layer"].peaks.value.shape == (1, filters)


def test_location_alone_asks_for_no_masks():
    study = gather([range(IMAGES)], measures=())
    found = study.found()["layer"]
    assert found.covered is found.counts is found.chance is None
    assert set(study.totals) == {"layer: value", "layer: cell", "layer: mean"}


# Uneven shares with an image that both see; a process that sees nothing.
SHARES = ([[[0, 1, 2], [3, 4, 5]], [[8, 5], [6, 7]]], [[range(IMAGES)], []])


def on_rank(rank, world):
    ranks = Ranks.connect(timedelta(seconds=30))
    return [read(gather(shares[rank], ranks=ranks)) for shares in SHARES]


@pytest.mark.ddp
@pytest.mark.timeout(90)
def test_processes_have_what_one_alone_has():
    alone = read(gather([range(IMAGES)]))
    for results in values(run_ranks(on_rank, 2, timeout=60)):
        for result in results:
            assert_same(result, alone)
