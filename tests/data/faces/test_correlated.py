"""Joint distributions of binary attributes with chosen correlations."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_interp.data.faces.correlated import checked_pairs, draw_attributes, joint_table
from lightning_interp.errors import DatasetError

NAMES = ("lipstick", "makeup", "blond", "smile")


def rho(table: np.ndarray, first: str, second: str, names: tuple[str, ...] = NAMES) -> float:
    """The correlation by the definition, cell by cell."""
    i, j = names.index(first), names.index(second)
    signs = (((2 * cell[i] - 1) * (2 * cell[j] - 1), table[cell]) for cell in product((0, 1), repeat=len(names)))
    return float(sum(sign * chance for sign, chance in signs))


def test_a_chain_is_a_markov_chain():
    table = joint_table(NAMES, {("lipstick", "makeup"): 0.8, ("makeup", "blond"): -0.5})
    for a, b, c, d in product((0, 1), repeat=4):
        expected = 0.5 * (0.9 if a == b else 0.1) * (0.25 if b == c else 0.75) * 0.5
        assert table[a, b, c, d] == pytest.approx(expected, abs=1e-15)
    assert rho(table, "lipstick", "blond") == pytest.approx(-0.4, abs=1e-12)


def test_a_cycle_has_all_its_correlations_and_independent_rest():
    wanted = {("lipstick", "makeup"): 0.9, ("lipstick", "blond"): 0.65, ("makeup", "blond"): 0.7}
    table = joint_table(NAMES, wanted)
    assert {pair: rho(table, *pair) for pair in wanted} == pytest.approx(wanted, abs=1e-10)
    assert rho(table, "lipstick", "smile") == pytest.approx(0, abs=1e-12)
    for axis in range(4):
        assert table.sum(axis=tuple({0, 1, 2, 3} - {axis})) == pytest.approx([0.5, 0.5], abs=1e-12)


def test_no_third_order_relation_is_put_in():
    table = joint_table(NAMES[:3], {("lipstick", "makeup"): 0.5, ("lipstick", "blond"): 0.5, ("makeup", "blond"): 0.1})
    logs = np.log(table)
    interaction = sum((-1) ** sum(cell) * logs[cell] for cell in product((0, 1), repeat=3))
    assert interaction == pytest.approx(0, abs=1e-9)


def test_what_only_just_can_be_met_is_met():
    wanted = {("lipstick", "makeup"): 0.95, ("lipstick", "blond"): 0.95, ("makeup", "blond"): 0.9}
    table = joint_table(NAMES, wanted)
    assert {pair: rho(table, *pair) for pair in wanted} == pytest.approx(wanted, abs=1e-3)


def test_the_smallest_contradiction_is_named():
    pairs = {
        ("lipstick", "makeup"): 0.9,
        ("lipstick", "smile"): 0.2,
        ("makeup", "blond"): 0.9,
        ("lipstick", "blond"): -0.9,
    }
    message = "together: lipstick-makeup 0.9, makeup-blond 0.9, lipstick-blond -0.9$"
    with pytest.raises(DatasetError, match=message):
        joint_table(NAMES, pairs)


@pytest.mark.parametrize(("low", "possible"), [(-0.33, True), (-0.34, False), (-1.0, False)])
def test_three_attributes_cannot_all_be_opposite(low, possible):
    pairs = {pair: low for pair in (("lipstick", "makeup"), ("lipstick", "blond"), ("makeup", "blond"))}
    if possible:
        assert rho(joint_table(NAMES, pairs), "makeup", "blond") == pytest.approx(low, abs=1e-3)
    else:
        with pytest.raises(DatasetError, match="makeup-blond"):
            joint_table(NAMES, pairs)


@settings(max_examples=50, deadline=None, database=None)
@given(st.lists(st.floats(-1, 1), min_size=16, max_size=16))
def test_the_correlations_of_any_distribution_can_be_had(weights):
    """Correlations taken from a distribution with marginals 1/2 are never refused."""
    some = np.array(weights).reshape((2,) * 4) + 1.001
    some = some + np.flip(some)
    some /= some.sum()
    pairs = {(a, b): rho(some, a, b) for i, a in enumerate(NAMES) for b in NAMES[i + 1 :]}
    table = joint_table(NAMES, pairs)
    assert {pair: rho(table, *pair) for pair in pairs} == pytest.approx(pairs, abs=1e-3)


def test_draws_have_the_table_s_shares():
    table = joint_table(NAMES, {("lipstick", "makeup"): 0.8, ("makeup", "blond"): -0.5, ("lipstick", "blond"): -0.35})
    num = 40_000
    columns = draw_attributes(table, list(np.random.default_rng(0).random((4, num))))
    for cell in product((0, 1), repeat=4):
        share = np.mean([np.array(column) == value for column, value in zip(columns, cell, strict=True)], axis=0)
        chance = table[cell]
        assert (share == 1).mean() == pytest.approx(chance, abs=4 * (chance * (1 - chance) / num) ** 0.5)


def test_draws_by_hand():
    table = joint_table(NAMES[:2], {("lipstick", "makeup"): 0.5})
    first, second = draw_attributes(table, [np.array([0.1, 0.1, 0.5, 0.9]), np.array([0.74, 0.76, 0.74, 0.76])])
    assert first.tolist() == [1, 1, 0, 0]
    assert second.tolist() == [1, 0, 0, 1]


def test_pairs_are_put_in_order():
    assert checked_pairs(NAMES, {("blond", "makeup"): 1, "smile": 0.5, ("blond", "lipstick"): -0.5}) == {
        ("makeup", "blond"): 1.0,
        ("lipstick", "smile"): 0.5,
        ("lipstick", "blond"): -0.5,
    }


@pytest.mark.parametrize(
    ("correlations", "message"),
    [
        ({"make_up": 0.5}, "did you mean 'makeup'"),
        ({("smile", "moustache"): 0.5}, "there are lipstick, makeup, blond, smile"),
        ({"lipstick": 0.5}, "of two attributes"),
        ({("makeup", "makeup"): 0.5}, r"'makeup', 'makeup'"),
        ({("makeup", "blond", "smile"): 0.5}, r"of two attributes"),
        ({("makeup",): 0.5}, r"of two attributes"),
        ({("makeup", "blond"): 1.01}, r"\[-1, 1\]"),
        ({("makeup", "blond"): float("nan")}, r"\[-1, 1\]"),
        ({"makeup": 0.5, ("makeup", "lipstick"): 0.5}, "already"),
    ],
)
def test_bad_pairs_are_named(correlations, message):
    with pytest.raises(DatasetError, match=message):
        checked_pairs(NAMES, correlations)
