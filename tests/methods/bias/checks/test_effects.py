"""Occlusion, part swap and re-rendering on networks whose every effect has a closed form, and the grey identity."""

import math

import pytest
import torch
from torch import nn

from lightning_interp.data.probe import Labels
from lightning_interp.errors import DatasetError
from lightning_interp.methods.bias.checks.swap import Swap
from lightning_interp.methods.bias.verdict import verdict
from tests.helpers.bias import (
    LID,
    LIDS,
    LIPS,
    LIPSTICK,
    MAKEUP,
    MOUTH,
    Additive,
    Remakeable,
    TinyFaces,
    all_versions,
    ask,
    biased,
    find,
    look_at,
    make_diagnoser,
    values,
)
from tests.helpers.models import small_cnn

RED, BLUE = (LIPSTICK - LIPS) / 255, (MAKEUP - LID) / 255
WEIGHTS = [(6.0, 4.0), (8.0, -3.0), (5.0, 0.0), (9.0, 8.0)]


def scale(model, probe):
    """S, image by image."""
    with torch.no_grad():
        return sum(float(model(probe.image(i)[None] / 255).abs()) for i in range(len(probe))) / len(probe)


@pytest.mark.parametrize(("region", "context"), WEIGHTS)
def test_exact_effects_are_weights_times_colour_differences(region, context):
    model, probe = Additive(region, context), all_versions()
    found = values(ask(model, probe, checks=["exact"]))
    s = scale(model, probe)
    assert found["effect_region/makeup"] == pytest.approx(region * RED / s, abs=1e-5)
    assert found["effect_context/makeup"] == pytest.approx(context * BLUE / s, abs=1e-5)
    share = abs(context * BLUE) / (abs(context * BLUE) + abs(region * RED))
    assert found["exact_reliance/makeup"] == pytest.approx(share, abs=1e-5)


@pytest.mark.parametrize(("region", "context"), WEIGHTS)
def test_grey_costs_half_of_the_effects_and_keeps_their_ratio(region, context):
    model, probe = Additive(region, context), all_versions()
    found = values(ask(model, probe))
    s = scale(model, probe)
    assert found["e_region"] == pytest.approx(region * RED / 2 / s, abs=1e-5)
    assert found["e_context/makeup"] == pytest.approx(context * BLUE / 2 / s, abs=1e-5)
    assert found["crr/makeup"] == found["crr_grey/makeup"]
    assert found["crr/makeup"] == pytest.approx(found["exact_reliance/makeup"], abs=1e-5)
    # Without an intervention, where label and context are independent.
    assert found["conditional_reliance/makeup"] == pytest.approx(found["exact_reliance/makeup"], abs=1e-5)
    # Signed by the target the context's effect cancels, whatever it is.
    assert found["crr_by_target/makeup"] == pytest.approx(0, abs=1e-5)
    assert found["e_control"] == pytest.approx(0, abs=1e-5)


class Interacting(nn.Module):
    """A score in which mouth and lids are not additive."""

    def __init__(self):
        super().__init__()
        self.layer, self.own, self.other = nn.Identity(), Additive(4, 1), Additive(1, 3)

    def forward(self, x):
        x = self.layer(x)
        return self.own(x).tanh() * 3 + self.other(x) + 0.7 * self.own(x) * self.other(x).sigmoid()


@pytest.mark.parametrize("model", [Interacting(), small_cnn(seed=1), small_cnn(seed=2)])
def test_grey_identity_holds_for_any_network(model):
    """Versions of a face that differ in the hidden pixels alone: s(hidden) cancels between them."""
    layer = "layer" if isinstance(model, Interacting) else "1"
    found = values(ask(model, all_versions(), layer=layer))
    assert found["effect_region/makeup"] == pytest.approx(2 * found["e_region"], abs=1e-5)
    assert found["effect_context/makeup"] == pytest.approx(2 * found["e_context/makeup"], abs=1e-5)
    assert abs(found["e_context/makeup"]) > 1e-4
    if layer == "layer":
        assert found["crr/makeup"] == pytest.approx(found["exact_reliance/makeup"], abs=1e-5)


