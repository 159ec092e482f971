import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_interp.errors import DatasetError, LayerError, MissingExtraError
from lightning_interp.probing.evidence.attribution import ATTRIBUTIONS
from tests.helpers.absent import hide
from tests.helpers.bias import (
    LID,
    LIDS,
    LIPS,
    LIPSTICK,
    MAKEUP,
    MOUTH,
    SIZE,
    Additive,
    Heads,
    TinyFaces,
    all_versions,
    ask,
    biased,
    make_diagnoser,
    values,
)

CHECKS = ["attribution"]


@pytest.mark.parametrize(("region", "context"), [(6.0, 4.0), (9.0, 1.0), (2.0, 8.0)])
def test_mass_is_each_parts_share_of_the_evidence(region, context):
    result = ask(Additive(region, context), all_versions(jitter=False), checks=CHECKS)
    # Both parts speak for lipstick; of those without, nothing does against, and such a map says nothing.
    shares = [region * LIPSTICK / (region * LIPSTICK + context * blue) for blue in (LID, MAKEUP)]
    found = values(result)
    assert found["mass"] == pytest.approx(sum(shares) / 2, abs=1e-5)
    assert found["mass/makeup"] == pytest.approx(1 - found["mass"], abs=1e-5)
    assert result.scores["mass"].count == 24
    assert result.scores["mass"].chance == pytest.approx(int(MOUTH.sum()) / SIZE**2)
    assert result.scores["mass/makeup"].chance == pytest.approx(int(LIDS.sum()) / SIZE**2)
    assert found["enrichment"] == pytest.approx(found["mass"] * SIZE**2 / int(MOUTH.sum()), rel=1e-5)


def test_evidence_against_is_evidence_for_the_truth_where_that_is_no():
    result = ask(Additive(-6, 0), all_versions(), checks=CHECKS)
    # The sign is wrong, so that the mouth speaks for the truth only where there is no lipstick.
    assert result.scores["mass"].count == 24
    assert values(result)["mass"] == pytest.approx(1)


def test_pointing_follows_the_strongest_pixel():
    # By pixel 6 * 190 / 24 and 4 * 200 / 32; then 2 * 190 / 24 and 8 * 200 / 32, or 8 * 40 / 32 without make-up.
    assert values(ask(Additive(6, 4), all_versions(jitter=False), checks=CHECKS))["pointing"] == 1
    assert values(ask(Additive(2, 8), all_versions(jitter=False), checks=CHECKS))["pointing"] == 0.5
    assert LID * 8 / 32 < 190 * 2 / 24
    assert LIPS < LIPSTICK


def test_rank_and_overlap_of_evidence_spread_evenly_over_the_region():
    found = values(ask(Additive(6, 0), all_versions(), checks=CHECKS))
    assert (found["rank"], found["attention_iou"]) == pytest.approx((1, 1))
    assert found["attention_iou/makeup"] == 0


def test_silent_maps_are_left_out():
    result = ask(Additive(0, 0), all_versions(), checks=CHECKS)
    assert math.isnan(values(result)["mass"])
    assert result.scores["mass"].count == 0


class HalfKnown(TinyFaces):
    """The target is told of the first eight images only."""

    def facts(self, index):
        return super().facts(index) if index < 8 else {"attributes": {"makeup": 1}}


@pytest.mark.parametrize("model", [Additive(6, -4), Heads(Additive(6, -4), Additive(-4, 6), Additive(1, 1))])
def test_image_whose_target_is_unknown_is_left_out(model):
    question = ("kind" if isinstance(model, Heads) else "lipstick", "mouth", {"makeup": "lids"})
    options = {"known": ("lipstick", "makeup", "kind"), "jitter": False}
    some = ask(model, biased(40, kind=HalfKnown, **options), checks=CHECKS, question=question)
    alone = ask(model, TinyFaces(biased(40).rows[:8], **options), checks=CHECKS, question=question)
    assert some.scores["mass"].count == alone.scores["mass"].count > 0
    assert some.scores["context_share"].count == 8
    assert values(some) == pytest.approx(values(alone) | {"accuracy": some.scores["accuracy"].value}, nan_ok=True)


def test_two_classes_and_named_outputs_say_the_same_as_one_output():
    one = values(ask(Additive(6, 4), biased(), checks=CHECKS))
    two = Heads(Additive(0, 0, centred=False), Additive(6, 4))
    assert values(ask(two, biased(), checks=CHECKS)) == pytest.approx(one, abs=1e-6, nan_ok=True)
    named = {"outputs": ["makeup", "lipstick"]}
    assert values(ask(two, biased(), checks=CHECKS, **named)) == pytest.approx(one, abs=1e-6, nan_ok=True)


