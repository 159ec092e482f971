"""Scores of whole layers: against loops, against planted filters, with one category and with several."""

import json
import math
from pathlib import Path

import pytest
import torch

from lightning_interp.functional.location import STRONGEST, location_scores, point_scores
from lightning_interp.functional.location_references import deviations
from lightning_interp.functional.peaks import Peaks, cell_points, peak_points, top_images
from lightning_interp.functional.upsampling import Axis, Grid
from tests.reference.part_location import location_row

NAN = math.nan
GRID = Grid(Axis(4, 60, 5.0, 14.0), Axis(6, 80, 3.0, 13.0))
ANIMAL_PART = Path(__file__).parents[3] / "shared" / "data" / "animal_part" / "annotations.json"
MEASURES = ("filter", "centre", "best_constant", "oracle", "correlation", "r2")


def random_case(seed, images=30, filters=5, parts=3, cells=24):
    generator = torch.Generator().manual_seed(seed)
    # Rounded, so that peaks tie; some maps have no peak.
    value = (torch.rand(images, filters, generator=generator) * 8).round() / 8 + 0.1
    cell = torch.randint(-1, cells, (images, filters), generator=generator)
    landmarks = torch.rand(images, parts, 2, generator=generator, dtype=torch.float64) * torch.tensor([80.0, 60.0])
    landmarks[torch.rand(images, parts, generator=generator) < 0.3] = NAN
    return Peaks(value, cell), landmarks


def column(scores, name):
    return getattr(scores.deviations, name) if name in scores.deviations._fields else getattr(scores, name)


def assert_equal_to_loop(scores, peaks, landmarks, category, k, replace):
    for c in range(int(category.max()) + 1):
        images = (category == c).nonzero()[:, 0].tolist()
        for f in range(peaks.value.shape[1]):
            for part in range(landmarks.shape[1]):
                places = [None if p.isnan().any() else tuple(p.tolist()) for p in landmarks[images, part]]
                row = location_row(
                    peaks.value[images, f].tolist(), peaks.cell[images, f].tolist(), places, GRID, k, replace
                )
                for name in MEASURES:
                    got = column(scores, name)[f, c, part].item()
                    assert got == pytest.approx(row[name] if row else NAN, abs=1e-9, nan_ok=True), name
                if row:
                    assert scores.images[f, c, part] == row["images"]


@pytest.mark.parametrize(("variant", "replace"), [("cvpr2018", True), ("aaai2018", False)])
@pytest.mark.parametrize(("seed", "k"), [(0, 7), (1, 2), (2, 100)])
def test_equals_a_loop(variant, replace, seed, k):
    peaks, landmarks = random_case(seed)
    category = torch.arange(30) % 2
    scores = location_scores(peaks, landmarks, GRID, category=category, variant=variant, top_k=k)
    assert_equal_to_loop(scores, peaks, landmarks, category, k, replace)
    alone = location_scores(peaks, landmarks, GRID, variant=variant, top_k=k)
    assert_equal_to_loop(alone, peaks, landmarks, torch.zeros(30, dtype=torch.int64), k, replace)


def test_random_reference_is_what_draws_come_to():
    generator = torch.Generator().manual_seed(5)
    landmark = torch.rand(40, 2, generator=generator, dtype=torch.float64) * torch.tensor([80.0, 60.0])
    everything = torch.ones(40, 1, dtype=torch.bool)
    centre = torch.zeros(40, 1, 2, dtype=torch.float64)
    reference = deviations(centre, landmark, top_images(torch.ones(40, 1), everything, 40), GRID).random.item()
    draws = cell_points(GRID)[torch.randint(0, 24, (4000, 40), generator=generator)]
    squared = (draws - landmark).norm(dim=2).var(1) / (60**2 + 80**2)
    # The variance is expected exactly: standard error of the mean over draws is about 0.3 % of it.
    assert reference**2 == pytest.approx(squared.mean().item(), rel=0.015)
    assert reference == pytest.approx(squared.sqrt().mean().item(), rel=0.02)
    assert reference > squared.sqrt().mean().item()


def planted(images=200, seed=3):
    """Landmarks that move; filters that follow the first one, follow the second, stay put, and wander."""
    generator = torch.Generator().manual_seed(seed)
    grid = Grid(Axis.cells(14, 224), Axis.cells(14, 224))
    landmarks = 60 + 100 * torch.rand(images, 2, 2, generator=generator, dtype=torch.float64)
    nearest = torch.cdist(landmarks.transpose(0, 1), cell_points(grid)).argmin(2)
    still = torch.full((images,), 7 * 14 + 7)
    wandering = torch.randint(0, 196, (images,), generator=generator)
    cell = torch.stack([nearest[0], nearest[1], still, wandering], 1)
    return Peaks(torch.rand(images, 4, generator=generator) + 0.1, cell), landmarks, grid


