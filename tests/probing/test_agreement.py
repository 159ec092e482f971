"""Sums of counts: any split of the images gives the same integers."""

import copy
import itertools
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_interp.functional.regions import concept_lookup, encode_regions, stack_regions
from lightning_interp.probing.agreement import ConceptAgreement, ConceptArea
from lightning_interp.probing.values import computed

IMAGES, UNITS, CONCEPTS, GROUPS = 6, 3, 4, 2


def planes(image):
    generator = torch.Generator().manual_seed(image)
    return {name: torch.randint(0, CONCEPTS + 1, (3, 3), generator=generator) for name in ("a", "b")}


REGIONS = [encode_regions(planes(i), {}, concept_lookup(range(1, CONCEPTS + 1)), (3, 3)) for i in range(IMAGES)]
ACTIVE = torch.rand(IMAGES, UNITS, 9, generator=torch.Generator().manual_seed(9)) > 0.6
MEMBERS = torch.rand(IMAGES, GROUPS, generator=torch.Generator().manual_seed(8)) > 0.4


def metric_of(images):
    metric = ConceptAgreement(UNITS, CONCEPTS, GROUPS)
    if images:
        add(metric, images)
    return metric


def add(metric, images):
    row, unit, pixel = ACTIVE[images].nonzero(as_tuple=True)
    metric.update(row, unit, pixel, stack_regions([REGIONS[i] for i in images]), MEMBERS[images])


def test_equals_a_loop():
    intersection, area = metric_of(list(range(IMAGES))).compute()
    for unit in range(UNITS):
        for concept in range(CONCEPTS):
            shown = [
                torch.stack([p == concept + 1 for p in planes(i).values()]).any(0).flatten() for i in range(IMAGES)
            ]
            expected = sum(int((ACTIVE[i, unit] & shown[i]).sum()) for i in range(IMAGES))
            assert intersection[unit, concept] == expected
        for group in range(GROUPS):
            assert area[unit, group] == sum(int(ACTIVE[i, unit].sum()) for i in range(IMAGES) if MEMBERS[i, group])


@given(order=st.permutations(range(IMAGES)), cuts=st.sets(st.integers(1, IMAGES - 1)))
@settings(max_examples=20, deadline=None)
def test_any_split_gives_the_same_sums(order, cuts):
    metric = metric_of([])
    edges = [0, *sorted(cuts), IMAGES]
    for start, end in itertools.pairwise(edges):
        add(metric, order[start:end])
    whole = metric_of(list(range(IMAGES)))
    assert torch.equal(metric.intersection, whole.intersection)
    assert torch.equal(metric.unit_area, whole.unit_area)


def test_states_are_integers():
    for metric in (ConceptAgreement(2, 3, 4), ConceptArea(3, 4)):
        states = [getattr(metric, name) for name in metric.metric_state]
        assert [s.dtype for s in states] == [torch.int64] * 2


def test_sums_past_what_floats_hold():
    area = ConceptArea(1, 1)
    for _ in range(2):
        area.update(torch.tensor([2**53 + 1]), torch.tensor([1]))
    assert computed(area, (1,), (1,))[0].tolist() == [2**54 + 2]


def test_reset_and_pickle():
    metric = metric_of([0, 1])
    again = pickle.loads(pickle.dumps(copy.deepcopy(metric)))
    assert torch.equal(again.compute()[0], metric.compute()[0])
    metric.reset()
    assert not metric.intersection.any()
    assert not metric.unit_area.any()


@pytest.mark.parametrize("units", [1, 2])
def test_computed_keeps_shapes_and_an_idle_metric_is_silent(units):
    intersection, area = computed(ConceptAgreement(units, 1, 1), (units, 1), (units, 1))
    assert intersection.shape == area.shape == (units, 1)
