"""The engine: what may not change a result, what it leaves alone, and what it refuses."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from lightning_interp.data.counterfactuals import Remade
from lightning_interp.data.faces.probe import RenderedFaces
from lightning_interp.data.loading import ShardSampler
from lightning_interp.data.probe import Labels
from lightning_interp.data.readers.group_csv import GroupCSV
from lightning_interp.errors import DatasetError, LayerError, ProbeError
from lightning_interp.methods.bias.checks import CHECKS
from lightning_interp.methods.bias.engine import Diagnoser, diagnose
from lightning_interp.methods.bias.files import load_bias, save_bias
from lightning_interp.methods.bias.verdict import verdict
from lightning_interp.probing.ranks import Ranks
from tests.helpers.bias import (
    OPTIONS,
    QUESTION,
    Additive,
    Heads,
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
from tests.helpers.harmless import module_state, random_state
from tests.helpers.models import small_cnn

EVERYTHING = tuple(CHECKS)


def mixed():
    """A network with both outputs whose maps, logits and gradients are of a usual size."""
    return Heads(Additive(6, 4), Additive(1, 7))


def everything(model=None, probe=None, **options):
    options = {"checks": EVERYTHING, "outputs": ["lipstick", "makeup"], "fills": ["grey", "mean", "blur"]} | options
    return ask(model or mixed(), probe or biased(without_mouth=[2, 5]), **options)


def assert_same(result, other, tolerance=1e-6):
    """Counts exactly, numbers within the tolerance."""
    assert list(result.scores) == list(other.scores)
    for name, score in result.scores.items():
        assert score.count == other.scores[name].count, name
        expected = other.scores[name]
        for field in ("value", "low", "high", "chance"):
            assert getattr(score, field) == pytest.approx(getattr(expected, field), abs=tolerance, nan_ok=True), name
    assert result.signal == other.signal
    assert (result.relations is None) == (other.relations is None)
    if result.relations is not None:
        assert torch.allclose(torch.tensor(result.relations.mean), torch.tensor(other.relations.mean), atol=1e-6)


@settings(max_examples=6, deadline=None)
@given(st.integers(1, 50))
def test_batch_size_does_not_matter(batch_size):
    assert_same(everything(batch_size=batch_size), everything(batch_size=16))


def test_batch_size_does_not_matter_to_a_cnn():
    results = [everything(small_cnn(), layer="1", batch_size=size) for size in (1, 7, 40)]
    # Its scores hardly differ, so that in units of their deviation the last bits of a convolution show.
    assert_same(results[0], results[2], 1e-4)
    assert_same(results[1], results[2], 1e-4)


def sums_of(diagnoser, model, world):
    """By check and name, the sums of that many processes together."""
    totals = []
    for rank in range(world):
        sums, own = diagnoser.begin(Ranks()), list(ShardSampler(diagnoser.chosen, rank, world))
        with torch.no_grad():
            for first in range(0, len(own), diagnoser.reading.batch_size):
                diagnoser.ask(look_at(diagnoser, model, own[first : first + diagnoser.reading.batch_size]), sums)
        totals.append({name: found for name, found in sums.reduced().items() if not sums.by_rows(name)})
    return {name: torch.stack([found[name] for found in totals]).sum(0) for name in totals[0]}


@settings(max_examples=6, deadline=None)
@given(st.integers(2, 13), st.integers(1, 9))
def test_any_split_over_processes_and_batches_gives_the_same_sums(world, batch_size):
    options = {"checks": EVERYTHING, "outputs": ["lipstick", "makeup"], "batch_size": batch_size}
    diagnoser, model = make_diagnoser(biased(20, without_mouth=[3]), **options), mixed()
    diagnoser.describe(model)
    alone, together = sums_of(diagnoser, model, 1), sums_of(diagnoser, model, world)
    assert alone.keys() == together.keys()
    for label in ("lipstick", "makeup"):
        assert torch.equal(alone[f"answers/table/{label}"], together[f"answers/table/{label}"])
    for name, sums in alone.items():
        torch.testing.assert_close(together[name], sums, rtol=1e-6, atol=1e-6)


def test_order_of_the_images_does_not_matter_where_no_donor_is_drawn():
    checks = ["groups", "occlusion", "exact", "attribution", "relations", "gradient"]
    turned = biased()
    turned.rows = turned.rows[::-1]
    one, other = (everything(probe=probe, checks=checks) for probe in (biased(), turned))
    # The control is drawn by position.
    same = {name: score for name, score in other.scores.items() if name != "e_control"}
    assert_same(replace(one, scores={name: one.scores[name] for name in same}), replace(other, scores=same))


def test_twice_is_the_same_to_the_bit():
    diagnoser = make_diagnoser(biased(), checks=EVERYTHING, outputs=["lipstick", "makeup"])
    model = mixed()
    diagnoser.describe(model)
    one, other = (values(diagnoser(model)) for _ in range(2))
    assert one == pytest.approx(other, abs=0, nan_ok=True)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_images_with_a_bad_logit_are_counted_kept_and_told(tmp_path, value):
    result = ask(Broken(10, value), biased(kind=Cornered), checks=["groups", "occlusion"])
    assert (result.scores["nonfinite"].value, result.scores["nonfinite"].count) == (4, 40)
    save_bias(result, tmp_path)
    assert load_bias(tmp_path).scores["nonfinite"] == result.scores["nonfinite"]
    line = "lipstick: the logits of 4 of 40 images are NaN or infinite; the scores leave them out"
    assert verdict(result, {})[0] == line
    whole = ask(Additive(6, 4), biased(), checks=["groups", "occlusion"])
    assert whole.scores["nonfinite"].value == 0
    assert not any("NaN" in line for line in verdict(whole, {}))


class Unreadable(Remakeable):
    broken = False

    def counterfactuals(self, indices, do):
        if self.broken:
            raise OSError("disk is gone")
        return super().counterfactuals(indices, do)


class Second(Ranks):
    """One of two processes, which notes what it tells the other."""

    def share(self, tensors):
        pass

    def agree(self, error, note=None):
        if error is not None:
            raise ProbeError(f"the probe failed; rank 1: {error}")
        return [note]


def test_error_while_a_check_is_made_is_told_to_the_other_processes():
    probe, model = biased(kind=Unreadable), Additive(6, 4)
    diagnoser = make_diagnoser(probe, checks=["exact"])
    diagnoser.describe(model)
    probe.broken = True
    # As in a process that was sent the probe set: the versions made for the first look are not there.
    diagnoser.asked = replace(diagnoser.asked, remade=Remade(probe))
    with pytest.raises(ProbeError, match="rank 1: disk is gone"):
        diagnoser(model, ranks=Second(1, 2))


class PartlyRemakeable(Remakeable):
    def counterfactuals(self, indices, do):
        if "third" in do:
            raise DatasetError("'third' cannot be set")
        return super().counterfactuals(indices, do)


def test_context_that_cannot_be_set_is_named_in_missing():
    probe = biased(kind=PartlyRemakeable, known=["lipstick", "makeup", "third"])
    question = (*QUESTION[:2], {"makeup": "lids", "third": "lids"})
    result = ask(Additive(6, 4), probe, checks=["exact", "groups"], question=question)
    assert result.missing == {"exact": "no exact_reliance/third: 'third' cannot be set"}
    assert not math.isnan(values(result)["exact_reliance/makeup"])
    assert math.isnan(values(result)["exact_reliance/third"])


def test_bad_logits_of_all_processes_are_added_up():
    diagnoser = make_diagnoser(biased(kind=Cornered), checks=["groups"])
    assert [float(sums_of(diagnoser, Broken(), world)["answers/nonfinite"]) for world in (1, 3)] == [4, 4]


def test_examples_may_be_more_than_a_batch():
    small, large = (ask(Additive(6, 4), biased(), batch_size=n, examples=5).examples for n in (2, 64))
    assert [e.index for e in small] == [e.index for e in large]
    assert len(small) == 5
    for one, other in zip(small, large, strict=True):
        assert [v.caption for v in one.versions] == [v.caption for v in other.versions]
        logits = [[v.logit for v in e.versions] for e in (one, other)]
        assert logits[0] == pytest.approx(logits[1], abs=1e-6)
        assert all((a.image == b.image).all() for a, b in zip(one.versions, other.versions, strict=True))


def test_examples_show_conflicts_first_and_every_label():
    probe = biased()
    rows = [probe.rows[e.index] for e in ask(Additive(6, 4), probe, examples=4).examples]
    assert [(y, c) for _, y, c in rows] == [(0, 1), (1, 0), (0, 1), (1, 0)]
    example = ask(Additive(6, 4), probe, examples=1).examples[0]
    captions = [version.caption for version in example.versions]
    assert captions == ["as it is", "mouth masked", "lids masked", "other mouth", "other lids"]
    # The lids' colour holds without lipstick; another mouth is one with it.
    as_it_is, _, no_lids, other_mouth, _ = (version.logit for version in example.versions)
    assert as_it_is > no_lids
    assert other_mouth > as_it_is


def test_a_mouth_masked_where_there_is_no_lipstick_is_not_judged():
    plain, wearing = ask(Additive(6, 4), biased(), examples=2).examples
    assert (plain.label, wearing.label) == (0, 1)
    assert [version.should_change for version in plain.versions] == [None, None, False, True, False]
    assert [version.should_change for version in wearing.versions] == [None, True, False, True, False]


def test_images_are_evenly_spaced_and_no_more_than_asked():
    diagnoser = make_diagnoser(all_versions(10), max_samples=8)
    assert diagnoser.indices == [0, 5, 10, 15, 20, 25, 30, 35]
    assert make_diagnoser(all_versions(3), max_samples=500).indices == list(range(12))
    model = Additive(6, 4)
    diagnoser.describe(model)
    assert diagnoser(model).scores["accuracy"].count == diagnoser(model).num_images == 8


class Floats(TinyFaces):
    """The same pixels, as floats."""

    def image(self, index):
        return super().image(index) / 255


class Normalised(TinyFaces):
    normalize = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def test_float_images_and_normalisation_are_seen_by_the_network_alone():
    # Fills and pastes happen before the normalisation, so a network that undoes it notices nothing.
    mean, std = (torch.tensor(values)[:, None, None] for values in Normalised.normalize)

    class Undo(Additive):
        def forward(self, x):
            return super().forward(x * std + mean)

    options = {"checks": ["groups", "occlusion", "swap"], "fills": ["mean", "grey"]}
    plain = ask(Additive(6, 4), biased(kind=TinyFaces), **options)
    assert_same(ask(Additive(6, 4), biased(kind=Floats), **options), plain)
    assert_same(ask(Undo(6, 4), biased(kind=Normalised), **options), plain)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_network_and_random_state_are_as_they_were(mode):
    net = small_cnn()
    net[0].eval()
    net(torch.rand(2, 3, 24, 24)).sum().backward()
    before = module_state(net), random_state()
    with mode():
        everything(net, layer="1", outputs=None, examples=2)
    assert (module_state(net), random_state()) == before


def test_told_to_stop_it_gives_nothing():
    diagnoser, model = make_diagnoser(biased()), Additive(6, 4)
    diagnoser.describe(model)
    told = iter([False, True])
    assert diagnoser(model, should_stop=lambda: next(told)) is None
    assert diagnoser(model, should_stop=lambda: False) is not None


def test_result_is_saved_and_read_again(tmp_path):
    result = everything(examples=1)
    json.dumps(result.settings)
    save_bias(result, tmp_path)
    again = load_bias(tmp_path)
    assert_same(again, result)
    assert (again.settings, again.missing, again.contexts) == (result.settings, result.missing, result.contexts)


def test_rendered_faces_with_every_default():
    """Parts by the probe set itself, skin by its labels, layer by ``auto``."""
    faces = RenderedFaces(24, size=32, correlations={"makeup": 0.5})
    result = diagnose(small_cnn(), faces, "lipstick", "mouth", {"makeup": "eyes", "blond": "hair"})
    assert set(result.signal) == {"makeup", "blond"}
    assert set(result.missing) == {"relations"}
    assert result.settings["layer"] == "3"
    assert len(result.examples) == 4
    assert {name for name in result.scores if name.endswith("_skin/blond")} == {"crr_skin/blond"}


# --- Heads -----------------------------------------------------------------------------------------------------------


class Column(Additive):
    def forward(self, x):
        return super().forward(x)[:, None]


HEADS = {
    "(B,)": (Additive(6, 4), {}),
    "(B, 1)": (Column(6, 4), {}),
    "two classes": (Heads(Additive(0, 0, centred=False), Additive(6, 4)), {}),
    "two classes, other way to say it": (Heads(Additive(-3, -2), Additive(3, 2)), {}),
    "one of two attributes": (Heads(Additive(1, 9), Additive(6, 4)), {"outputs": ["makeup", "lipstick"]}),
    "its own name": (Column(6, 4), {"outputs": ["lipstick"]}),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_that_say_the_same_score_the_same(name):
    model, options = HEADS[name]
    checks = ["groups", "occlusion", "swap", "exact", "attribution", "noise", "background"]
    assert_same(ask(model, biased(), checks=checks, **options), ask(Additive(6, 4), biased(), checks=checks))


KINDS = {"question": ("kind", "mouth", {"makeup": "lids"})}


class Kinds(nn.Module):
    """Tells apart the kinds of image, 0, 1, 2 in turn, by the number that a corner shows; of ``count`` classes."""

    def __init__(self, count):
        super().__init__()
        self.layer, self.count = nn.Identity(), count

    def forward(self, x):
        x = self.layer(x)
        kind = (x[:, 1, 0, 0] * 255).round() % 3
        red = x[:, 0, 15:18, 8:16].mean((1, 2))
        return torch.stack([8 * (kind == k) * (0.5 + red) for k in range(self.count)], 1)


class Cornered(TinyFaces):
    def image(self, index):
        image = super().image(index)
        image[1, 0, 0] = index
        return image


@pytest.mark.parametrize("count", [3, 7])
def test_classes_of_the_network_may_be_more_than_those_of_the_probe_set(count):
    probe = biased(kind=Cornered, known=["kind", "makeup"])
    checks = ["groups", "occlusion", "swap", "noise", "background", "gradient"]
    result = ask(Kinds(count), probe, checks=checks, examples=2, **KINDS)
    found = values(result)
    assert found["accuracy"] == found["balanced_accuracy"] == 1
    assert result.scores["balanced_accuracy"].chance == pytest.approx(1 / 3)
    assert result.scores["accuracy"].chance == pytest.approx(14 / 40)
    # Less of the mouth's red, less of the true class, whichever it is.
    assert found["e_region"] != 0
    assert found["e_context/makeup"] == pytest.approx(0, abs=1e-6)
    assert found["crr/makeup"] == pytest.approx(0, abs=1e-5) or math.isnan(found["crr/makeup"])


def test_re_rendering_needs_a_binary_target():
    result = ask(Kinds(3), biased(known=["kind", "makeup"]), checks=["groups", "exact"], **KINDS)
    assert result.missing == {"exact": "'kind' has 3 classes; do() sets 0 or 1"}


# --- Logits that are not finite --------------------------------------------------------------------------------------


class Broken(nn.Module):
    """NaN for the images of one brightness of the corner."""

    def __init__(self, every=10, value=math.nan):
        super().__init__()
        self.net, self.every, self.value = Additive(6, 4), every, value
        self.layer = nn.Identity()

    def forward(self, x):
        x = self.layer(x)
        number = (x[:, 1, 0, 0] * 255).round()
        return torch.where(number % self.every == 3, self.value * torch.ones_like(number), self.net(x))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_image_with_a_bad_logit_is_left_out_and_does_not_spread(value):
    probe = biased(kind=Cornered)
    checks = ["groups", "occlusion", "attribution"]
    broken, whole = (ask(Broken(every, value), probe, checks=checks) for every in (10, 1000))
    assert whole.scores["accuracy"].count == 40 - 1
    for name in ("accuracy", "crr/makeup", "e_region", "worst_group_accuracy/makeup"):
        assert broken.scores[name].count == 36, name
    kept = [index for index in range(40) if index % 10 != 3]
    clean = Cornered([probe.rows[index] for index in kept])
    numbers = {new: old for new, old in enumerate(kept)}
    clean.image = lambda index: probe.image(numbers[index])
    expected = ask(Additive(6, 4), clean, checks=checks)
    for name in ("accuracy", "crr/makeup", "e_region", "score_gap/makeup"):
        assert broken.scores[name].value == pytest.approx(expected.scores[name].value, abs=1e-6), name


def test_every_logit_bad_is_no_signal_and_no_error(tmp_path):
    dead = everything(Dead(), examples=2)
    assert dead.signal == {"makeup": False}
    assert dead.scores["accuracy"].count == 0
    assert math.isnan(dead.scores["accuracy"].value)
    save_bias(dead, tmp_path)
    assert verdict(dead, {})[:2] == [
        "lipstick: the logits of 40 of 40 images are NaN or infinite; the scores leave them out",
        "lipstick: no signal: no two values of lipstick are left to tell apart",
    ]


class Dead(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x):
        return self.layer(x).mean((2, 3))[:, :2] * math.nan


class Saturated(Additive):
    """Infinite activations, of bright colours, and finite logits."""

    def forward(self, x):
        x = self.layer(x.masked_fill(x > 0.7, math.inf))
        return (x.clamp(max=1) * self.head).sum((1, 2, 3)) + self.bias


def test_activations_that_are_not_finite_leave_the_logits_alone():
    result = ask(Saturated(8, 0), biased(20), checks=EVERYTHING)
    assert result.scores["accuracy"].value == 1
    assert result.scores["mass"].count < 20
    assert not math.isnan(values(result)["crr/makeup"])
    assert math.isnan(values(result)["slice_error"])


# --- What is missing, what does not fit ------------------------------------------------------------------------------


def test_without_context_labels_the_rest_runs_and_missing_says_why():
    result = ask(Additive(6, 4), biased(kind=TinyFaces, known=["lipstick"]))
    assert set(result.missing) == {"groups", "exact", "relations"}
    assert result.missing["groups"] == "no labels of makeup in the probe set: no groups by it"
    assert "counterfactuals(indices, do)" in result.missing["exact"]
    assert not math.isnan(values(result)["crr/makeup"] + values(result)["scr/makeup"] + values(result)["mass"])
    assert math.isnan(values(result)["worst_group_accuracy/makeup"])


def test_a_context_that_is_no_output_has_no_relation():
    model = Heads(Additive(6, 4), Additive(0, 6))
    result = ask(model, biased(), outputs=["lipstick", "third"], checks=["relations"])
    assert result.missing == {"relations": "no output of the network is named makeup"}
    assert math.isnan(values(result)["relation/makeup"])


class Squeezed(Additive):
    def forward(self, x):
        return super().forward(x).squeeze()


class Worded(TinyFaces):
    def facts(self, index):
        return {"attributes": {"lipstick": torch.tensor([0, 1]), "makeup": 0}}


def test_one_image_has_one_row_of_logits():
    with pytest.raises(DatasetError, match=r"1 images give \(\), not one row of logits each"):
        ask(Squeezed(6, 4), biased(), batch_size=1)


def test_labels_are_one_number_each():
    with pytest.raises(DatasetError, match=r"attribute 'lipstick' of image 0 is tensor\(\[0, 1\]\); labels are whole"):
        make_diagnoser(Worded([(0, 0, 0), (1, 1, 1)]))


def test_one_value_among_the_images_that_are_probed():
    rows = [(face, face % 2, face % 2) for face in range(16)]
    with pytest.raises(DatasetError, match="'lipstick' has one value in the 8 images probed"):
        make_diagnoser(TinyFaces(rows), max_samples=8)


class TwoChannels(TinyFaces):
    def image(self, index):
        return super().image(index)[[0, 2]]


class OfTwo(Additive):
    def forward(self, x):
        return super().forward(torch.stack([x[:, 0], x[:, 0], x[:, 1]], 1))


def test_images_of_two_channels_have_pictures():
    result = ask(OfTwo(6, 4), biased(kind=TwoChannels), examples=1)
    assert result.examples[0].versions[0].image.shape == (24, 24, 3)


def test_checks_without_a_ratio_say_nothing_of_signal():
    result = ask(Additive(6, 4), biased(), checks=["groups"])
    assert result.signal == {}
    assert not any("no signal" in line for line in verdict(result, {}))


class Flat(nn.Module):
    """A network without maps."""

    def __init__(self):
        super().__init__()
        self.flatten, self.net = nn.Flatten(), Additive(6, 4)

    def forward(self, x):
        return self.net.forward(self.flatten(x).view(x.shape))


def test_network_without_maps_answers_what_needs_none():
    flat, checks = Flat(), ["groups", "occlusion", "swap", "exact", "gradient"]
    flat.net.layer = nn.Flatten(0)
    flat.net.forward = lambda x: (x * flat.net.head).sum((1, 2, 3)) + flat.net.bias
    options = {"checks": checks, "examples": 2}
    result = ask(flat, biased(), layer="auto", **options)
    assert_same(result, ask(Additive(6, 4), biased(), **options))
    assert [example.heat for example in result.examples] == [None, None]
    assert result.settings["layer"] is None
    with pytest.raises(LayerError, match="'auto' found no layer"):
        ask(flat, biased(), layer="auto", checks=["attribution"])


BAD = {
    "target": ({"question": ("lipstik", *QUESTION[1:])}, "unknown attribute 'lipstik'; did you mean 'lipstick'"),
    "context": ({"question": (*QUESTION[:2], {"makeupp": "lids"})}, "attribute 'makeupp'; did you mean 'makeup'"),
    "region": ({"question": ("lipstick", "mout", {"makeup": "lids"})}, "unknown region 'mout'; did you mean 'mouth'"),
    "context's region": ({"question": (*QUESTION[:2], {"makeup": "hair"})}, "unknown region 'hair'"),
    "region twice": ({"question": (*QUESTION[:2], {"makeup": "mouth"})}, "'mouth' is also a context's"),
    "check": ({"checks": ["oclusion"]}, "unknown check 'oclusion'; did you mean 'occlusion'"),
    "fill": ({"fills": ["gray"]}, "unknown fill 'gray'; did you mean 'grey'"),
    "contexts in a list": ({"question": (*QUESTION[:2], ["makeup"])}, r"\['makeup'\]; .*: {attribute: region}"),
    "context alone": ({"question": (*QUESTION[:2], "makeup")}, r"'makeup'; .* context: {attribute: region}"),
    "region in a list": ({"question": ("lipstick", ["mouth"], QUESTION[2])}, r"region \['mouth'\] is a list; give one"),
    "context's regions": ({"question": (*QUESTION[:2], {"makeup": ["lids"]})}, r"region \['lids'\] is a list"),
    "target in a list": ({"question": (["lipstick"], *QUESTION[1:])}, r"attribute \['lipstick'\] is a list"),
    "target as context": ({"question": (*QUESTION[:2], {"lipstick": "lids"})}, "'lipstick' is the target and a"),
    "output twice": ({"outputs": ["lipstick", "makeup", "makeup"]}, "names an output twice"),
    "fill alone": ({"fills": "mean"}, r"fills must be a list of names; write fills=\['mean'\]"),
    "check alone": ({"checks": "swap"}, r"write checks=\['swap'\]"),
    "output alone": ({"outputs": "lipstick"}, r"write outputs=\['lipstick'\]"),
    "no context": ({"question": (*QUESTION[:2], {})}, "at least one context"),
    "reserved context": ({"question": (*QUESTION[:2], {"region": "lids"})}, "may not be named 'region'"),
    "mask": ({"regions": lambda item: {"mouth": find(item)["mouth"][1:], "lids": find(item)["lids"]}}, "bool tensor"),
    "empty region": ({"regions": lambda item: find(item) | {"lids": ~find(item)["lids"] & False}}, "no pixel in any"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_question_is_named_at_once(name):
    options, text = BAD[name]
    with pytest.raises(DatasetError, match=text):
        make_diagnoser(biased(), **options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"fills": []}, "at least one fill"),
        ({"max_samples": 0}, "max_samples must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"examples": -1}, "examples must be at least 0, got -1"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
        ({"byte_budget": -1}, "byte_budget must be at least 0, got -1"),
        ({"on_bad_image": "keep"}, "on_bad_image must be 'raise' or 'skip', got 'keep'"),
        ({"loader_timeout": 0}, "loader_timeout must be positive, got 0"),
    ],
)
def test_bad_number_is_named_at_once(options, text):
    with pytest.raises(ValueError, match=text):
        make_diagnoser(biased(), **options)


class Labelled(TinyFaces):
    """Says of the attributes what it is told."""

    def __init__(self, facts):
        super().__init__([(face, face % 2, face % 2) for face in range(8)])
        self.given = facts

    def facts(self, index):
        return super().facts(index) | {"attributes": super().facts(index)["attributes"] | self.given(index)}


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        (lambda i: {"lipstick": 1}, "'lipstick' has one value in the whole probe set"),
        (lambda i: {"makeup": i % 3}, "'makeup' has label 2; contexts and named outputs are binary"),
        (lambda i: {"other": i}, "'other' has label 7; contexts and named outputs are binary"),
        (lambda i: {"lipstick": -1 if i == 3 else i % 2}, "'lipstick' of image 3 is -1; labels are whole numbers"),
        (lambda i: {"makeup": 0.5}, "'makeup' of image 0 is 0.5"),
        (lambda i: {"makeup": math.nan}, "'makeup' of image 0 is nan"),
        (lambda i: {"makeup": "yes"}, "'makeup' of image 0 is 'yes'"),
        (lambda i: {"makeup": None}, "'makeup' of image 0 is None"),
    ],
)
def test_bad_label_is_named_at_once(facts, text):
    with pytest.raises(DatasetError, match=text):
        make_diagnoser(Labelled(facts), outputs=["lipstick", "makeup", "other"])


def test_probe_without_attributes_or_images_is_refused():
    with pytest.raises(DatasetError, match="'lipstick': Remakeable tells no attributes; give it a method `facts`"):
        make_diagnoser(biased(known=[]))
    with pytest.raises(DatasetError, match="the probe set is empty"):
        make_diagnoser(TinyFaces([]))
    with pytest.raises(DatasetError, match="must be a ProbeSet"):
        make_diagnoser([1, 2])


class Transposed(TinyFaces):
    """Planes of 24 x 16 where they should be 16 x 24, of all images or of the last alone."""

    mask_size = (16, 24)

    def __init__(self, bad):
        super().__init__(biased().rows)
        self.bad = bad

    def labels(self, index):
        plane = super().labels(index).planes["part"][4:20]
        return Labels({"part": plane.T if index in self.bad else plane})


@pytest.mark.parametrize("bad", [range(40), [39]], ids=["all", "the last"])
def test_planes_of_another_size_are_refused_at_once(bad):
    text = rf"image {bad[0]} of Transposed: label plane 'part' has shape \(24, 16\), expected \(h, w\) = \(16, 24\)"
    with pytest.raises(DatasetError, match=text):
        make_diagnoser(Transposed(bad), regions=None)
    assert make_diagnoser(Transposed([]), regions=None).bank.shown["mouth"].all()


class Gives(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.layer, self.make = nn.Identity(), make

    def forward(self, x):
        return self.make(self.layer(x))


@pytest.mark.parametrize(
    ("make", "options", "text"),
    [
        (lambda x: (x.mean((1, 2, 3)), x), {}, "gives a tuple; expected a tensor of logits"),
        (lambda x: x, {}, r"expected logits \(B,\) or \(B, K\)"),
        (lambda x: x.mean((2, 3)), {}, "gives 3 logits an image; say what they are: outputs="),
        (lambda x: x.mean((2, 3)), {"outputs": ["lipstick", "makeup"]}, "outputs= names 2 columns"),
        (lambda x: x.mean((2, 3)), {"outputs": ["a", "b", "c"]}, "outputs= does not name 'lipstick'"),
        (lambda x: x.mean((2, 3))[:, :2], KINDS, "'kind' has labels up to 2, .* 3 classes; the network tells 2 apart"),
        (lambda x: x.mean((1, 2, 3)), KINDS, "'kind' has labels up to 2, .* 3 classes; the network tells 2 apart"),
    ],
)
def test_output_that_does_not_fit_is_named_before_the_first_epoch(make, options, text):
    known = ["lipstick", "makeup", "kind"]
    diagnoser = make_diagnoser(biased(known=known), checks=["groups"], **options)
    with pytest.raises(DatasetError, match=text):
        diagnoser.describe(Gives(make))


@pytest.mark.parametrize("layer", ["layr", "layer.0"])
def test_unknown_layer_is_named(layer):
    with pytest.raises(LayerError, match="layer"):
        ask(Additive(6, 4), biased(), layer=layer)


def test_glob_that_stands_for_several_layers_is_refused():
    net = nn.Sequential(nn.Sequential(*small_cnn()))
    # Only some of them give maps.
    with pytest.raises(LayerError, match=r"'0\.\*' stands for \d layers; name one of 0\.0, 0\.1, "):
        ask(net, biased(), layer="0.*", checks=["attribution"])
    assert ask(net, biased(), layer="*.1", checks=["attribution"]).settings["layer"] == "0.1"


def test_network_without_a_truth_value_is_asked_all_the_same():
    """As a compiled network that is no container, whose ``len`` is that of what it wraps."""

    class Compiled(Additive):
        def __len__(self):
            raise TypeError("object of type 'Additive' has no len()")

    options = {"layer": "auto", "checks": ["occlusion", "attribution"], "examples": 1}
    assert_same(ask(Compiled(6, 4), biased(), **options), ask(Additive(6, 4), biased(), **options))
    assert_same(
        ask(torch.compile(Additive(6, 4), backend="eager"), biased(), **options),
        ask(Additive(6, 4), biased(), **options),
    )


def test_diagnoser_can_go_on_to_another_network():
    diagnoser = make_diagnoser(biased(kind=Cornered, known=["kind", "makeup"]), checks=["groups"], **KINDS)
    for count in (7, 3, 5):
        diagnoser.describe(Kinds(count))
        assert diagnoser(Kinds(count)).scores["balanced_accuracy"].value == 1


def test_options_are_described_where_they_are_at_home():
    assert {"regions", "layer", "fills", "batch_size"} <= set(OPTIONS)
    with pytest.raises(TypeError):
        Diagnoser(biased(), *QUESTION, nonsense=1)


# --- Regions from masks of things ------------------------------------------------------------------------------------


def test_birds_with_masks_are_diagnosed_by_foreground_and_background(tmp_path):
    """A Waterbirds-like folder: a bird of another brightness by label, on land or water of another hue."""
    rng, rows = np.random.default_rng(0), ["img_id,img_filename,y,split,place,place_filename"]
    (tmp_path / "masks").mkdir()
    bird = np.zeros((24, 32), np.uint8)
    bird[6:16, 8:24] = 255
    for number in range(24):
        y, place = number % 2, int(number % 8 > 3)
        photo = rng.integers(90, 130, (24, 32, 3)).astype(np.uint8)
        photo[..., 2] += 80 * np.uint8(place)
        photo[bird > 0] = 60 + 120 * y
        Image.fromarray(photo).save(tmp_path / f"{number}.png")
        Image.fromarray(bird).save(tmp_path / "masks" / f"{number}.png")
        rows.append(f"{number},{number}.png,{y},0,{place},x")
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    probe = GroupCSV(tmp_path, masks="masks", size=(24, 32), mask_size=(24, 32), normalize=None)
    net, question = Brightness(), ("y", "foreground", {"place": "background"})
    checks = ["groups", "occlusion", "swap", "attribution", "noise", "background"]
    result = diagnose(net, probe, *question, checks=checks, layer="layer", fills=["grey", "skin"])
    assert values(result)["accuracy"] == values(result)["follow"] == 1
    assert values(result)["crr/place"] < 0.05
    assert result.missing == {}
    assert len(result.examples) == 4


class Brightness(nn.Module):
    """Whether the middle of the image is bright."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x):
        return 20 * (self.layer(x)[:, :, 8:14, 10:22].mean((1, 2, 3)) - 0.47)
