import json

import pytest
import torch

from lightning_interp.data.probe import Concept, Labels, ProbeItem, ProbeSet
from tests.helpers.probes import RandomProbe


def test_items_hold_everything_and_are_the_same_at_every_call():
    probe = RandomProbe(3)
    item = probe[1]
    assert isinstance(item, ProbeItem)
    assert item.index == 1
    assert torch.equal(item.image, probe[1].image)
    assert item.labels.planes.keys() == probe[1].labels.planes.keys()
    assert item.facts == {}


@pytest.mark.parametrize("index", [-1, 3])
def test_indices_out_of_range(index):
    with pytest.raises(IndexError, match=f"index {index} is outside this probe set of 3 images"):
        RandomProbe(3)[index]


def test_iteration_ends():
    assert [item.index for item in RandomProbe(3)] == [0, 1, 2]


def test_categories_in_brodens_order_then_by_name():
    probe = RandomProbe()
    probe.concepts = tuple(
        Concept(n, str(n), c) for n, c in enumerate(["zeta", "color", "alpha", "object", "scene", "object"], start=1)
    )
    assert probe.categories == ("object", "scene", "color", "alpha", "zeta")


def test_fingerprint_follows_what_identifies_the_set():
    one = RandomProbe().fingerprint()
    assert one == RandomProbe().fingerprint()
    assert len(one) == 16
    assert int(one, 16) >= 0
    others = [RandomProbe(36), RandomProbe(mask_size=(12, 13))]
    renamed = RandomProbe()
    renamed.concepts = (*renamed.concepts[:-1], Concept(12, "net", "texture"))
    normalised = RandomProbe()
    normalised.normalize = ((0.5,), (1.0,))
    assert len({one, *(p.fingerprint() for p in (*others, renamed, normalised))}) == 5


def test_description_is_json():
    assert json.loads(json.dumps(RandomProbe(2).describe()))["images"] == 2


def test_labels_default_to_none():
    assert Labels() == Labels({}, {})


def test_the_three_methods_are_required():
    class Incomplete(ProbeSet):
        def __len__(self):
            return 0

    with pytest.raises(TypeError, match="abstract"):
        Incomplete()
