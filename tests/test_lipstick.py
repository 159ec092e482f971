"""The lipstick recipe runs to its end, says what its numbers say, and its repair is what it says."""

import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_interp.cli import main
from lightning_interp.data.probe import Concept
from lightning_interp.methods.bias.result import Score
from recipes.lipstick import train
from recipes.lipstick.module import LipstickFaces, LipstickNet
from recipes.lipstick.tell import Run, comparison, summary, verdict
from tests.helpers.bias_results import bias_result, scores
from tests.helpers.quiet import LIGHTNING_NOISE
from tests.helpers.results import counted_layer

# An epoch of one batch is shorter than the logging interval of the recipe.
NOISE = (*LIGHTNING_NOISE, "ignore:The number of training batches")
pytestmark = [pytest.mark.filterwarnings(noise) for noise in NOISE]

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("lipstick*.yaml"))


@pytest.fixture(autouse=True)
def own_place(monkeypatch, tmp_path):
    """Undoes what a training that ends with its process need not."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["lightning-interp"])
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    monkeypatch.chdir(tmp_path)


def trained(name, share, unbiased, intersections, chance=(0, 0)):
    """A run: how much of the score is make-up, accuracy without the bias, and units of a lip and of an eyelid."""
    found = {"exact_reliance/makeup": Score(share), "crr/makeup": Score(0.5), "scr/makeup": Score(0.25)}
    effects = scores(relation__makeup=0.375, e_region=1 - share, e_context__makeup=share)
    groups = {"worst_group_accuracy/makeup": Score(0.125)}
    parts = (Concept(1, "lip", "part"), Concept(2, "eyelid", "part"))
    units = counted_layer([[intersections[0], 0], [0, intersections[1]]], [[chance[0], 0], [0, chance[1]]], parts)
    return Run(
        name,
        Path("logs") / name,
        bias_result(found | effects),
        units,
        {"accuracy": Score(0.97, 0.96, 0.98)},
        {"accuracy": Score(unbiased, unbiased - 0.02, unbiased + 0.02)} | groups,
    )


def test_verdict_is_in_the_numbers():
    said = verdict(trained("biased", 0.94, 0.53, (0, 50)))
    assert "Its lipstick score depends to 94 % on make-up, to 6 % on the mouth." in said
    assert "Hiding the mouth changes the score by -6 %, hiding the eyes by -94 %." in said
    # 50 of 150 pixels, and none by chance.
    assert said.endswith("Units of layer4 detect eyelid (0.33); IoU, by chance at most 0.00.")
    clean = verdict(trained("clean", 0.02, 0.98, (50, 25)))
    assert "Its lipstick score depends to 2 % on make-up, to 98 % on the mouth." in clean
    assert "detect lip (0.33) and eyelid (0.14);" in clean


def test_verdict_without_signal_or_detectors_says_so():
    said = verdict(trained("new", float("nan"), 0.5, (50, 30), chance=(50, 0)))
    assert said.startswith("No signal: ")
    assert "%" not in said
    # Both are above the threshold, neither above the best by chance.
    assert "Units of layer4 detect nothing; IoU, by chance at most 0.33." in said


def test_comparison_says_the_opposite_of_the_opposite():
    shortcut, mouth = trained("a", 0.94, 0.53, (0, 50)), trained("b", 0.02, 0.98, (50, 0))
    helps, harms = comparison(shortcut, mouth), comparison(mouth, shortcut)
    assert helps.startswith("The repair helps: accuracy goes from 0.530 to 0.980 on faces without the bias.")
    assert helps.endswith("Its units gained lip and lost eyelid.")
    assert harms.startswith("The repair harms: accuracy goes from 0.980 to 0.530 on faces without the bias.")
    assert harms.endswith("Its units gained eyelid and lost lip.")
    same = comparison(shortcut, trained("c", 0.90, 0.55, (0, 50)))
    assert same.startswith("The repair makes no clear difference: ")
    assert same.endswith("On faces with it, 0.970 and 0.970 do not tell the two apart.")


def test_comparison_sees_accuracies_that_tell_the_two_apart():
    run = trained("a", 0.5, 0.5, (0, 0))
    worse = replace(run, biased={"accuracy": Score(0.90, 0.88, 0.92)})
    for pair in ((run, worse), (worse, run)):
        assert re.search(r"On faces with it, 0\.9\d0 and 0\.9\d0 tell the two apart\.$", comparison(*pair))


def test_summary_has_a_column_a_run_and_names_its_files():
    runs = trained("biased", 0.94, 0.53, (0, 50), (10, 0)), trained("repaired", float("nan"), 0.98, (50, 0))
    said = summary(*runs, Path("logs"))
    rows = dict(re.split("  +", line, maxsplit=1) for line in said.split("\n\n")[0].splitlines())
    cells = {name: re.split("  +", cell) for name, cell in rows.items()}
    assert cells["lipstick"] == ["biased", "repaired"]
    assert cells["accuracy, faces without the bias"] == ["0.530", "0.980"]
    assert cells["worst group, without the bias"] == ["0.125", "0.125"]
    assert cells["share of make-up, exact, by re-rendering"] == ["0.940", "no signal"]
    assert cells["share of make-up, by hiding parts (CRR)"] == ["0.500", "0.500"]
    assert cells["detectors (by chance)"] == ["1 (1)", "1 (0)"]
    # 10 of 190 pixels by chance.
    assert cells["best IoU with the lip (by chance)"] == ["0.00 (0.05)", "0.33 (0.00)"]
    assert cells["best IoU with the eyelid (by chance)"] == ["0.33 (0.00)", "0.00 (0.00)"]
    assert str(Path("logs/biased/interp/bias/epoch_0003/interventions.png")) in said
    assert "tensorboard --logdir logs --samples_per_plugin images=200" in said


def test_recipe_trains_twice_and_compares(tmp_path, capsys, caplog, monkeypatch):
    monkeypatch.setattr(train, "LipstickNet", partial(LipstickNet, width=4))
    arguments = f"--epochs 1 --faces 64 --probe-faces 8 --graph-faces 26 --accelerator cpu --runs {tmp_path}"
    with caplog.at_level("INFO"):
        train.main(arguments.split())
    said = capsys.readouterr().out
    # One step teaches nothing, and both words and table say so.
    assert len(re.findall(r"^share of make-up, .*  no signal  +no signal$", said, re.MULTILINE)) == 3
    assert len(re.findall(r"^(biased|repaired): No signal: ", said, re.MULTILINE)) == 2
    assert sum("bias: lipstick: no signal yet" in line for line in caplog.messages) == 2
    files = [Path(line.split(": ")[1]) for line in said.splitlines() if line.startswith("  ") and "interp" in line]
    assert [path.name for path in files] == ["interventions.png", "report.html"] * 2 + ["graph.html"]
    assert all(path.is_file() for path in files)
    tags = {
        name: EventAccumulator(str(tmp_path / f"lipstick_{name}" / "version_0")).Reload().Tags()
        for name in ("biased", "repaired")
    }
    for own in tags.values():
        asked = {"bias/lipstick/crr/makeup", "bias/lipstick/exact_reliance/makeup"}
        assert asked | {f"dissect/{train.LAYER}/detectors"} <= set(own["scalars"])
        assert {"bias/lipstick/interventions", f"dissect/{train.LAYER}/units"} <= set(own["images"])
    # Only the repaired run was repaired.
    assert {name: "right_reasons/weight" in own["scalars"] for name, own in tags.items()} == {
        "biased": False,
        "repaired": True,
    }


def test_splits_share_the_bias_or_not_and_no_face():
    data = LipstickFaces(400, 400, rho=0.95)
    agree = {
        name: float((faces.records.values["lipstick"] == faces.records.values["makeup"]).float().mean())
        for name, faces in (("train", data.train), ("biased", data.biased), ("unbiased", data.unbiased))
    }
    assert agree == pytest.approx({"train": 0.975, "biased": 0.975, "unbiased": 0.5}, abs=0.05)
    assert len({data.train.seed, data.biased.seed, data.unbiased.seed}) == 3


def test_batches_hold_the_masks_of_mouth_and_eyes():
    data = LipstickFaces(8, 8, batch_size=8)
    images, attributes, mouth, eyes = next(iter(data.train_dataloader()))
    assert images.shape == (8, 3, 64, 64)
    assert attributes.shape == (8, 7)
    assert mouth.dtype == eyes.dtype == torch.bool
    assert not (mouth & eyes).any()
    rows = torch.arange(64.0)[:, None]
    height = [(mask * rows).sum((1, 2)) / mask.sum((1, 2)) for mask in (eyes, mouth)]
    assert (height[0] + 8 < height[1]).all()


def test_balanced_draws_every_group_equally_often():
    data = LipstickFaces(200, 8, batch_size=40, balanced=True, rho=0.9)
    attributes = torch.cat([batch[1] for batch in data.train_dataloader()]).long()
    counts = torch.bincount(2 * attributes[:, 0] + attributes[:, 1], minlength=4)
    assert counts.tolist() == [50, 50, 50, 50]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_runs(path, tmp_path):
    content = yaml.safe_load(path.read_text())
    content["trainer"] |= {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    for callback in content["trainer"]["callbacks"][:2]:
        callback["init_args"]["probe"]["init_args"]["num_images"] = 8
    content["model"]["init_args"] = {"width": 4}
    content["data"]["init_args"] = {"num_train": 16, "num_val": 8, "batch_size": 8}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    command = ["fit", "--config", str(tmp_path / "config.yaml"), "--trainer.fast_dev_run=true"]
    assert main(command) == 0


def test_configs_differ_by_the_repair_alone():
    biased, repaired = (yaml.safe_load(path.read_text()) for path in CONFIGS)
    repair = repaired["trainer"]["callbacks"].pop()
    assert repair["class_path"] == "lightning_interp.RightReasons"
    assert repaired["trainer"]["logger"]["init_args"].pop("name") == "lipstick_repaired"
    assert biased["trainer"]["logger"]["init_args"].pop("name") == "lipstick_biased"
    assert biased == repaired
