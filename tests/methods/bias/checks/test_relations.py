import math

import pytest
import torch

from lightning_interp.errors import DatasetError
from tests.helpers.bias import Additive, Heads, all_versions, ask, biased, make_diagnoser, values

CHECKS = ["relations"]
NAMED = {"outputs": ["lipstick", "makeup", "third"]}


def network(shared):
    """Lipstick by the mouth and, by so much, the lids; make-up by the lids; the third by the lids, backwards."""
    return Heads(Additive(8, shared), Additive(0, 8), Additive(0, -8))


def test_unrelated_heads_have_cosine_zero_and_equal_ones_one():
    result = ask(network(0), biased(), checks=CHECKS, **NAMED)
    cosines = result.relations.mean
    expected = [[1, 0, 0], [0, 1, -1], [0, -1, 1]]
    assert torch.allclose(torch.from_numpy(cosines), torch.tensor(expected).double(), atol=1e-6)
    assert values(result)["relation/makeup"] == pytest.approx(0, abs=1e-6)
    same = ask(Heads(Additive(0, 8), Additive(0, 3)), biased(), checks=CHECKS, outputs=["lipstick", "makeup"])
    assert values(same)["relation/makeup"] == pytest.approx(1, abs=1e-6)


def test_cosine_of_a_mixed_head_is_that_of_its_contributions():
    probe = biased(jitter=False)
    result = ask(network(6), probe, checks=CHECKS, **NAMED)
    cosines = []
    for _, y, c in probe.rows:
        red, blue = (190 if y else 60), (200 if c else 40)
        mouth, lids = 8 * red / 24, 6 * blue / 32
        cosines.append(lids * math.sqrt(32) / math.sqrt(32 * lids**2 + 24 * mouth**2))
    assert values(result)["relation/makeup"] == pytest.approx(sum(cosines) / len(cosines), abs=1e-6)
    assert result.scores["relation/makeup"].count == len(probe)


def test_planted_relation_is_a_failure_mode_and_its_absence_none():
    planted, clean = (ask(network(shared), biased(), checks=CHECKS, **NAMED) for shared in (8, 0))
    pairs = {(f.kind, f.first, f.second) for f in planted.relations.findings}
    assert ("failure mode", "lipstick", "makeup") in pairs
    assert {(f.kind, f.first, f.second) for f in clean.relations.findings} == {("failure mode", "makeup", "third")}
    assert values(planted)["failure_modes"] == 3
    assert values(clean)["failure_modes"] == 1


@pytest.mark.parametrize("pair", [("makeup", "third"), ("third", "makeup")])
def test_what_is_expected_is_no_failure_and_its_absence_a_blind_spot(pair):
    expected = {pair: -1, ("lipstick", "makeup"): 1}
    result = ask(network(0), biased(), checks=CHECKS, expected=expected, **NAMED)
    findings = [(f.kind, f.first, f.second, f.expected) for f in result.relations.findings]
    assert findings == [("blind spot", "lipstick", "makeup", 1)]
    assert result.relations.expected.tolist() == [[0, 1, 0], [1, 0, -1], [0, -1, 0]]
    assert values(result)["blind_spots"] == 1


def test_phi_of_labels_and_predictions():
    known = ("lipstick", "makeup", "third")
    result = ask(network(0), biased(known=known), checks=CHECKS, **NAMED)
    assert result.relations.labels[0, 1] == pytest.approx(0.8)
    assert result.relations.predictions[0, 1] == pytest.approx(0.8)
    assert result.relations.predictions[1, 2] == pytest.approx(-1)


def test_answers_are_held_against_labels_pair_by_pair():
    """Of 40 faces 4 conflict; the network takes make-up for lipstick in all."""
    result = ask(Heads(Additive(0, 8), Additive(0, 8)), biased(), checks=CHECKS, outputs=["lipstick", "makeup"])
    assert values(result)["phi_excess/makeup"] == pytest.approx(1 - 0.8)
    truth, answers = ([(n + 0.5) / 42 for n in table] for table in ((18, 2, 2, 18), (20, 0, 0, 20)))
    expected = sum(t * math.log(t / a) for t, a in zip(truth, answers, strict=True))
    assert values(result)["table_kl/makeup"] == pytest.approx(expected)
    assert result.scores["phi_excess/makeup"].count == result.scores["table_kl/makeup"].count == 40
    shares = [18 / 40, 2 / 40]
    assert result.relations.entropy[0, 1] == pytest.approx(-2 * sum(s * math.log(s) for s in shares))
    right = values(ask(network(0), biased(), checks=CHECKS, **NAMED))
    assert right["phi_excess/makeup"] == right["table_kl/makeup"] == 0