def test_the_identity_needs_the_fill_to_erase():
    """Blur keeps some of the colour that it hides, and the mean of the other pixels has none of the label's."""
    found = values(ask(Additive(6, 4), all_versions(), fills=["blur", "mean"], checks=["occlusion", "exact"]))
    assert found["crr/makeup"] == found["crr_blur/makeup"] != pytest.approx(found["exact_reliance/makeup"], abs=1e-3)


RATIOS = ("crr/makeup", "scr/makeup", "exact_reliance/makeup", "crr_by_target/makeup")


def test_network_that_uses_the_region_only_relies_on_no_context():
    found = values(ask(Additive(8, 0), biased()))
    assert [found[name] for name in RATIOS] == pytest.approx([0] * 4, abs=1e-5)
    assert found["follow"] == 1
    assert found["accuracy_without_region"] == 0.5


def test_network_that_uses_the_context_only_relies_on_nothing_else():
    found = values(ask(Additive(0, 8), biased()))
    assert [found[name] for name in RATIOS] == pytest.approx([1] * 4, abs=1e-5)
    # The prediction stays where it was, which is the donor's label only where it was wrong.
    assert found["follow"] == pytest.approx(0.1)
    assert found["accuracy"] == found["accuracy_without_region"] == 0.9


@pytest.mark.parametrize("context", [8, -8])
def test_network_of_the_context_alone_reads_so_where_the_two_are_independent(context):
    """It is at chance on the target there, and has learnt all the same: to follow the context, or its opposite."""
    result = ask(Additive(0, context), all_versions())
    found = values(result)
    assert found["balanced_accuracy"] == 0.5
    assert [found[f"{name}/makeup"] for name in ("crr", "scr", "exact_reliance")] == pytest.approx([1] * 3, abs=1e-5)
    assert result.signal == {"makeup": True}
    # Nobody can know without the context's labels.
    assert ask(Additive(0, context), all_versions(known=["lipstick"])).signal == {"makeup": False}


def test_ratios_lie_in_their_intervals_and_ends_differ():
    for name, score in ask(Additive(6, 4), biased()).scores.items():
        if name in RATIOS or name.startswith("e_context"):
            assert score.low < score.value < score.high


@pytest.mark.parametrize("model", [Additive(0, 0), small_cnn(), Additive(0, 0, centred=False)])
def test_untrained_or_constant_network_reads_no_signal(model):
    layer = "1" if isinstance(model, nn.Sequential) else "layer"
    result = ask(model, all_versions(), layer=layer)
    assert all(math.isnan(values(result)[name]) for name in RATIOS)
    assert result.signal == {"makeup": False}


def test_right_network_with_tiny_logits_reads_no_signal():
    """It tells the labels apart, but at 0.02 of a logit."""
    result = ask(Additive(0.05, 0.05), biased())
    assert result.scores["balanced_accuracy"].low > 0.7
    assert result.signal == {"makeup": False}


def test_image_without_the_region_is_left_out_and_counted():
    with_all = ask(Additive(6, 4), biased(jitter=False), examples=2)
    some = ask(Additive(6, 4), biased(jitter=False, without_mouth=range(7)), examples=2)
    assert with_all.scores["crr/makeup"].count == with_all.scores["mass"].count * 2 == 40
    for name in ("crr/makeup", "e_region", "e_control", "accuracy_without_region"):
        assert some.scores[name].count == 33, name
    # Donors are drawn among the 33.
    assert some.scores["scr/makeup"].count == some.scores["follow"].count == 33
    # Accuracy and re-rendering need no region.
    for name in ("accuracy", "exact_reliance/makeup"):
        assert some.scores[name].count == 40
    assert values(some)["e_region"] == pytest.approx(values(with_all)["e_region"], rel=0.2)


