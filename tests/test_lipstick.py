"""The lipstick recipe runs to its end, and its repair is what it says."""

import re
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_interp.cli import main
from recipes.lipstick import train
from recipes.lipstick.module import LipstickFaces
from tests.helpers.quiet import LIGHTNING_NOISE

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


def test_recipe_trains_twice_and_compares(tmp_path, capsys, caplog):
    arguments = f"--epochs 1 --faces 64 --probe-faces 8 --accelerator cpu --runs {tmp_path}"
    with caplog.at_level("INFO"):
        train.main(arguments.split())
    said = capsys.readouterr().out
    table = [
        re.split("  +", line)
        for line in said.split("\n\n")
        if line.startswith("lipstick ")
        for line in line.splitlines()
    ]
    assert table[0] == ["lipstick", "biased", "repaired"]
    assert [row[0] for row in table[2:5]] == [
        "accuracy, biased split",
        "accuracy, unbiased split",
        "worst group, unbiased split",
    ]
    # One step teaches nothing, and the table says so.
    assert [row[1:] for row in table[5:8]] == [["no signal"] * 2] * 3
    assert sum("bias: lipstick: no signal yet" in line for line in caplog.messages) == 2
    tags = {
        name: EventAccumulator(str(tmp_path / f"lipstick_{name}" / "version_0")).Reload().Tags()
        for name in ("biased", "repaired")
    }
    for own in tags.values():
        assert {"bias/lipstick/crr/makeup", "bias/lipstick/exact_reliance/makeup"} <= set(own["scalars"])
        assert "bias/lipstick/interventions" in own["images"]
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
    bias = content["trainer"]["callbacks"][0]["init_args"]
    bias["probe"]["init_args"]["num_images"] = 8
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
