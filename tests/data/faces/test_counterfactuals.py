"""What rendered faces offer for context bias: correlated pairs, cue strengths, splits, counterfactuals."""

import json

import pytest
import torch

from lightning_interp.data.faces.probe import RenderedFaces
from lightning_interp.data.faces.records import ATTRIBUTES, draw_faces
from lightning_interp.data.faces.render import render
from lightning_interp.errors import DatasetError


def correlation(records, first, second):
    a, b = (2.0 * records.values[name] - 1 for name in (first, second))
    return float((a * b).mean())


def test_a_pair_has_its_correlation_and_lipstick_none_of_it():
    records = draw_faces(40_000, 7, {("makeup", "blond"): 0.8, "hat": -0.5})
    noise = 4 / 40_000**0.5
    assert correlation(records, "makeup", "blond") == pytest.approx(0.8, abs=noise)
    assert correlation(records, "lipstick", "hat") == pytest.approx(-0.5, abs=noise)
    for other in ("lipstick", "hat", "smile"):
        assert correlation(records, "makeup", other) == pytest.approx(0, abs=noise)
        assert correlation(records, "blond", other) == pytest.approx(0, abs=noise)
    for name in ATTRIBUTES:
        assert records.values[name].float().mean().item() == pytest.approx(0.5, abs=noise / 2)


def test_of_a_pair_only_the_later_attribute_changes():
    plain, paired = draw_faces(1000, 7, {}), draw_faces(1000, 7, {("blond", "makeup"): 0.9})
    changed = {name for name in plain.values if not torch.equal(plain.values[name], paired.values[name])}
    assert changed == {"blond"}


def test_a_lone_attribute_is_drawn_as_ever():
    """The rule of the first release: equal to lipstick if the die is below (1 + rho) / 2."""
    values = draw_faces(12, 0, {"makeup": 0.9, "blond": -0.4}).values
    assert values["lipstick"].tolist() == [0, 0, 1, 1, 1, 0, 1, 0, 1, 0, 0, 1]
    assert values["makeup"].tolist() == [0, 0, 1, 1, 1, 0, 1, 0, 1, 0, 0, 1]
    assert values["blond"].tolist() == [0, 0, 0, 1, 0, 1, 0, 0, 1, 1, 1, 0]


def test_strengths_replace_their_range_and_nothing_else():
    plain, strong = draw_faces(1000, 7, {}), draw_faces(1000, 7, {}, {"lipstick": (0.7, 0.9)})
    changed = {name for name in plain.values if not torch.equal(plain.values[name], strong.values[name])}
    assert changed == {"lipstick_strength"}
    drawn = strong.values["lipstick_strength"]
    assert drawn.min() >= 0.7
    assert drawn.max() <= 0.9
    assert drawn.max() - drawn.min() > 0.19


def test_a_strength_of_zero_hides_the_cue_and_a_higher_one_shows_more():
    effects = []
    for strength in (0.0, 0.3, 0.9):
        probe = RenderedFaces(20, size=32, strengths={"lipstick": (strength, strength)})
        off, on = (probe.counterfactuals(range(20), {"lipstick": value}).int() for value in (0, 1))
        effects.append(int((on - off).abs().sum()))
    assert effects[0] == 0
    assert effects[2] > 2 * effects[1] > 0


def test_counterfactuals_are_the_rendered_ones_in_the_order_asked():
    probe = RenderedFaces(9, size=32, correlations={"makeup": 0.5})
    images = probe.counterfactuals([7, 0, 7], {"makeup": 1, "lipstick": 0})
    assert images.shape == (3, 3, 32, 32)
    assert images.dtype == torch.uint8
    whole = render(probe.records, {"makeup": 1, "lipstick": 0}, size=32).images
    assert torch.equal(images, whole[[7, 0, 7]])


def test_doing_what_is_so_changes_nothing():
    probe = RenderedFaces(12, size=32)
    for index in range(12):
        attributes = probe.facts(index)["attributes"]
        assert torch.equal(probe.counterfactuals([index], attributes)[0], probe.image(index))
        assert torch.equal(probe.counterfactuals([index], {})[0], probe.image(index))
        turned = probe.counterfactuals([index], {"blond": 1 - attributes["blond"]})[0]
        assert not torch.equal(turned, probe.image(index))


