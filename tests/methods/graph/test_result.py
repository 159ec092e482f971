"""What an explanatory graph says of itself."""

from tests.helpers.graphs import LAYERS, toy_graph


def test_repr_is_one_line():
    said = "features.12: 4 patterns, features.8: 6 patterns, features.4: 8 patterns; 64 x 96 pixels; learnt from"
    assert repr(toy_graph()) == f"GraphResult({said} 6 images; 0 pruned)"
    pruned = toy_graph(learnt=False).prune([f"{LAYERS[0]}/0/0"])
    assert repr(pruned) == f"GraphResult({said} images that were not kept; 1 pruned)"