def test_inference_patterns_of_a_head_without_bias_sum_to_nine_tenths_of_the_score():
    """All contributions would be the score; those of the fewest units that hold nine tenths are just above that."""
    diagnoser, model = make_diagnoser(all_versions(), checks=CHECKS, examples=6), Additive(6, 4, centred=False)
    diagnoser.describe(model)
    for example in diagnoser(model).examples:
        assert 0.9 <= example.heat.sum() / example.versions[0].logit < 0.97
        assert example.heat.shape == (SIZE, SIZE)


# --- By captum -------------------------------------------------------------------------------------------------------

BY_CAPTUM = [method for method in ATTRIBUTIONS if method != "gradient_x_activation"]


class Detectors(nn.Module):
    """As :class:`Additive`, by maps of the mouth's redness and of the lids' blueness, and by layers alone after them.

    Args:
        heads: By output, w_R and w_Q.
    """

    def __init__(self, *heads):
        super().__init__()
        self.register_buffer("parts", torch.stack([MOUTH, LIDS]))
        self.layer, self.pool = nn.Identity(), nn.AdaptiveAvgPool2d(1)
        self.flatten, self.head = nn.Flatten(), nn.Linear(2, len(heads))
        nets = [Additive(*head) for head in heads]
        self.head.bias.data = torch.stack([net.bias.data for net in nets])
        self.head.weight.data = torch.tensor(heads) * SIZE**2 / self.parts.sum((1, 2))

    def forward(self, x):
        return self.head(self.flatten(self.pool(self.layer(x[:, [0, 2]] * self.parts))))


def by_captum(method, model, probe=None, **options):
    pytest.importorskip("captum")
    return ask(model, probe or all_versions(), checks=CHECKS, attribution=method, **options)


@pytest.mark.parametrize("method", ATTRIBUTIONS)
def test_every_attribution_finds_the_part_that_was_planted(method):
    region, context = (by_captum(method, Detectors(head)) for head in ((8.0, 0.0), (0.0, 8.0)))
    assert [values(region)[name] for name in ("mass", "mass/makeup", "pointing")] == pytest.approx([1, 0, 1])
    assert [values(context)[name] for name in ("mass", "mass/makeup", "pointing")] == pytest.approx([0, 1, 0])
    assert region.settings["attribution"] == method
    assert list(region.scores) == list(ask(Detectors((8.0, 0.0)), all_versions(), checks=CHECKS).scores)


@pytest.mark.parametrize("method", ["grad_cam", "lrp"])
def test_by_detectors_mass_is_each_parts_share_of_the_evidence(method):
    found = values(by_captum(method, Detectors((6.0, 4.0)), all_versions(jitter=False)))
    shares = [6 * LIPSTICK / (6 * LIPSTICK + 4 * blue) for blue in (LID, MAKEUP)]
    assert found["mass"] == pytest.approx(sum(shares) / 2, abs=1e-5)
    assert found["mass/makeup"] == pytest.approx(1 - found["mass"], abs=1e-5)


def test_integrated_gradients_are_of_the_change_from_the_mean_colour():
    probe, masses = all_versions(jitter=False), []
    for index, (_, lipstick, makeup) in enumerate(probe.rows):
        red, blue = (probe.image(index)[channel].float().mean() for channel in (0, 2))
        lips, lid = LIPSTICK if lipstick else LIPS, MAKEUP if makeup else LID
        evidence = torch.stack([6 * (lips - red), 4 * (lid - blue)]) * (1 if lipstick else -1)
        positive = evidence.clamp(min=0)
        masses.append(positive[0] / positive.sum())
    result = by_captum("integrated_gradients", Detectors((6.0, 4.0)), probe)
    assert result.scores["mass"].count == 48
    assert values(result)["mass"] == pytest.approx(float(torch.stack(masses).mean()), abs=1e-4)


class Grey(TinyFaces):
    normalize = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


@pytest.mark.parametrize("method", BY_CAPTUM)
def test_two_classes_named_outputs_and_normalisation_change_nothing(method):
    one = values(by_captum(method, Detectors((6.0, 4.0)), biased()))
    two = by_captum(method, Detectors((-3.0, -2.0), (3.0, 2.0)), biased())
    assert values(two) == pytest.approx(one, abs=1e-5)
    named = by_captum(method, Detectors((1.0, 9.0), (6.0, 4.0)), biased(), outputs=["makeup", "lipstick"])
    assert values(named) == pytest.approx(one, abs=1e-5)
    mean, std = (torch.tensor(part)[:, None, None] for part in Grey.normalize)

    class Undo(Detectors):
        def forward(self, x):
            return super().forward(x * std + mean)

    assert values(by_captum(method, Undo((6.0, 4.0)), biased(kind=Grey))) == pytest.approx(one, abs=1e-5)


