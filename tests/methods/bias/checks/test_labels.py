"""Labels of attributes: which are there, which are missing, which are misspelt."""

import pytest

from lightning_interp.errors import DatasetError
from lightning_interp.methods.bias.checks.labels import read_labels
from tests.helpers.bias import biased


def test_names_that_nobody_labelled_are_left_out():
    labels = read_labels(biased(), [0, 2], "lipstick", ["makeup", "beard"], ["lipstick", "smile"])
    assert set(labels) == {"lipstick", "makeup"}
    assert (labels["makeup"][[1, 3]] == -1).all()
    assert (labels["makeup"][[0, 2]] >= 0).all()


@pytest.mark.parametrize(
    ("contexts", "outputs"),
    [(["makeupp"], []), (["makeupp"], ["lipstick", "makeup"]), (["makeup"], ["lipstick", "makeupp"])],
    ids=["context", "context beside the output", "output beside the context"],
)
def test_misspelt_names_are_told_wherever_the_right_one_stands(contexts, outputs):
    with pytest.raises(DatasetError, match="unknown attribute 'makeupp'; did you mean 'makeup'"):
        read_labels(biased(), [0, 1], "lipstick", contexts, outputs)