def test_planted_filters():
    peaks, landmarks, grid = planted()
    scores = location_scores(peaks, landmarks, grid)
    instability = scores.deviations.filter[:, 0]
    torch.testing.assert_close(instability[:2].diagonal(), scores.deviations.oracle[:2, 0].diagonal())
    assert (instability[:2].diagonal() < 0.02).all()
    # A filter that sees nothing looks steadier than one that follows the other landmark, but moves with neither.
    assert instability[2].mean() < min(instability[0, 1], instability[1, 0])
    assert (scores.correlation[2] == 0).all()
    assert (scores.r2[2] == 0).all()
    assert (scores.correlation[:2, 0].diagonal() > 0.98).all()
    # What the grid of 16 pixels leaves unexplained of a range of 100: (16 / 100)^2.
    assert (scores.r2[:2, 0].diagonal() - (1 - 0.16**2)).abs().max() < 0.01
    assert scores.correlation[0, 0, 1].abs() < 0.3
    assert scores.correlation_chance[:2].abs().max() < 0.3
    assert scores.assigned_part().tolist()[:2] == [0, 1]
    assert instability[3].mean() == pytest.approx(scores.deviations.random[3].mean().item(), rel=0.1)
    assert (scores.deviations.best_constant <= instability[2] + 1e-12).all()


def test_summary_means_over_filters():
    peaks, landmarks, grid = planted()
    scores = location_scores(peaks, landmarks, grid)
    own = scores.by_filter()
    figures = scores.summary()
    assert figures["instability"] == pytest.approx(scores.deviations.filter.mean().item())
    assert figures["centre"] == pytest.approx(scores.deviations.centre.mean().item())
    assert figures["beats_centre"] == (own.filter < own.centre).double().mean().item()
    assert figures["beats_best_constant"] <= figures["beats_centre"]
    assert figures["correlation"] == pytest.approx(scores.correlation[:, 0].amax(1).mean().item())
    assert figures["correlation_chance"] < figures["correlation"] - 0.3
    assert (figures["dead"], figures["undefined"]) == (0, 0)


def test_dead_filters_and_filters_with_too_few_images_are_counted_and_left_out():
    peaks, landmarks, grid = planted()
    value, cell = peaks.value.clone(), peaks.cell.clone()
    value[:, 0] = 0.0  # never above 0, though with places
    cell[1:, 1] = -1  # a peak on a single image
    scores = location_scores(Peaks(value, cell), landmarks, grid)
    figures = scores.summary()
    assert scores.dead.tolist() == [True, False, False, False]
    assert (figures["dead"], figures["undefined"]) == (1, 1)
    whole = location_scores(peaks, landmarks, grid)
    assert figures["instability"] == pytest.approx(whole.deviations.filter[2:].mean().item())
    assert scores.deviations.filter[:2].isnan().all()
    assert scores.category.tolist() == [-1, 0, 0, 0]
    assert scores.assigned_part().tolist()[:2] == [-1, -1]


def broken(peaks, image, filters):
    """The same peaks with maps of some filters that are not finite."""
    value, cell = peaks.value.clone(), peaks.cell.clone()
    value[image, filters], cell[image, filters] = -math.inf, -1
    return Peaks(value, cell)


def test_filters_that_are_not_finite_are_left_out():
    """One is NaN on all images, which is not dead, and one on a single image, which is enough."""
    peaks, landmarks, grid = planted()
    scores = location_scores(broken(broken(peaks, slice(None), 0), 3, 1), landmarks, grid)
    assert scores.dead.tolist() == [False] * 4
    assert scores.taken.tolist() == [False, False, True, True]
    assert scores.category.tolist() == [-1, -1, 0, 0]
    assert scores.deviations.filter[:2].isnan().all()
    figures = scores.summary()
    assert (figures["dead"], figures["undefined"]) == (0, 0)
    whole = location_scores(peaks, landmarks, grid)
    assert figures["instability"] == pytest.approx(whole.deviations.filter[2:].mean().item())
    # Images that are left out may hold anything.
    category = torch.arange(200).clamp(max=1) - 1
    assert location_scores(broken(peaks, 0, 1), landmarks, grid, category=category).taken.all()


def test_no_place_among_the_strongest_for_what_is_not_finite():
    peaks, landmarks = random_case(9, filters=STRONGEST + 3)
    peaks = Peaks(peaks.value + torch.linspace(0, 2, STRONGEST + 3), peaks.cell)
    taken = location_scores(broken(peaks, 5, -1), landmarks, GRID, variant="aaai2018").taken
    assert not taken[-1]
    assert int(taken.sum()) == STRONGEST


