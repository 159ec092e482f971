"""Make-up on photos: the colours, the region, and exact counterfactuals of a planted bias."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import max_pool2d

from lightning_interp.data.faces.make_up import Recoloured, _from_lab, _to_lab, eyelids, recolour
from lightning_interp.data.probe import Concept, Labels, ProbeSet
from lightning_interp.data.readers.face_parts import FacesWithParts
from lightning_interp.data.regions import PartRegions
from lightning_interp.errors import DatasetError

REAL = Path(__file__).parents[4] / "shared/data/faces"
SKIN, EYE, UPPER, LOWER, HAIR = 1, 4, 11, 12, 13
RED = {"lipstick": torch.tensor([60.0, 20.0])}
FULL = {"lipstick": torch.tensor(1.0)}
CONCEPTS = (
    Concept(SKIN, "skin", "part"),
    Concept(EYE, "eye", "part"),
    Concept(UPPER, "u_lip", "part"),
    Concept(LOWER, "l_lip", "part"),
    Concept(HAIR, "hair", "object"),
)
PARTS = """
hhhhhhhhhhhh
hhhhhhhhhhhh
hssssssssssh
hssssssssssh
hssssssssssh
hsseesseessh
hsseesseessh
hssssssssssh
hsssuuuusssh
hsssllllsssh
hssssssssssh
............
"""
# By hand: eyes of 8 pixels, thus 4 each, reach round(1.3 * 2) = 3 up and round(0.3 * 2) = 1 aside, on skin.
LIDS = """
............
............
..xxxxxxxx..
..xxxxxxxx..
..xxxxxxxx..
..x..xx..x..
..x..xx..x..
............
............
............
............
............
"""
NUMBERS = {"h": HAIR, "s": SKIN, "e": EYE, "u": UPPER, "l": LOWER, ".": 0}


class PaintedFaces(ProbeSet):
    """Noise under one map of parts."""

    def __init__(self, number: int = 6, side: int = 12, concepts: tuple[Concept, ...] = CONCEPTS) -> None:
        self.number, self.concepts, self.mask_size = number, concepts, (12, 12)
        self.parts = torch.tensor([[NUMBERS[letter] for letter in row] for row in PARTS.split()])
        self.pictures = torch.randint(
            256, (number, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
        )

    def __len__(self) -> int:
        return self.number

    def image(self, index: int) -> torch.Tensor:
        return self.pictures[index]

    def labels(self, index: int) -> Labels:
        hair = self.parts == HAIR
        return Labels({"part": self.parts * ~hair, "object": self.parts * hair}, {"scene": (7,)})

    def facts(self, index: int) -> dict[str, object]:
        return {"landmarks": torch.zeros(5, 2), "attributes": {"age": index, "lipstick": 5}}


def lightness(images: torch.Tensor) -> torch.Tensor:
    """CIE L* by the textbook, in float64; images uint8."""
    rgb = images.double() / 255
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    y = (linear * torch.tensor([0.2126, 0.7152, 0.0722])[:, None, None].double()).sum(1)
    return torch.where(y > 216 / 24389, 116 * y ** (1 / 3) - 16, y * 24389 / 27)


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((1.0, 0.0, 0.0), (53.24, 80.09, 67.20)),
        ((0.0, 1.0, 0.0), (87.73, -86.18, 83.18)),
        ((0.0, 0.0, 1.0), (32.30, 79.19, -107.86)),
        ((1.0, 1.0, 1.0), (100.0, 0.0, 0.0)),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        ((119 / 255, 119 / 255, 119 / 255), (50.03, 0.0, 0.0)),
    ],
)
def test_published_values_of_cie_lab(rgb, lab):
    assert _to_lab(torch.tensor([rgb], dtype=torch.float64))[0].tolist() == pytest.approx(lab, abs=0.03)


def test_lab_and_back():
    level = torch.linspace(0, 1, 18, dtype=torch.float64)
    rgb = torch.cartesian_prod(level, level, level)
    assert torch.allclose(_from_lab(_to_lab(rgb)), rgb, atol=1e-7)


@settings(max_examples=30, deadline=None, database=None)
@given(st.integers(0, 2**31), st.floats(0, 1), st.booleans())
def test_nothing_outside_the_mask_changes_and_batches_do_not_matter(seed, strength, whole):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(4, 3, 5, 7, generator=generator)
    images = (images * 255).byte() if whole else images
    mask = torch.rand(4, 5, 7, generator=generator) < 0.4
    options = {"hues": RED, "strengths": {"lipstick": torch.tensor(strength)}}
    on = recolour(images, {"lipstick": mask}, {"lipstick": 1}, **options)
    assert on.dtype == images.dtype
    assert torch.equal(on.permute(0, 2, 3, 1)[~mask], images.permute(0, 2, 3, 1)[~mask])
    rows = [recolour(images[i : i + 1], {"lipstick": mask[i : i + 1]}, {"lipstick": 1}, **options) for i in range(4)]
    assert torch.equal(torch.cat(rows), on) if whole else torch.allclose(torch.cat(rows), on, rtol=0, atol=1e-7)
    assert torch.equal(recolour(images, {"lipstick": mask}, {"lipstick": 0}, **options), images)
    assert torch.equal(recolour(images, {"lipstick": mask}, {}, **options), images)


def test_lightness_is_kept_and_the_hue_is_mixed_in():
    images = torch.randint(60, 190, (1, 3, 20, 20), generator=torch.Generator().manual_seed(0)).byte()
    mask = torch.ones(1, 20, 20, dtype=torch.bool)
    hue = torch.tensor([12.0, -9.0])
    half = recolour(images, {"m": mask}, {"m": 1}, hues={"m": hue}, strengths={"m": torch.tensor(0.5)})
    assert (lightness(half) - lightness(images)).abs().max() < 0.5
    before, after = (_to_lab(x[0].flatten(1).T.double() / 255)[:, 1:] for x in (images, half))
    assert torch.allclose(after, (before + hue) / 2, rtol=0, atol=1.2)


def test_strength_zero_and_one():
    images = torch.randint(60, 190, (1, 3, 9, 9), generator=torch.Generator().manual_seed(1)).byte()
    mask = {"lipstick": torch.ones(1, 9, 9, dtype=torch.bool)}
    none = recolour(images, mask, {"lipstick": 1}, hues=RED, strengths={"lipstick": torch.tensor(0.0)})
    assert torch.equal(none, images)
    grey = recolour(images, mask, {"lipstick": 1}, hues={"lipstick": torch.zeros(2)}, strengths=FULL)
    assert (grey.int().amax(1) - grey.int().amin(1)).max() <= 1


def test_colours_beyond_the_gamut_stay_in_range():
    images = torch.cat([torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)])
    mask = torch.ones(2, 4, 4, dtype=torch.bool)
    wild = {"lipstick": torch.tensor([[100.0, -100.0], [-100.0, 100.0]])}
    changed = recolour(images, {"lipstick": mask}, {"lipstick": 1}, hues=wild, strengths=FULL)
    assert changed.min() >= 0
    assert changed.max() <= 1


def test_each_image_has_its_own_label_hue_and_strength():
    images = torch.full((3, 3, 2, 2), 0.5)
    mask = {"lipstick": torch.ones(3, 2, 2, dtype=torch.bool)}
    hues = {"lipstick": torch.tensor([[40.0, 0.0], [40.0, 0.0], [0.0, -40.0]])}
    strengths = {"lipstick": torch.tensor([1.0, 1.0, 0.5])}
    changed = recolour(images, mask, {"lipstick": torch.tensor([0, 1, 1])}, hues=hues, strengths=strengths)
    lab = _to_lab(changed[:, :, 0, 0].double())
    assert lab[:, 1].tolist() == pytest.approx([0, 40, 0], abs=0.1)
    assert lab[:, 2].tolist() == pytest.approx([0, 0, -20], abs=0.1)


@pytest.mark.parametrize("value", [2, -1, 0.5, float("nan"), torch.tensor([0, 3])])
def test_other_values_are_refused(value):
    with pytest.raises(DatasetError, match="0 or 1"):
        recolour(
            torch.zeros(2, 3, 2, 2), {"lipstick": torch.ones(2, 2, 2) > 0}, {"lipstick": value},
            hues=RED, strengths=FULL,
        )  # fmt: skip


def test_unknown_attribute_is_named():
    with pytest.raises(DatasetError, match="did you mean 'lipstick'"):
        recolour(
            torch.zeros(1, 3, 2, 2), {"lipstick": torch.ones(1, 2, 2) > 0}, {"lipstik": 1}, hues=RED, strengths=FULL
        )


def test_eyelids_by_hand():
    parts = PaintedFaces().parts[None]
    lids = eyelids(parts == EYE, parts == SKIN)[0]
    assert ["".join("x" if pixel else "." for pixel in row) for row in lids.tolist()] == LIDS.split()


def test_eyelids_without_eyes_and_without_images():
    assert not eyelids(torch.zeros(2, 4, 4, dtype=torch.bool), torch.ones(2, 4, 4, dtype=torch.bool)).any()
    assert eyelids(torch.zeros(0, 4, 4, dtype=torch.bool), torch.ones(0, 4, 4, dtype=torch.bool)).shape == (0, 4, 4)


@pytest.fixture(scope="module")
def probe() -> Recoloured:
    return Recoloured(PaintedFaces(24), rho=0.5, seed=3)


def test_do_changes_its_own_region_only(probe):
    parts = probe.faces.parts
    lips = (parts == UPPER) | (parts == LOWER)
    lids = eyelids(parts[None] == EYE, parts[None] == SKIN)[0]
    for name, region in (("lipstick", lips), ("makeup", lids)):
        off, on = (probe.counterfactuals(range(24), {name: value}) for value in (0, 1))
        changed = (off != on).any(1)
        assert not changed[:, ~region].any()
        assert changed[:, region].float().mean() > 0.95


def test_an_image_is_the_photo_with_its_own_make_up(probe):
    seen = set()
    for index in range(24):
        attributes = {name: probe.facts(index)["attributes"][name] for name in ("lipstick", "makeup")}
        seen.add(tuple(attributes.values()))
        assert torch.equal(probe.image(index), probe.counterfactuals([index], attributes)[0])
        bare = probe.counterfactuals([index], {"lipstick": 0, "makeup": 0})[0]
        assert torch.equal(bare, probe.faces.image(index))
        assert torch.equal(probe.image(index), bare) == (attributes == {"lipstick": 0, "makeup": 0})
    assert len(seen) == 4


def test_counterfactuals_in_the_order_asked(probe):
    images = probe.counterfactuals([5, 0, 5], {"makeup": 1})
    assert images.dtype == torch.uint8
    assert torch.equal(images[0], images[2])
    assert torch.equal(images[1], probe.counterfactuals([0], {"makeup": 1})[0])
    assert probe.counterfactuals([], {"makeup": 1}).shape == (0, 3, 12, 12)


def test_labels_have_the_lids_beside_the_parts(probe):
    lid = probe.concepts[-1]
    assert lid == Concept(HAIR + 1, "eyelid", "part")
    labels = probe.labels(0)
    assert labels.image == {"scene": (7,)}
    assert labels.planes["part"].shape == (2, 12, 12)
    parts = probe.faces.parts
    assert torch.equal(labels.planes["part"][0], parts * (parts != HAIR))
    assert torch.equal(labels.planes["part"][1] == lid.number, eyelids(parts[None] == EYE, parts[None] == SKIN)[0])
    regions = PartRegions(probe, dilate=0)(probe[0])
    assert regions["eyes"][labels.planes["part"][1] > 0].all()


def test_facts_keep_what_was_known(probe):
    facts = probe.facts(7)
    assert facts["attributes"]["age"] == 7
    assert facts["attributes"]["lipstick"] in (0, 1)
    assert facts["landmarks"].shape == (5, 2)


@pytest.mark.parametrize("rho", [-1.0, 0.0, 0.8, 1.0])
def test_labels_have_the_correlation_asked_for(rho):
    probe = Recoloured(PaintedFaces(4000), rho=rho, seed=1)
    signs = {name: 2.0 * values - 1 for name, values in probe._own.items()}
    noise = 4 / 4000**0.5
    assert (signs["lipstick"] * signs["makeup"]).mean().item() == pytest.approx(rho, abs=noise)
    for sign in signs.values():
        assert sign.mean().item() == pytest.approx(0, abs=noise)


def test_what_is_drawn_depends_on_the_photo_not_on_the_choice_of_photos(probe):
    few = Recoloured(PaintedFaces(24), rho=0.5, seed=3, indices=[20, 4])
    assert len(few) == 2
    for position, index in enumerate([20, 4]):
        assert torch.equal(few.image(position), probe.image(index))
        assert few.facts(position)["attributes"] == probe.facts(index)["attributes"]


def test_strengths_replace_the_range():
    weak = Recoloured(PaintedFaces(), strengths={"lipstick": (0.0, 0.0)})
    off, on = (weak.counterfactuals(range(6), {"lipstick": value}) for value in (0, 1))
    assert torch.equal(off, on)
    assert not torch.equal(*(weak.counterfactuals(range(6), {"makeup": value}) for value in (0, 1)))


def test_filling_the_region_erases_the_attribute():
    """The identity of exact pairs: grey over all that do() changes makes both versions one picture."""
    probe = Recoloured(PaintedFaces())
    regions = PartRegions(probe, dilate=0)
    for name, region in (("lipstick", "mouth"), ("makeup", "eyes")):
        mask = torch.stack([regions(probe[i])[region] for i in range(6)])[:, None]
        off, on = (probe.counterfactuals(range(6), {name: value}).masked_fill(mask, 128) for value in (0, 1))
        assert torch.equal(off, on)


def test_description_is_json_and_tells_sets_apart():
    faces = PaintedFaces()
    sets = [
        Recoloured(faces),
        Recoloured(faces, seed=1),
        Recoloured(faces, rho=0.5),
        Recoloured(faces, strengths={"makeup": (0.1, 0.2)}),
        Recoloured(faces, indices=[0, 1, 2]),
        Recoloured(PaintedFaces(5)),
    ]
    assert len({json.dumps(probe.describe()) for probe in sets}) == 6
    assert len({probe.fingerprint() for probe in sets}) == 6
    assert Recoloured(PaintedFaces()).fingerprint() == sets[0].fingerprint()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Recoloured(PaintedFaces(), rho=1.1), "rho"),
        (lambda: Recoloured(PaintedFaces(), rho=float("nan")), "rho"),
        (lambda: Recoloured(PaintedFaces(), seed=-1), "seed"),
        (lambda: Recoloured(PaintedFaces(), indices=[0, 6]), "index 6"),
        (lambda: Recoloured(PaintedFaces(), indices=[]), "no face"),
        (lambda: Recoloured(PaintedFaces(), strengths={"lipstik": (0, 1)}), "did you mean 'lipstick'"),
        (lambda: Recoloured(PaintedFaces(), strengths={"lipstick": (0.5, 0.4)}), r"\[0, 1\]"),
        (lambda: Recoloured(PaintedFaces(side=24)), r"\(24, 24\).*\(12, 12\)"),
        (lambda: Recoloured(PaintedFaces(concepts=CONCEPTS[:1] + CONCEPTS[2:])), "no concept eye"),
        (lambda: Recoloured(PaintedFaces()).counterfactuals([0], {"makeup": 2}), "0 or 1"),
        (lambda: Recoloured(PaintedFaces()).counterfactuals([0], {"blond": 1}), "there are lipstick, makeup"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(DatasetError, match=message):
        build()


@pytest.mark.parametrize("index", [-1, 6])
def test_index_outside_the_set(index):
    with pytest.raises(IndexError, match="outside"):
        Recoloured(PaintedFaces()).counterfactuals([index], {})
    with pytest.raises(IndexError, match="outside"):
        Recoloured(PaintedFaces())[index]


@pytest.mark.skipif(not os.path.isdir(REAL), reason="the real faces are not here")
def test_real_faces():
    probe = Recoloured(FacesWithParts(REAL, size=(64, 64)), rho=0.9, indices=range(0, 772, 16))
    every = range(len(probe))
    off = probe.counterfactuals(every, {"lipstick": 0, "makeup": 0})
    regions = [PartRegions(probe, dilate=0)(probe[i]) for i in every]
    for name, region in (("lipstick", "mouth"), ("makeup", "eyes")):
        on = probe.counterfactuals(every, {"lipstick": 0, "makeup": 0, name: 1})
        changed = (on != off).any(1)
        assert not (changed & ~torch.stack([masks[region] for masks in regions])).any()
        assert changed.flatten(1).any(1).float().mean() > 0.95
        drift = (lightness(on) - lightness(off)).abs()[changed]
        assert drift.mean() < 0.5
        assert np.quantile(drift.numpy(), 0.95) < 2.5
    # Nobody's hair, clothes or background is coloured; lids and lips are about a hundredth of the picture each.
    assert max_pool2d((on != off).any(1, keepdim=True).float(), 64).mean() > 0.9
    assert 0.003 < (on != off).any(1).float().mean() < 0.03