def test_only_what_changes_is_drawn_once_the_set_has_its_pictures(monkeypatch):
    probe, do = RenderedFaces(300, size=32), {"makeup": 1}
    expected = render(probe.records[280:], do, size=32).images
    drawn = []

    def counted(records, *args, **options):
        drawn.append(len(records))
        return render(records, *args, **options)

    monkeypatch.setattr("lightning_interp.data.faces.probe.render", counted)
    assert torch.equal(probe.counterfactuals(range(280, 300), do), expected)
    assert drawn == [20]
    probe.image(299)  # a second chunk of 44
    assert torch.equal(probe.counterfactuals(range(280, 300), do), expected)
    assert drawn == [20, 44, 20 - int(probe.records.values["makeup"][280:].sum())]
    # Of the first chunk there are no pictures yet.
    assert probe.counterfactuals([0, 299], {}).shape == (2, 3, 32, 32)
    assert drawn[3:] == [1]
    probe.counterfactuals([299], {})
    assert drawn[4:] == []


def test_counterfactuals_of_no_face_and_in_inference_mode():
    probe = RenderedFaces(2, size=32)
    assert probe.counterfactuals([], {"makeup": 1}).shape == (0, 3, 32, 32)
    with torch.inference_mode():
        assert not probe.counterfactuals([1], {"makeup": 1}).is_inference()


def test_a_split_has_other_faces_and_the_same_or_other_correlations():
    options = {"size": 32, "strengths": {"makeup": (0.1, 0.2)}, "normalize": None}
    train = RenderedFaces(400, seed=1, correlations={"makeup": 1.0}, **options)
    biased, unbiased = train.split(2), train.split(3, num_images=500, correlations={})
    assert correlation(biased.records, "lipstick", "makeup") == 1
    assert abs(correlation(unbiased.records, "lipstick", "makeup")) < 0.2
    assert (len(biased), len(unbiased)) == (400, 500)
    assert not torch.equal(biased.records.values["noise_seed"], train.records.values["noise_seed"])
    assert biased.describe() == RenderedFaces(400, seed=2, correlations={"makeup": 1.0}, **options).describe()
    assert unbiased.describe() == RenderedFaces(500, seed=3, **options).describe()


def test_description_tells_pairs_and_strengths_apart():
    sets = [
        RenderedFaces(4, size=32),
        RenderedFaces(4, size=32, correlations={("makeup", "blond"): 0.5}),
        RenderedFaces(4, size=32, correlations={("makeup", "hat"): 0.5}),
        RenderedFaces(4, size=32, correlations={"makeup": 0.5}),
        RenderedFaces(4, size=32, strengths={"makeup": (0.5, 0.9)}),
        RenderedFaces(4, size=32, strengths={"makeup": (0.5, 0.8)}),
    ]
    assert len({json.dumps(probe.describe()) for probe in sets}) == 6
    assert len({probe.fingerprint() for probe in sets}) == 6
    assert sets[1].describe()["correlations"] == {"makeup-blond": 0.5}
    assert RenderedFaces(4, size=32, correlations={("blond", "makeup"): 0.5}).fingerprint() == sets[1].fingerprint()
    assert RenderedFaces(4, size=32, correlations={("makeup", "lipstick"): 0.5}).fingerprint() == sets[3].fingerprint()
    assert sets[0].fingerprint() == "824d076e9060ec52"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RenderedFaces(4, strengths={"blond": (0.1, 0.2)}), "of lipstick or makeup"),
        (lambda: RenderedFaces(4, strengths={"lipstick": (0.3, 0.2)}), r"'lipstick'\] = \(0.3, 0.2\)"),
        (lambda: RenderedFaces(4, strengths={"lipstick": (0.3, 1.1)}), r"in \[0, 1\]"),
        (lambda: RenderedFaces(4, strengths={"lipstick": (float("nan"), 1)}), r"in \[0, 1\]"),
        (
            lambda: RenderedFaces(4, correlations={"makeup": 0.9, "blond": -0.9, ("makeup", "blond"): 0.9}),
            "lipstick-makeup 0.9, lipstick-blond -0.9, makeup-blond 0.9",
        ),
        (lambda: RenderedFaces(4, seed=5).split(5), "same faces"),
        (lambda: RenderedFaces(4).split(-1), "seed"),
        (lambda: RenderedFaces(4, size=32).counterfactuals([0], {"makeup": 2}), "0 or 1"),
        (lambda: RenderedFaces(4, size=32).counterfactuals([0], {"make_up": 1}), "did you mean 'makeup'"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(DatasetError, match=message):
        build()


@pytest.mark.parametrize("index", [-1, 4])
def test_counterfactuals_outside_the_set(index):
    with pytest.raises(IndexError, match="outside"):
        RenderedFaces(4, size=32).counterfactuals([0, index], {})