def test_no_filter_with_a_score():
    peaks, landmarks, grid = planted()
    figures = location_scores(Peaks(torch.zeros_like(peaks.value), peaks.cell), landmarks, grid).summary()
    assert (figures["dead"], figures["undefined"]) == (4, 0)
    assert all(math.isnan(value) for name, value in figures.items() if name not in ("dead", "undefined"))


def test_category_of_the_least_deviation_and_of_the_largest_peak():
    """Steady on category 0, but with the higher peaks on category 1: the paper and the code choose differently."""
    peaks, landmarks, grid = planted()
    category = torch.arange(200) % 2
    value, cell = peaks.value[:, :1].clone(), peaks.cell[:, :1].clone()
    value[category == 1] += 1
    cell[category == 1, 0] = peaks.cell[category == 1, 3]
    scores = location_scores(Peaks(value, cell), landmarks, grid, category=category)
    by_category = scores.deviations.filter.mean(2)[0]
    assert by_category[0] < by_category[1]
    assert scores.by_filter("least").filter.item() == pytest.approx(by_category[0].item())
    assert scores.by_filter("peak").filter.item() == pytest.approx(by_category[1].item())
    # References choose by the same rule, each for itself.
    centre = scores.deviations.centre.mean(2)[0]
    assert scores.by_filter("least").centre.item() == pytest.approx(centre.min().item())
    assert scores.by_filter("peak").centre.item() == pytest.approx(centre[1].item())
    assert scores.category.tolist() == [1]


def test_landmarks_that_a_category_lacks():
    """Category 1 has no second landmark: its mean is over the first alone; images of no category do not count."""
    peaks, landmarks, grid = planted()
    category = torch.arange(200) % 2
    landmarks[category == 1, 1] = NAN
    scores = location_scores(peaks, landmarks, grid, category=category)
    assert scores.parts.tolist() == [[True, True], [True, False]]
    means = [scores.deviations.filter[:, 0].mean(1), scores.deviations.filter[:, 1, 0]]
    torch.testing.assert_close(scores.by_filter().filter, torch.stack(means).amin(0))
    fewer = location_scores(peaks, landmarks, grid, category=torch.where(torch.arange(200) < 100, category, -1))
    first = location_scores(Peaks(*(p[:100] for p in peaks)), landmarks[:100], grid, category=category[:100])
    torch.testing.assert_close(fewer.deviations.filter, first.deviations.filter, equal_nan=True)


def test_a_category_without_images_changes_nothing():
    peaks, landmarks, grid = planted()
    category = torch.arange(200) % 2
    plain = location_scores(peaks, landmarks, grid, category=category)
    gap = location_scores(peaks, landmarks, grid, category=category * 2)
    assert gap.deviations.filter[:, 1].isnan().all()
    assert gap.summary() == pytest.approx(plain.summary())
    assert gap.summary("peak") == pytest.approx(plain.summary("peak"))


def test_aaai_variant_takes_the_strongest_filters():
    peaks, landmarks = random_case(9, filters=STRONGEST + 3)
    peaks = Peaks(peaks.value + torch.linspace(0, 2, STRONGEST + 3), peaks.cell)
    scores = location_scores(peaks, landmarks, GRID, variant="aaai2018")
    assert int(scores.taken.sum()) == STRONGEST
    tops = []
    for f in range(STRONGEST + 3):
        values = sorted((peaks.value[i, f].item() for i in range(30) if peaks.cell[i, f] >= 0), reverse=True)[:20]
        tops.append(sum(values) / len(values))
    bar = sorted(tops, reverse=True)[STRONGEST - 1]
    assert scores.taken.tolist() == [top >= bar for top in tops]
    assert scores.deviations.filter[~scores.taken].isnan().all()
    assert scores.deviations.filter[scores.taken].isfinite().all()
    assert scores.summary()["undefined"] == 0
    assert location_scores(peaks, landmarks, GRID).taken.all()


def test_published_numbers_of_images():
    peaks, landmarks, grid = planted()
    assert (location_scores(peaks, landmarks, grid).images == 100).all()
    assert (location_scores(peaks, landmarks, grid, variant="aaai2018").images == 20).all()


