"""The benchmark runs and prints the lines that the README quotes; its times are not judged here."""

import runpy
from functools import partial
from pathlib import Path

import pytest

from benchmarks import context_bias, explanatory_graph, filter_loss
from benchmarks.dissection import race
from benchmarks.known_answers import BANDS, SPLITS, Run, answer, bands, diagnosers, draw, show
from lightning_interp.methods.bias.checks import CHECKS
from recipes.rendered_faces.module import FaceAttributes
from tests.helpers.quiet import LIGHTNING_NOISE

pytestmark = [pytest.mark.filterwarnings(noise) for noise in (*LIGHTNING_NOISE, "ignore:The number of training")]


@pytest.mark.slow
def test_the_benchmark_prints_its_ratios(capsys):
    benchmark = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "dissection.py"))
    benchmark["against_forward"]("cpu", "fp32", images=2, rounds=1, batch_size=2)
    printed = capsys.readouterr().out
    for name in ("control (bare / bare)", "dissection of layer4", "of it chance", "dissection of 4 stages"):
        line = next(line for line in printed.splitlines() if line.strip().startswith(name))
        float(line.removeprefix(" ").split(name)[1].split()[0])


def test_the_bias_benchmark_prints_the_cost_of_every_check(capsys, monkeypatch):
    monkeypatch.setattr(context_bias, "FaceAttributes", partial(FaceAttributes, width=4))
    context_bias.cost(images=8, rounds=1)
    printed = capsys.readouterr().out
    for name in ("control (bare / bare)", *CHECKS, "default checks"):
        line = next(line for line in printed.splitlines() if line.strip().startswith(name))
        assert float(line.replace("(default)", "").split(name)[1].split()[0]) > 0


def column(rho, reads, **changes):
    """Scores of a network that relies on make-up by ``reads`` and is as the bands want it otherwise."""
    scores = {band.score: (band.low + band.high) / 2 for band in BANDS if band.rho in (None, rho)}
    ratios = ("exact_reliance/makeup", "crr_grey/makeup", "scr/makeup", "crr_by_target/makeup")
    scores |= dict.fromkeys(ratios, reads) | {"signal": 1.0} | changes
    worst = {"worst_group_accuracy/makeup": 0.9 if rho == 0 else 0.05}
    effect = {"e_region": 1.0 if rho == 0 else 0.1}
    return {"biased": scores, "as trained": scores, "unbiased": scores | worst | effect}


def test_bands_hold_for_right_figures_and_fail_for_wrong_ones():
    right = {Run(rho, 0): column(rho, reads) for rho, reads in ((0.0, 0.05), (0.5, 0.2), (0.8, 0.6), (0.95, 0.95))}
    right[Run(0.0, 0, rate=0.0)] = column(0.0, float("nan"), signal=0.0)
    assert all(holds for _, holds, _ in bands(right))
    for wrong, claims in (
        ({Run(0.95, 0): column(0.95, 0.45)}, ["exact_reliance/makeup", "R*, mean"]),
        (
            {Run(0.95, 0): column(0.95, 0.95, **{"crr_by_target/makeup": 0.0})},
            [f"crr_by_target, {split}: rank" for split in ("biased", "as trained")],
        ),
        ({Run(0.5, 0): column(0.5, 0.2, **{"crr_by_target off R*": 0.16})}, ["crr_by_target off R*"]),
        ({Run(0.0, 1): column(0.0, 0.05, signal=0.0)}, ["signal"]),
        ({Run(0.0, 0, rate=0.0): column(0.0, 0.7)}, ["signal"]),
    ):
        failed = [claim for claim, holds, _ in bands(right | wrong) if not holds]
        for claim in claims:
            assert any(text.startswith(claim) for text in failed), claim


def test_networks_are_asked_on_one_biased_set_on_their_own_and_on_an_unbiased_one():
    asking = diagnosers(Run(0.5, 0, biased=12, unbiased=8), dict.fromkeys(SPLITS, ("groups",)))
    probes = {split: diagnoser.probe for split, diagnoser in asking.items()}
    rhos = {split: probe.correlations["makeup"] for split, probe in probes.items()}
    assert rhos == {"biased": 0.95, "as trained": 0.5, "unbiased": 0.0}
    assert [len(probe) for probe in probes.values()] == [12, 12, 8]


@pytest.mark.slow
def test_known_answers_are_asked_of_a_network_as_it_trains(tmp_path, capsys):
    run = Run(0.8, 0, faces=128, epochs=1, width=4, biased=8, unbiased=8)
    found = {asked: answer(asked) for asked in (run, run._replace(rate=0.0), run._replace(rho=0.5))}
    assert [[epoch for epoch, _ in points] for points in found.values()] == [[0, 0.5, 1], [0], [1]]
    draw({run: found[run]}, tmp_path / "early.png")
    assert (tmp_path / "early.png").stat().st_size > 10_000
    show({asked: points[-1][1] for asked, points in found.items()})
    printed = capsys.readouterr().out
    splits = {"crr/makeup": 3, "scr/makeup": 3, "exact_reliance/makeup": 3, "e_region": 3, "relation/makeup": 2}
    for name, count in splits.items():
        assert sum(line.startswith(f"  {name}   ") for line in printed.splitlines()) == count
    assert "FAILS  accuracy, biased" in printed


def test_the_benchmark_of_the_filter_loss_trains_with_and_without_it(monkeypatch):
    monkeypatch.setattr(filter_loss, "SIZE", 64)
    monkeypatch.setattr(filter_loss, "BATCH", 2)
    data = filter_loss.images(1)
    fits = {loss: filter_loss.fitting(loss, data, "cpu") for loss in (None, *filter_loss.LOSSES)}
    seconds = race(fits, rounds=1)
    assert list(seconds) == list(fits)
    assert all(value > 0 for value in seconds.values())


def test_the_benchmark_of_the_explanatory_graph_learns_and_compares(monkeypatch, capsys):
    monkeypatch.setattr(explanatory_graph, "ITERATIONS", 2)
    own = explanatory_graph.layer(images=22, filters=2)
    graph = explanatory_graph.learn(own, pose=1, iterations=2)
    assert len(graph["noise"]) == 40
    assert graph["noise"].sway.shape == (40, 2, 1)
    explanatory_graph.against_published(0.001, images=2, filters=2, few=1)
    words = capsys.readouterr().out.split()
    # A quarter of a millisecond for one filter and iteration.
    slow, ratio = float(words[2]), float(words[8])
    assert slow > 0
    assert ratio == pytest.approx(slow / 0.00025, abs=3)
