import math

import pytest

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


def test_two_classes_and_named_outputs_say_the_same_as_one_output():
    one = values(ask(Additive(6, 4), biased(), checks=CHECKS))
    two = Heads(Additive(0, 0, centred=False), Additive(6, 4))
    assert values(ask(two, biased(), checks=CHECKS)) == pytest.approx(one, abs=1e-6, nan_ok=True)
    named = {"outputs": ["makeup", "lipstick"]}
    assert values(ask(two, biased(), checks=CHECKS, **named)) == pytest.approx(one, abs=1e-6, nan_ok=True)


def test_contributions_of_a_head_without_bias_sum_to_the_score():
    diagnoser, model = make_diagnoser(all_versions(), checks=CHECKS, examples=6), Additive(6, 4, centred=False)
    diagnoser.describe(model)
    for example in diagnoser(model).examples:
        assert float(example.heat.sum()) == pytest.approx(example.versions[0].logit, abs=1e-5)
        assert example.heat.shape == (SIZE, SIZE)