@pytest.mark.parametrize("method", BY_CAPTUM)
def test_true_class_of_three_is_what_is_attributed(method):
    """The class of each image by its number modulo three: each by another weight of the two parts."""
    probe = biased(12, known=["kind", "makeup"])
    model = Detectors((6.0, 0.0), (0.0, 6.0), (-6.0, -6.0))
    result = by_captum(method, model, probe, question=("kind", "mouth", {"makeup": "lids"}), examples=12)
    for example in result.examples:
        logits = model(probe.image(example.index)[None] / 255)[0].detach().requires_grad_()
        k = example.label
        (slope,) = torch.autograd.grad(logits[k] - logits[torch.arange(3) != k].logsumexp(0), logits)
        red, blue = (slope @ torch.tensor([[6.0, 0], [0, 6], [-6, -6]])).sign()
        if method != "integrated_gradients":
            # Activations are positive, so that the signs are those of the slopes.
            assert torch.tensor(example.heat)[MOUTH].sum().sign() == red
            assert torch.tensor(example.heat)[LIDS].sum().sign() == blue


@settings(max_examples=4, deadline=None)
@given(st.integers(1, 50), st.sampled_from(BY_CAPTUM))
def test_batch_size_does_not_matter(batch_size, method):
    probe, model = biased(20, without_mouth=[3]), Detectors((6.0, 4.0))
    one, other = (by_captum(method, model, probe, batch_size=size) for size in (16, batch_size))
    assert values(one) == pytest.approx(values(other), abs=1e-5)
    assert one.scores["mass"].count == other.scores["mass"].count


@pytest.mark.parametrize("method", BY_CAPTUM)
def test_pictures_show_the_same_heat(method):
    (example,) = by_captum(method, Detectors((8.0, 0.0)), examples=1).examples
    (other,) = ask(Detectors((8.0, 0.0)), all_versions(), checks=["groups"], examples=1).examples
    inside = example.heat[MOUTH.numpy()]
    assert abs(inside).sum() > 0.99 * abs(example.heat).sum()
    # That one is of the inference patterns alone.
    shown = other.heat != 0
    same = example.heat[shown] == pytest.approx(other.heat[shown], abs=1e-5)
    assert same == (method != "integrated_gradients")


def test_unknown_attribution_is_named():
    with pytest.raises(DatasetError, match="unknown attribution 'gradcam'; did you mean 'grad_cam'"):
        make_diagnoser(biased(), attribution="gradcam")


def test_layers_that_lrp_does_not_know_are_named_before_the_first_epoch():
    diagnoser, model = make_diagnoser(biased(), checks=CHECKS, attribution="lrp"), Detectors((6.0, 4.0))
    model.flatten = nn.Sequential(nn.Flatten(), nn.SiLU())
    with pytest.raises(LayerError, match=r"no rule for 'flatten.1' \(SiLU\) after layer 'layer'"):
        diagnoser.describe(model)
    with pytest.raises(LayerError, match="after layer 'layer' without a layer, such as a sum or a mean"):
        diagnoser.describe(Additive(6, 4))


@pytest.mark.parametrize("method", BY_CAPTUM)
def test_without_captum_the_extra_is_named_at_once(method, monkeypatch):
    hide(monkeypatch, ["captum"])
    with pytest.raises(MissingExtraError, match=r"captum is not installed; run: pip install 'lightning-interp\[attr"):
        make_diagnoser(biased(), attribution=method)
    make_diagnoser(biased())


@pytest.mark.parametrize(("region", "context"), [(6.0, 4.0), (6.0, -4.0), (8.0, 0.0)])
def test_context_share_is_the_evidence_outside_for_and_against(region, context):
    result = ask(Additive(region, context), all_versions(jitter=False), checks=CHECKS)
    pairs = [(region * red, abs(context) * blue) for red in (LIPS, LIPSTICK) for blue in (LID, MAKEUP)]
    expected = sum(outside / (inside + outside) for inside, outside in pairs) / 4
    score = result.scores["context_share"]
    assert score.value == pytest.approx(expected, abs=1e-5)
    assert score.count == 48
    # The mouth of 3 x 8 pixels grows by one on every side.
    assert score.chance == pytest.approx(1 - 5 * 10 / SIZE**2)


def test_context_share_leaves_out_images_without_the_region():
    result = ask(Additive(6, 4), biased(without_mouth=[2, 5]), checks=CHECKS)
    assert result.scores["context_share"].count == 38


def test_picture_shows_the_inference_patterns_alone():
    """The lids hold 4 % of the contributions: not among the fewest units that hold nine tenths."""
    (example,) = ask(Additive(8, 0.3), biased(), examples=1, checks=CHECKS).examples
    assert (example.heat[MOUTH.numpy()] != 0).mean() > 0.8
    assert not example.heat[LIDS.numpy()].any()
    (shared,) = ask(Additive(8, 8), biased(), examples=1, checks=CHECKS).examples
    assert shared.heat[LIDS.numpy()].any()