def test_a_large_region_has_no_control_but_an_effect():
    large = torch.ones_like(MOUTH) & ~LIDS
    found = ask(Additive(8, 0), all_versions(), regions=lambda item: {"mouth": large, "lids": LIDS})
    assert math.isnan(found.scores["e_control"].value)
    assert found.scores["e_control"].count == 0
    assert found.scores["e_region"].value == pytest.approx(1, abs=1e-5)
    assert found.scores["e_region"].count == 48


def test_contexts_without_labels_are_signed_by_the_target():
    labelled = values(ask(Additive(6, 4), biased()))
    without = ask(Additive(6, 4), biased(known=["lipstick"]))
    assert without.scores["crr/makeup"].value == labelled["crr_by_target/makeup"]
    assert without.scores["crr/makeup"].value == without.scores["crr_by_target/makeup"].value
    assert without.scores["crr/makeup"].value != labelled["crr/makeup"]
    assert without.signal == {"makeup": True}


def test_chance_of_the_ratio_is_the_share_of_the_area():
    score = ask(Additive(6, 4), biased()).scores["crr/makeup"]
    assert score.chance == pytest.approx(32 / (32 + 24))


def test_swap_of_equal_parts_changes_nothing():
    """Every face alike but for its attributes: a donor of the same label pastes what is there already."""
    probe, model = all_versions(jitter=False), Additive(6, 4)
    found = values(ask(model, probe, checks=["swap", "exact"]))
    # So the effect of the other label's part is that of the attribute.
    assert found["swap_region/makeup"] == pytest.approx(found["effect_region/makeup"], abs=1e-5)
    assert found["swap_context/makeup"] == pytest.approx(found["effect_context/makeup"], abs=1e-5)
    assert found["scr/makeup"] == pytest.approx(found["exact_reliance/makeup"], abs=1e-5)


def test_an_image_that_is_its_own_donor_answers_as_it_is():
    diagnoser, model = make_diagnoser(biased(), checks=["swap"]), Additive(6, 4)
    diagnoser.describe(model)
    view, swap = look_at(diagnoser, model, range(10)), Swap(diagnoser.asked)
    everyone = torch.arange(40)
    swap.donors = dict.fromkeys([("lipstick", "mouth"), ("lipstick", "lids")], (everyone, everyone))
    for region in ("mouth", "lids"):
        outputs, keep = swap._paste(view, ("lipstick", region))
        assert keep.all()
        assert all(torch.equal(out, view.outputs) for out in outputs)


def test_image_without_a_donor_does_not_count():
    # The only image without lipstick has no donor of its own label; the others have both.
    probe = TinyFaces([(face, int(face > 0), face % 2) for face in range(10)])
    result = ask(Additive(8, 0), probe, checks=["swap"])
    assert result.scores["follow"].count == result.scores["scr/makeup"].count == 9


class Sparse(TinyFaces):
    """Lids are seen in images 0 to 9 and 20 to 29."""

    def labels(self, index):
        plane = super().labels(index).planes["part"]
        return Labels({"part": plane if index % 20 < 10 else torch.where(LIDS, 0, plane)})


def find_both(item):
    return {"mouth": item.labels.planes["part"] == 1, "lids": item.labels.planes["part"] == 2}


def test_donors_are_images_that_show_the_part():
    probe = biased(kind=Sparse, without_mouth=range(4, 40))
    result = ask(Additive(6, 4), probe, checks=["swap"], regions=find_both)
    assert result.scores["follow"].count == result.scores["scr/makeup"].count == 4


def test_pictures_take_a_part_from_an_image_that_shows_it():
    probe = biased(kind=Sparse, without_mouth=range(2, 40, 2))
    for example in ask(Additive(6, 4), probe, checks=["groups"], regions=find_both, examples=40).examples:
        logits = {version.caption: version.logit for version in example.versions}
        assert (logits["other mouth"] != logits["as it is"]) == (example.index not in probe.without_mouth)
        assert (logits["other lids"] != logits["as it is"]) == (example.index % 20 < 10)


