"""Which patterns are strong and which are doubtful, and taking them out and back."""

import dataclasses
import math

import pytest
import torch

from lightning_interp import DatasetError
from lightning_interp.methods.graph.maths.editing import set_pruned
from tests.helpers.graphs import toy_graph
from tests.methods.graph.reference.pruning_order import doubts, share_above

A, B, C = "features.12/0/0", "features.8/3/2", "features.4/5/1"


def names(patterns):
    return [pattern.name for pattern in patterns]


def changed(graph, row, **fields):
    """The graph with fields of the layer in that row replaced."""
    layers = list(graph.layers)
    layers[row] = dataclasses.replace(layers[row], **fields)
    return dataclasses.replace(graph, layers=tuple(layers))


def moved(graph, layer, **fields):
    """The graph with the layer's positions in the images replaced."""
    patterns = dataclasses.replace(graph.learnt_from[layer], **fields)
    learnt_from = dataclasses.replace(graph.learnt_from, layers={**graph.learnt_from.layers, layer: patterns})
    return dataclasses.replace(graph, learnt_from=learnt_from)


@pytest.fixture
def graph():
    return toy_graph()


def test_rank_by_hand(graph):
    graph = changed(graph, 0, score=torch.tensor([0.5, 2.0, 1.0, 2.0], dtype=torch.float64))
    ranked = graph.rank("features.12")
    assert names(ranked) == ["features.12/0/1", "features.12/2/1", "features.12/2/0", "features.12/0/0"]
    assert [(each.layer, each.row, each.score) for each in ranked[:2]] == [("features.12", 1, 2), ("features.12", 3, 2)]
    assert graph.rank("features.12", top=2) == ranked[:2]
    assert graph.rank(top=0) == []
    with pytest.raises(ValueError, match="top must be at least 0, got -1"):
        graph.rank(top=-1)
    assert names(graph.prune(["features.12/0/1"]).rank("features.12")) == names(ranked[1:])


def test_rank_goes_over_all_layers(graph):
    ranked = graph.rank()
    assert len(ranked) == 18
    assert [each.score for each in ranked] == sorted(torch.cat([each.score for each in graph.layers]).tolist())[::-1]
    assert all(graph[each.layer].names()[each.row] == each.name for each in ranked)
    with pytest.raises(DatasetError, match="no layer 'features'"):
        graph.rank("features")


def test_prune_restore_undo(graph):
    one = graph.prune([A, B])
    assert (graph.pruned, one.pruned) == ((), (A, B))
    assert graph.kept("features.12").tolist() == [True] * 4
    assert one.kept("features.12").tolist() == [False, True, True, True]
    two = one.prune([C, B, C])
    assert two.pruned == (A, B, C)
    assert two.undo().pruned == (A, B)
    assert two.undo().undo().pruned == two.undo().undo().undo().pruned == ()
    back = two.restore([B])
    assert back.pruned == (A, C)
    assert back.undo().pruned == (A, B, C)
    assert back.prune([B]).pruned == (A, C, B)
    assert two.restore().pruned == ()
    assert set(two.restore().undo().pruned) == {A, B, C}


def test_the_pruned_patterns_as_a_list_are_one_edit(graph):
    one = graph.prune([A, B])
    other = set_pruned(one, [C, B])
    assert (set(other.pruned), len(other.edits)) == ({B, C}, 2)
    assert other.undo().pruned == (A, B)
    assert set_pruned(other, [B, C, B]) is other
    assert set_pruned(other, []).pruned == ()
    with pytest.raises(DatasetError, match=r"unknown pattern 'features\.8/5/0'"):
        set_pruned(one, ["features.8/5/0"])


def test_edits_that_change_nothing_are_not_undone(graph):
    one = graph.prune([A])
    for same in (one.prune([A]), one.prune([]), one.restore([B]), one.restore([])):
        assert same is one
    assert graph.restore() is graph


@pytest.mark.parametrize("edit", ["prune", "restore"])
def test_unknown_patterns_are_named_with_the_nearest(graph, edit):
    with pytest.raises(DatasetError, match=r"unknown pattern 'features\.8/5/0'; did you mean .*'features\.8/3/0'.*\?"):
        getattr(graph, edit)([B, "features.8/5/0"])
    with pytest.raises(DatasetError, match=r"unknown pattern '7'; names are layer/filter/number, as in 'features\.12"):
        getattr(graph, edit)(["7"])


