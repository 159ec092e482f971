"""The benchmark runs and prints the lines that the README quotes; its times are not judged here."""

import runpy
from pathlib import Path

import pytest

from lightning_interp.checks import CHECKS


@pytest.mark.slow
def test_the_benchmark_prints_its_ratios(capsys):
    benchmark = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "dissection.py"))
    benchmark["against_forward"]("cpu", "fp32", images=2, rounds=1, batch_size=2)
    printed = capsys.readouterr().out
    for name in ("control (bare / bare)", "dissection of layer4", "of it chance", "dissection of 4 stages"):
        line = next(line for line in printed.splitlines() if line.strip().startswith(name))
        float(line.removeprefix(" ").split(name)[1].split()[0])


@pytest.mark.slow
def test_the_bias_benchmark_prints_the_cost_of_every_check(capsys):
    runpy.run_module("benchmarks.context_bias")["cost"](images=8, rounds=1)
    printed = capsys.readouterr().out
    for name in ("control (bare / bare)", *CHECKS, "default checks"):
        line = next(line for line in printed.splitlines() if line.strip().startswith(name))
        assert float(line.replace("(default)", "").split(name)[1].split()[0]) > 0


@pytest.mark.slow
def test_the_bias_benchmark_prints_every_score_of_every_network(capsys):
    runpy.run_module("benchmarks.context_bias")["answers"]([0.5], [0], faces=64, epochs=1, images=16)
    printed = capsys.readouterr().out
    for name in ("crr/makeup", "scr/makeup", "exact_reliance/makeup", "worst_group_accuracy/makeup", "relation/makeup"):
        assert sum(line.split()[:1] == [name] for line in printed.splitlines()) == 2