def test_named_unrelated_pairs_set_the_reference():
    """Every pair's cosine is about 0.9 in this network: no failure, once it is known of a pair that is unrelated."""
    heads = Heads(Additive(8, 24), Additive(1, 24), Additive(2, 24))
    by_default = ask(heads, biased(), checks=CHECKS, **NAMED)
    assert values(by_default)["failure_modes"] == 3
    known = ask(heads, biased(), checks=CHECKS, expected={("third", "makeup"): 0}, **NAMED)
    assert by_default.relations.mean[1, 2] > 0.9
    # The reference is that pair's own Gaussian.
    assert known.relations.kl[1, 2] == pytest.approx(0, abs=1e-9)
    assert known.relations.kl[0, 1] > 0
    found = {(f.first, f.second) for f in known.relations.findings}
    assert ("makeup", "third") not in found


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ({("Lipstick", "makeup"): 1}, "unknown output in expected= 'Lipstick'; did you mean 'lipstick'"),
        ({("makeup", "thrid"): 0}, "unknown output in expected= 'thrid'; did you mean 'third'"),
        ({("lipstick", "makeup"): 2}, "is 2; give"),
        ({("lipstick", "makeup"): 0.5}, "is 0.5; give"),
        ({("lipstick", "lipstick"): 1}, "'lipstick'.* is 1; give"),
        ({("lipstick", "makeup", "third"): 1}, "is 1; give two different outputs and one of 1, 0, -1"),
        ({"lipstick": 1}, "is 1; give"),
        ({("lipstick", "makeup"): 1, ("makeup", "lipstick"): 0}, "makeup and lipstick twice"),
    ],
)
def test_expected_relations_that_do_not_fit_are_named_at_once(expected, text):
    with pytest.raises(DatasetError, match=text):
        make_diagnoser(biased(), checks=CHECKS, expected=expected, **NAMED)


def test_unlabelled_output_has_no_phi_but_a_cosine():
    result = ask(network(0), biased(), checks=CHECKS, outputs=["lipstick", "makeup", "beard"])
    assert math.isnan(result.relations.labels[0, 2])
    assert result.relations.mean[1, 2] == pytest.approx(-1)


def test_network_at_chance_has_no_relations_to_speak_of():
    # Its answer is always the same.
    blind = Heads(Additive(8, 0, centred=False), Additive(0, 3))
    result = ask(blind, all_versions(), checks=CHECKS, outputs=["lipstick", "makeup"])
    assert all(math.isnan(values(result)[name]) for name in ("relation/makeup", "relation_kl/makeup", "failure_modes"))


def test_one_output_has_no_relations_and_says_so():
    result = ask(Additive(8, 0), biased())
    assert result.relations is None
    assert result.missing == {"relations": "it compares attributes: name the network's outputs with outputs=[...]"}
    assert "relation/makeup" not in result.scores


def test_context_that_is_no_output_has_no_relation():
    question = ("lipstick", "mouth", {"blond": "lids"})
    found = values(ask(network(0), biased(), checks=CHECKS, question=question, **NAMED))
    assert math.isnan(found["relation/blond"])
    assert found["failure_modes"] == 1


def test_network_that_has_learnt_nothing_has_no_findings():
    # It always says yes; its evidence is shared all the same.
    constant = Heads(Additive(8, 8, centred=False), Additive(0, 8), Additive(0, -8))
    result = ask(constant, biased(), checks=CHECKS, **NAMED)
    assert result.relations.mean[0, 1] > 0.5
    assert not result.relations.findings
    assert math.isnan(values(result)["failure_modes"])