@pytest.mark.parametrize("conflicting", [4, 20])
def test_chance_to_follow_is_that_of_an_answer_that_stays(conflicting):
    """A network that does not see the region follows as often as it was wrong."""
    result = ask(Additive(0, 8), biased(40, conflicting), checks=["swap"])
    follow = result.scores["follow"]
    assert follow.value == follow.chance == pytest.approx(1 - values(result)["accuracy"])
    seen = ask(Additive(8, 0), biased(), checks=["swap"]).scores["follow"]
    assert (seen.value, seen.chance) == (1, 0)


def test_chance_without_the_region_is_the_share_of_the_most_frequent_label():
    rows = [(face, int(face % 10 == 0), face % 2) for face in range(40)]
    result = ask(Additive(8, 0), TinyFaces(rows, without_mouth=range(1, 9)), checks=["occlusion"])
    hidden = result.scores["accuracy_without_region"]
    assert hidden.count == 32
    assert hidden.chance == pytest.approx(28 / 32)
    assert result.scores["accuracy"].chance == pytest.approx(36 / 40)


# Lipstick on kind 2 only, make-up on kind 1 only.
KINDS = [(face, int(face % 3 == 2), int(face % 3 == 1)) for face in range(60)]


class Kinds(nn.Module):
    """Tells kind 1 by the lids and kind 2 from kind 0 by the mouth."""

    def __init__(self, region, context):
        super().__init__()
        self.layer, self.mouth, self.lids = nn.Identity(), Additive(region, 0), Additive(0, context)

    def forward(self, x):
        x = self.layer(x)
        mouth, lids = self.mouth(x), self.lids(x)
        return torch.stack([-lids - mouth, lids, mouth - lids], 1)


@pytest.mark.parametrize(("region", "context"), [(3.0, 9.0), (9.0, 3.0), (9.0, 0.0)])
def test_effects_on_the_true_of_three_classes_are_not_signed_by_the_context(region, context):
    def found(known):
        options = {"checks": ["occlusion", "swap"], "question": ("kind", "mouth", {"makeup": "lids"})}
        return values(ask(Kinds(region, context), TinyFaces(KINDS, known=known), **options))

    labelled = found(["kind", "makeup"])
    assert labelled == pytest.approx(found(["kind"]), abs=1e-12)
    assert labelled["crr/makeup"] == labelled["crr_by_target/makeup"]
    assert (labelled["e_context/makeup"] > 0.05) == (labelled["swap_context/makeup"] > 0.05) == (context > 0)


def test_regions_are_those_of_the_users_function():
    """Swapped round, the same network relies on the other one."""
    swapped = {"regions": lambda item: {"mouth": LIDS, "lids": find(item)["mouth"]}}
    straight = values(ask(Additive(6, 4), biased(), checks=["occlusion"]))
    turned = values(ask(Additive(6, 4), biased(), checks=["occlusion"], **swapped))
    assert turned["crr_by_target/makeup"] == pytest.approx(1 - straight["crr_by_target/makeup"])


def test_region_that_is_the_whole_image_leaves_no_context():
    everything = torch.ones_like(MOUTH)

    def regions(item):
        return {"mouth": everything & ~LIDS if item.index < 4 else everything, "lids": LIDS}

    result = ask(Additive(6, 4), all_versions(), regions=regions)
    assert values(result)["accuracy_without_region"] == pytest.approx(0.5, abs=4 / 48)
    assert {name: result.scores[name].count for name in ("e_region", "crr/makeup", "scr/makeup")} == {
        "e_region": 48,
        "crr/makeup": 4,
        "scr/makeup": 4,
    }
    # Where everything is inside, nothing can be said of where the evidence lies.
    assert result.scores["mass"].count + result.scores["mass/makeup"].count <= 8


def apart(item):
    """Mouth and lids, never on one image."""
    none = torch.zeros_like(MOUTH)
    return {"mouth": MOUTH if item.index % 2 else none, "lids": none if item.index % 2 else LIDS}


