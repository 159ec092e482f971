import pytest

from lightning_interp.methods.dissection.maths.history import concept_changes


def test_counts_by_hand():
    before = [None, None, "eye", "eye", "eye", "hat"]
    after = [None, "eye", None, "eye", "hat", "eye"]
    assert concept_changes(before, after) == (1, 1, 2)


def test_nothing_changed():
    assert concept_changes(["eye", None], ["eye", None]) == (0, 0, 0)


def test_refuses_another_number_of_units():
    with pytest.raises(ValueError, match="zip"):
        concept_changes(["eye"], ["eye", None])


def test_equal_names_in_two_categories_are_different_concepts():
    assert concept_changes([("object", "grass")], [("texture", "grass")]) == (0, 0, 1)


def test_no_units():
    assert concept_changes([], []) == (0, 0, 0)
