import pytest
import torch

from lightning_interp.data.faces.concepts import (
    COLOURS,
    FACE_CONCEPTS,
    NUMBER,
    PLANE_TABLES,
    SCENES,
    SURFACE_ID,
    TEXTURES,
    colour_labels,
)
from lightning_interp.data.probe import BRODEN_CATEGORIES


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ((0, 0, 0), "black"),
        ((255, 255, 255), "white"),
        ((128, 128, 128), "grey"),
        ((255, 0, 0), "red"),
        ((200, 40, 45), "red"),
        ((0, 255, 0), "green"),
        ((45, 140, 70), "green"),
        ((0, 0, 255), "blue"),
        ((120, 170, 230), "blue"),
        ((255, 255, 0), "yellow"),
        ((255, 140, 0), "orange"),
        ((128, 0, 160), "purple"),
        ((255, 170, 200), "pink"),
        ((255, 210, 185), "pink"),
        ((110, 70, 40), "brown"),
        ((70, 20, 15), "brown"),
    ],
)
def test_colour_names(colour, name):
    image = torch.tensor(colour, dtype=torch.uint8).view(1, 3, 1, 1)
    assert colour_labels(image).item() == NUMBER[name]


def test_every_colour_has_a_name():
    level = torch.arange(0, 256, 15, dtype=torch.uint8)
    image = torch.cartesian_prod(level, level, level).T[None, :, :, None]
    assert set(colour_labels(image).unique().tolist()) == {NUMBER[name] for name in COLOURS}


def test_concepts_are_numbered_once_and_cover_the_six_categories():
    assert [concept.number for concept in FACE_CONCEPTS] == list(range(1, len(FACE_CONCEPTS) + 1))
    assert len(NUMBER) == len(FACE_CONCEPTS)
    assert {concept.category for concept in FACE_CONCEPTS} == set(BRODEN_CATEGORIES)
    category = {concept.name: concept.category for concept in FACE_CONCEPTS}
    assert {category[name] for name in SCENES} == {"scene"}
    assert {category[name] for name in COLOURS} == {"color"}
    assert {category[name] for name in TEXTURES} == {"texture"}


def test_hair_is_one_concept_in_two_planes_and_lips_are_a_part_of_the_mouth():
    hair, lip = SURFACE_ID["hair"], SURFACE_ID["lip"]
    assert PLANE_TABLES["object"][:, hair].tolist() == [NUMBER["person"], NUMBER["hair"]]
    assert PLANE_TABLES["material"][:, hair].tolist() == [NUMBER["hair"]]
    assert PLANE_TABLES["part"][:, lip].tolist() == [NUMBER["mouth"], NUMBER["lip"]]