def test_regions_that_no_image_shows_together_are_told_of():
    result = ask(Additive(6, 4), all_versions(), regions=apart, checks=["occlusion", "swap"])
    assert result.missing == {
        "occlusion": "no crr/makeup: no image shows 'mouth' and 'lids'",
        "swap": "no scr/makeup: no image shows 'mouth' and 'lids'",
    }
    assert all(math.isnan(result.scores[name].value) for name in ("crr/makeup", "scr/makeup"))
    assert not math.isnan(result.scores["e_region"].value)
    assert ask(Additive(6, 4), all_versions(), checks=["occlusion", "swap"]).missing == {}


def test_what_was_not_measured_is_no_want_of_signal():
    result = ask(Additive(6, 0), all_versions(), regions=apart, checks=["occlusion", "swap"])
    assert result.signal == {}
    lines = verdict(result, {})
    assert lines[0] == "lipstick: reliance on makeup (lids) was not measured"
    assert not any("no signal" in line for line in lines)


def test_a_context_of_one_value_has_no_donors():
    rows = [(face, face % 2, 1) for face in range(12)]
    result = ask(Additive(6, 4), TinyFaces(rows), checks=["swap", "occlusion"])
    assert result.missing == {"swap": "no scr/makeup: too few images that show 'lids' have one value of 'makeup'"}
    assert math.isnan(result.scores["scr/makeup"].value)


def test_a_fill_named_twice_counts_once():
    once, twice = (ask(Additive(6, 4), biased(), fills=fills) for fills in (["grey"], ["grey", "grey"]))
    assert once.scores == twice.scores


def test_the_picture_shows_a_context_of_the_other_value():
    """On biased faces a donor of the other lipstick mostly has the other make-up; not where the two disagree."""
    model, probe = Additive(0.0, 8.0), biased()
    shown = ask(model, probe, examples=4).examples
    assert len(shown) == 4
    for example in shown:
        before, after = (version.logit for version in (example.versions[0], example.versions[-1]))
        assert example.versions[-1].caption == "other lids"
        assert (before > 0) != (after > 0)


def test_hiding_a_context_leaves_the_region_in_sight():
    """A network of the mouth alone does not rely on the face around it."""
    face = torch.zeros_like(MOUTH)
    face[4:20, 4:20] = True
    found = values(ask(Additive(8, 0), biased(), regions=lambda item: {"mouth": MOUTH, "lids": face}))
    assert [found[name] for name in RATIOS] == pytest.approx([0] * 4, abs=1e-5)


class Picky(Remakeable):
    """Cannot set every attribute."""

    def counterfactuals(self, indices, do):
        if set(do) - self.settable:
            raise DatasetError(f"unknown attribute {next(iter(do))!r}")
        return super().counterfactuals(indices, do)


@pytest.mark.parametrize(
    ("settable", "known", "why"),
    [
        ({"lipstick", "makeup"}, [True, False], "no exact_reliance/third: unknown attribute 'third'"),
        ({"lipstick"}, [False, False], "unknown attribute 'makeup'"),
        ({"makeup"}, [False, False], "unknown attribute 'lipstick'"),
    ],
)
def test_attributes_that_cannot_be_set_are_left_out(settable, known, why):
    probe = biased(kind=Picky)
    probe.settable = settable
    question = ("lipstick", "mouth", {"makeup": "lids", "third": "lids"})
    result = ask(Additive(8, 2), probe, checks=["exact"], question=question)
    assert result.missing.get("exact") == why
    names = [f"exact_reliance/{context}" for context in ("makeup", "third")]
    assert [name in result.scores and not math.isnan(result.scores[name].value) for name in names] == known


class Refuses(Remakeable):
    """As a user would write it: a table of what can be set."""

    def counterfactuals(self, indices, do):
        return super().counterfactuals(indices, {name: {"lipstick": value}[name] for name, value in do.items()})


def test_a_context_that_cannot_be_set_may_be_refused_by_any_error():
    result = ask(Additive(8, 2), biased(kind=Refuses), checks=["exact", "occlusion"])
    assert result.missing == {"exact": "'makeup' cannot be set: KeyError: 'makeup'"}
    assert not math.isnan(result.scores["crr/makeup"].value)