def test_one_name_need_not_be_in_a_list(graph):
    assert graph.prune(A).pruned == (A,)


def test_numbers_are_those_of_the_slow_reference(graph):
    found = {each.name: each for each in graph.rank_for_pruning()}
    for layer in graph.layers:
        for name, expected in zip(layer.names(), doubts(graph, layer), strict=True):
            each = found[name]
            assert (each.margin, each.travel, each.agreement, each.doubt) == pytest.approx(expected, abs=1e-9)
            assert (each.labelled, math.isnan(each.outside)) == (0, True)
    assert [each.doubt for each in found.values()] == sorted((each.doubt for each in found.values()), reverse=True)


def test_ranks_by_hand():
    values = [3.0, 1.0, math.nan, 3.0, 0.0]
    shares = [share_above(value, values) for value in values]
    assert shares[:2] == [1 / 6, 2 / 3]
    assert math.isnan(shares[2])
    assert shares[3:] == [1 / 6, 1]


def test_a_steady_pattern_comes_first(graph):
    layer, found = graph.layers[2], graph.learnt_from["features.4"]
    for row in range(len(layer)):
        point = found.point.clone()
        point[:, row] = torch.tensor([90.0, 30.0])
        planted = changed(graph, 2, score=torch.ones_like(layer.score))
        planted = moved(planted, "features.4", point=point, expected=point)
        first = next(each for each in planted.rank_for_pruning() if each.layer == "features.4")
        assert (first.name, first.travel) == (layer.names()[row], 0)
        point = found.point.clone()
        point[:, row] *= 3
        wild = moved(planted, "features.4", point=point).rank_for_pruning()
        assert next(each for each in wild if each.name == first.name).doubt < first.doubt


def test_patterns_whose_parents_mislead_come_first(graph):
    steps = torch.tensor([[3.0, 0], [-2, 1], [0, 4], [1, -6], [5, 2], [0, 0]])[:, None]
    home = graph.layers[1].position.round().float()
    graph = changed(graph, 1, score=torch.ones(6, dtype=torch.float64))
    for row, name in enumerate(graph.layers[1].names()):
        expected = home + steps
        expected[:, row] = home[row] - steps[:, 0]
        planted = moved(graph, "features.8", point=home + steps, expected=expected, score=torch.ones(6, 6))
        ranked = [each for each in planted.rank_for_pruning() if each.layer == "features.8"]
        assert [each.agreement for each in ranked] == pytest.approx([-1, 1, 1, 1, 1, 1])
        assert ranked[0].name == name


def test_what_expects_nothing_to_move_has_no_agreement(graph):
    point = graph.learnt_from["features.12"].point
    still = moved(graph, "features.12", expected=point.mean(0) + point * 1e-6)
    numbers = [each.agreement for each in still.rank_for_pruning() if each.layer == "features.12"]
    assert [math.isnan(each) for each in numbers] == [True] * 4


def test_without_positions_scores_remain():
    graph = toy_graph(learnt=False)
    for each in graph.rank_for_pruning():
        assert math.isnan(each.travel)
        assert math.isnan(each.agreement)
        assert each.doubt == pytest.approx(share_above(each.score, graph[each.layer].score.tolist()))


# Images 0, 2 and 4 show pattern 0 at these places; image 10 is mirrored: x = 20 is 95 - 20 = 75 of the image itself.
AT = {0: (20.0, 30.0), 2: (40.0, 30.0), 4: (60.0, 30.0), 10: (20.0, 30.0)}


