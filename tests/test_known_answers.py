"""The checks read what is known to be right, over three seeds of every correlation."""

import pytest

from benchmarks.known_answers import RHOS, SEEDS, UNLEARNT, Run, bands, collect


@pytest.mark.nightly
@pytest.mark.timeout(3 * 60 * 60)
def test_every_band_holds():
    runs = [*(Run(rho, seed) for rho in RHOS for seed in SEEDS), *UNLEARNT]
    columns = {run: points[-1][1] for run, points in collect(runs).items()}
    failed = [f"{claim}: {figures}" for claim, holds, figures in bands(columns) if not holds]
    assert not failed, "; ".join(failed)
