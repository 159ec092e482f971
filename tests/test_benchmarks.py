"""The benchmark runs and prints the lines that the README quotes; its times are not judged here."""

import runpy
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_benchmark_prints_its_ratios(capsys):
    benchmark = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "dissection.py"))
    benchmark["against_forward"]("cpu", "fp32", images=2, rounds=1, batch_size=2)
    printed = capsys.readouterr().out
    for name in ("control (bare / bare)", "dissection of layer4", "of it chance", "dissection of 4 stages"):
        line = next(line for line in printed.splitlines() if line.strip().startswith(name))
        float(line.removeprefix(" ").split(name)[1].split()[0])
