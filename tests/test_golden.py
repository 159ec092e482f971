"""Results, scores and output are those of the day on which they were frozen (``python -m tests.golden.make``)."""

import pytest

from tests.golden.cases import CASES
from tests.golden.freeze import differences, read, write
from tests.golden.make import VALUES, compute
from tests.helpers.quiet import LIGHTNING_NOISE

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]
TOLD = 30


@pytest.mark.parametrize("name", CASES)
def test_as_frozen(name, tmp_path):
    found = compute(name, tmp_path / "case")
    # By way of the file, for lists and tuples are one there.
    write(found, tmp_path / "found.json")
    told = differences(read(VALUES / f"{name}.json"), read(tmp_path / "found.json"))
    more = f"\n... and {len(told) - TOLD} more" if len(told) > TOLD else ""
    assert not told, f"{name}: {len(told)} fields differ:\n" + "\n".join(told[:TOLD]) + more


def test_every_frozen_file_is_of_a_case():
    assert {path.stem for path in VALUES.iterdir()} == set(CASES)