def test_a_single_cell_of_reference():
    """Distances 3, 5 and 7 pixels from the peak in a 224-pixel image: 2 / (224 sqrt 2)."""
    grid = Grid(Axis(2, 224, 10.0, 100.0), Axis(2, 224, 10.0, 100.0))
    landmarks = torch.tensor([[[13.0, 10.0]], [[10.0, 15.0]], [[17.0, 10.0]]], dtype=torch.float64)
    peaks = Peaks(torch.ones(3, 1), torch.zeros(3, 1, dtype=torch.int64))
    scores = location_scores(peaks, landmarks, grid)
    assert scores.deviations.filter.item() == pytest.approx(0.006313, abs=5e-7)
    assert scores.deviations.oracle.item() == pytest.approx(0.006313, abs=5e-7)
    assert peak_points(peaks.cell, grid)[0, 0].tolist() == [10.0, 10.0]


def test_inputs_that_do_not_fit_are_refused():
    peaks, landmarks = random_case(0)
    with pytest.raises(ValueError, match="30 peaks, 29 landmarks"):
        location_scores(peaks, landmarks[1:], GRID)
    with pytest.raises(ValueError, match=r"a peak at cell 23 of 2 x 2"):
        location_scores(peaks, landmarks, Grid(Axis.cells(2, 60), Axis.cells(2, 80)))


@pytest.mark.skipif(not ANIMAL_PART.exists(), reason="needs the annotations of Animal-Part")
@pytest.mark.parametrize(("name", "constant"), [("bird", 0.060), ("dog", 0.055), ("horse", 0.047), ("cat", 0.077)])
def test_constant_centre_on_animal_parts(name, constant):
    """Known figures of a filter that sees nothing, on all objects of a category warped to 224 pixels."""
    table = json.loads(ANIMAL_PART.read_text())
    wanted = next(category["id"] for category in table["categories"] if category["name"] == name)
    images = {image["id"]: image for image in table["images"] if image["category_id"] == wanted}
    place = {number: row for row, number in enumerate(images)}
    landmarks = torch.full((len(images), 2, 2), NAN, dtype=torch.float64)
    for part in table["annotations"]:
        if part["image_id"] in images:
            size = [images[part["image_id"]][side] for side in ("width", "height")]
            warped = [at * 224 / length - 0.5 for at, length in zip(part["landmark"], size, strict=True)]
            landmarks[place[part["image_id"]], part["part_id"] - 1] = torch.tensor(warped, dtype=torch.float64)
    middle = Peaks(torch.ones(len(images), 1), torch.zeros(len(images), 1, dtype=torch.int64))
    # A single cell at the very centre: the filter, the best constant and the centre are then one.
    grid = Grid(Axis(1, 224, 111.5, 224.0), Axis(1, 224, 111.5, 224.0))
    figures = location_scores(middle, landmarks, grid).summary()
    assert figures["centre"] == pytest.approx(constant, abs=0.0007)
    assert [figures[name] for name in ("instability", "best_constant", "random")] == pytest.approx(
        [figures["centre"]] * 3
    )
    assert (figures["correlation"], figures["r2"]) == (0.0, 0.0)


def test_several_points_on_the_same_images():
    """The second points are judged on the images of the first; they need not be cells, and count where these do."""
    peaks, landmarks = random_case(4)
    generator = torch.Generator().manual_seed(4)
    cells = torch.randint(0, 24, peaks.cell.shape, generator=generator)
    first, second = peak_points(peaks.cell, GRID), peak_points(cells, GRID)
    one, two = point_scores([first, second.float()], peaks.value, landmarks, GRID, top_k=7)
    assert_equal_to_loop(one, peaks, landmarks, torch.zeros(30, dtype=torch.int64), 7, True)
    as_if = Peaks(peaks.value, cells.masked_fill(peaks.cell < 0, -1))
    assert_equal_to_loop(two, as_if, landmarks, torch.zeros(30, dtype=torch.int64), 7, True)
    # Any offset is as good as none for what measures displacements alone.
    moved = point_scores([first + 0.3], peaks.value, landmarks, GRID, top_k=7)[0]
    torch.testing.assert_close(moved.correlation, one.correlation, equal_nan=True)
    assert not torch.allclose(moved.deviations.filter, one.deviations.filter, equal_nan=True)


def test_blocks_of_filters_do_not_matter(monkeypatch):
    peaks, landmarks = random_case(6, filters=STRONGEST + 9)
    category = torch.arange(30) % 2
    whole = location_scores(peaks, landmarks, GRID, category=category, variant="aaai2018")
    monkeypatch.setattr("lightning_interp.functional.location._BLOCK", 10)
    parts = location_scores(peaks, landmarks, GRID, category=category, variant="aaai2018")
    for name in (*MEASURES, "correlation_chance", "images"):
        torch.testing.assert_close(column(parts, name), column(whole, name), rtol=0, atol=1e-12, equal_nan=True)