@pytest.fixture
def placed(graph):
    point = graph.learnt_from["features.12"].point.clone()
    for image, place in AT.items():
        point[image // 2, 0] = torch.tensor(place)
    score = torch.ones(6, 4)
    return moved(graph, "features.12", point=point, score=score)


def outside(graph, parts, row=0):
    (found,) = [each for each in graph.rank_for_pruning(parts) if (each.layer, each.row) == ("features.12", row)]
    return found.labelled, found.outside


def test_positions_outside_boxes_by_hand(placed):
    box = [10.0, 20.0, 40.0, 30.0]
    assert outside(placed, {0: box, 2: box, 4: box}) == (3, 1 / 3)
    assert outside(placed, {0: torch.tensor(box), 4: [59, 31, 61, 32]}) == (2, 1 / 2)
    assert outside(placed, {10: [74, 29, 76, 31]}) == (1, 0)
    assert outside(placed, {10: [19, 29, 21, 31]}) == (1, 1)


def test_positions_outside_masks_by_hand(placed):
    mask = torch.zeros(64, 96, dtype=torch.bool)
    mask[30, 40] = True
    assert outside(placed, {0: mask, 2: mask}) == (2, 1 / 2)
    mask[30, 75] = True
    assert outside(placed, {10: mask}) == (1, 0)
    everywhere = torch.ones(64, 96, dtype=torch.bool)
    point = placed.learnt_from["features.12"].point - 25  # pattern 0 of image 0 is now left of the image
    assert outside(moved(placed, "features.12", point=point), {0: everywhere, 2: everywhere}) == (2, 1 / 2)


def test_images_on_which_the_filter_is_silent_do_not_count(placed):
    score = torch.ones(6, 4)
    score[:2, 0] = 0
    silent = moved(placed, "features.12", score=score)
    assert outside(silent, {0: [0, 0, 1, 1], 4: [0, 0, 1, 1]}) == (1, 1)
    labelled, share = outside(silent, {0: [0, 0, 1, 1], 2: [0, 0, 1, 1]})
    assert labelled == 0
    assert math.isnan(share)


def test_patterns_off_the_part_come_first_and_few_images_say_little(graph):
    """Of four patterns: always inside, always outside, silent, outside in the one image where it is not silent."""
    on, off = torch.tensor([50.0, 30.0]), torch.tensor([5.0, 5.0])
    point = torch.stack([on, off, on, off]).expand(6, 4, 2)
    score = torch.tensor([[1.0, 1, 0, 1], [1, 1, 0, 0], [1, 1, 0, 0]]).repeat(2, 1)
    graph = moved(graph, "features.12", point=point, score=score)
    # None of those that are heard moves: doubt is the mean of 1/2, for steadiness, and of the share that scores higher.
    planted = changed(graph, 0, score=torch.tensor([4.0, 1.0, 2.0, 3.0], dtype=torch.float64))
    labels = {i: [45, 25, 55, 35] for i in (0, 2, 4)}
    ranked = [each for each in planted.rank_for_pruning(labels) if each.layer == "features.12"]
    assert [(each.row, each.labelled) for each in ranked] == [(1, 3), (2, 0), (3, 1), (0, 3)]
    assert [each.doubt for each in ranked] == pytest.approx([3 / 4, 2 / 3, 5 / 12, 1 / 4])


def test_labels_and_doubt_weigh_as_the_docstring_says(graph):
    labels = {0: [0, 0, 48, 64], 2: [0, 0, 48, 64]}
    ranked = graph.rank_for_pruning(labels)
    values = [(each.outside * each.labelled + 2 * each.doubt) / (each.labelled + 2) for each in ranked]
    assert values == sorted(values, reverse=True)
    assert {each.labelled for each in ranked} == {1, 2}
    assert names(ranked) != names(graph.rank_for_pruning())


def test_pruned_patterns_are_left_out(graph):
    everything = names(graph.rank_for_pruning())
    assert names(graph.prune([A, C]).rank_for_pruning()) == [name for name in everything if name not in (A, C)]


def test_positions_elsewhere(graph):
    """Positions in other images than those that the graph was learnt from."""
    bare = toy_graph(learnt=False)
    box = {4: [0, 0, 50, 40]}
    assert bare.rank_for_pruning(box, graph.learnt_from) == graph.rank_for_pruning(box)
    with pytest.raises(DatasetError, match="without positions; give inference="):
        bare.rank_for_pruning(box)
    with pytest.raises(DatasetError, match="no positions in image 3; give inference="):
        graph.rank_for_pruning({3: [0, 0, 50, 40]})


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ([5, 0, 4, 9], r"got \[5, 0, 4, 9\]"),
        ([math.nan] * 4, r"got \[nan, nan, nan, nan\]"),
        ([1, 2, 3], r"got \[1, 2, 3\]"),
        ([[1, 2], [3]], r"part of image 0: expected a box .*; got \[\[1, 2\], \[3\]\]"),
        (None, "part of image 0: expected a box .*; got None"),
        ("box", "part of image 0: expected a box .*; got 'box'"),
        (torch.ones(96, 64, dtype=torch.bool), r"mask of 64 x 96 pixels; got \(96, 64\)"),
        (torch.ones(4, dtype=torch.bool), "part of image 0: expected a box"),
    ],
)
def test_parts_that_are_none(graph, part, message):
    with pytest.raises(DatasetError, match=message):
        graph.rank_for_pruning({0: part})
