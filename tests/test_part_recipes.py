"""The recipes on filters and parts run to their ends, say what they found, and have configs that run."""

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
import yaml
from PIL import Image
from torch import nn

from lightning_interp import DatasetError, GraphResult
from lightning_interp.cli import main
from recipes.interpretable_filters import tell, train
from recipes.interpretable_filters.module import PartNet
from recipes.part_graphs import learn as graphs
from recipes.part_photos import module as photos
from recipes.part_photos import train as photos_train
from tests.helpers.quiet import LIGHTNING_NOISE
from tests.test_lipstick import own_place  # noqa: F401 - a fixture for every test here

# An epoch of one batch is shorter than the logging interval of the recipe.
NOISE = (*LIGHTNING_NOISE, "ignore:The number of training batches")
pytestmark = [pytest.mark.filterwarnings(noise) for noise in NOISE]
CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    """Ten photos of two kinds of noise with a head each, as AnimalPart reads them."""
    folder, rng = tmp_path_factory.mktemp("animals"), np.random.default_rng(0)
    table = {
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "parts": [{"id": 1, "name": "head"}],
        "images": [],
        "annotations": [],
    }
    for i in range(10):
        pixels = rng.integers(0, 120, (64, 64, 3), np.uint8)
        pixels[8 : 24 + i, 8 + i : 28 + i] = 240
        Image.fromarray(pixels).save(folder / f"{i}.jpg")
        table["images"].append(
            {"id": i + 1, "file_name": f"{i}.jpg", "width": 64, "height": 64, "category_id": 1 + i % 2}
        )
        box, point = [8 + i, 8, 20, 16 + i], [18 + i, 16 + i / 2]
        annotation = {"id": i + 1, "image_id": i + 1, "category_id": 1 + i % 2, "part_id": 1, "part": "head"}
        table["annotations"].append(annotation | {"bbox": box, "landmark": point})
    (folder / "annotations.json").write_text(json.dumps(table))
    return folder


def rows_of(text, title):
    """The lines of a table, split into cells, by their first cell."""
    lines = text.split(f"{title}\n")[1].split("\n\n")[0].splitlines()
    cells = [re.split("  +", line.strip()) for line in lines[2:]]
    return lines[0].split("  "), {row[0]: row[1:] for row in cells}


def test_faces_are_learnt_then_trained_with_and_without_the_loss(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train, "PartNet", partial(PartNet, width=4))
    small = "--epochs 1 --more 1 --faces 128 --probe-faces 8 --weight 5"
    train.main(f"{small} --accelerator cpu --runs {tmp_path}".split())
    said = capsys.readouterr().out
    head, rows = rows_of(said, "Seed 0, features.4")
    assert [name.strip() for name in head if name.strip()] == ["learnt", "without", "with the loss"]
    assert list(rows) == list(tell.ROWS)
    assert rows["part interpretability (by chance)"][0].endswith(")")
    folders = sorted(path.name for path in tmp_path.glob("interpretable_filters_*"))
    assert folders == [f"interpretable_filters_{name}_0" for name in ("learnt", "with_the_loss", "without")]
    # The two that go on start from the same network, and the loss leads one of them elsewhere.
    for probed, same in (("start", True), ("epoch_0000", False)):
        first, second = (
            next(tmp_path.glob(f"*_{name}_0/**/location/{probed}/filters_features.4.csv")).read_text()
            for name in ("without", "with_the_loss")
        )
        assert (first == second) is same


def test_means_are_of_the_seeds_and_empty_rows_are_left_out():
    layer = "features.4"
    found = [
        {"run": {"val_accuracy": a, f"parts/{layer}/purity": a, f"parts/{layer}/purity_best_constant": 1.0}}
        for a in (0.5, 1.0)
    ]
    _, rows = rows_of(f"x\n{tell.show(tell.mean(found), layer)}", "x")
    assert rows == {"accuracy": ["0.75"], "purity (best constant point)": ["0.75 (1)"]}


def test_photos_are_measured_before_and_after_fine_tuning(animals, tmp_path, capsys):
    # Few filters, which are described and drawn sooner.
    layers = ("features.3.squeeze_activation", "features.6.squeeze_activation")
    small = f"--network squeezenet1_1 --layers {' '.join(layers)} --epochs 1 --batch-size 4"
    photos_train.main([str(animals), *f"{small} --accelerator cpu --runs {tmp_path}".split()])
    said = capsys.readouterr().out
    for layer in layers:
        head, rows = rows_of(said, f"\n{layer}")
        assert [name.strip() for name in head if name.strip()] == ["untrained", "fine-tuned", "with the loss"]
        # There is no accuracy before the head is trained.
        assert len(rows["accuracy"]) == 2
        assert len(rows["displacement correlation (by chance)"]) == 3


@pytest.mark.parametrize("network", ["efficientnet_lite0", "resnet18", "mobilenet_v2"])
def test_backbones_end_in_maps_after_a_relu(network):
    net = photos.PhotoCategories(3, network).eval()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = net.features(images)
        assert maps.shape[2:] == (2, 2)
        assert maps.min() >= 0
        assert net(images).shape == (2, 3)


def test_backbones_give_what_the_networks_themselves_do():
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    lite = photos.load_network(photos.LITE0).eval()
    with torch.no_grad():
        assert torch.equal(photos.load_backbone(photos.LITE0).eval()(images), lite.extract_features(images))
    torch.manual_seed(0)
    resnet = torchvision.models.resnet18().eval()
    torch.manual_seed(0)
    backbone = photos.load_backbone("resnet18").eval()
    with torch.no_grad():
        assert torch.equal(resnet.fc(nn.functional.adaptive_avg_pool2d(backbone(images), 1).flatten(1)), resnet(images))


def small_backbone(network, weights):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 8, stride=16), nn.ReLU(), nn.Conv2d(6, 8, 2, stride=2), nn.ReLU())


def test_graphs_of_both_categories_stand_beside_what_else_finds_parts(animals, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(graphs, "load_backbone", small_backbone)
    layers = ["features.2", "features.0"]
    options = [str(animals), "--layers", *layers, "--patterns", "2", "3", "--out", str(tmp_path)]
    graphs.main(options)
    said = capsys.readouterr().out
    for layer in layers:
        head, *lines = said.split(f"\n{layer}\n")[1].split("\n\n")[0].splitlines()
        assert head.split() == ["cat", "dog", "mean"]
        assert len(lines) == len(graphs.QUANTITIES) * len(graphs.ROWS)
        still = next(line for line in lines if line.startswith("  displacement correlation  held still"))
        assert still.split()[-3:] == ["0.000"] * 3
    graph = GraphResult.load(tmp_path / "cat")
    assert [len(graph[name]) / len(graph[name].filter.unique()) for name in layers] == [2, 3]
    assert graph.learnt_from.images.tolist() == [0, 2, 4, 6, 8]
    assert "features.2: displacement correlation" in (tmp_path / "dog" / "graph.html").read_text()


@pytest.mark.parametrize("name", ["interpretable_filters", "part_photos"])
def test_config_runs(name, animals, tmp_path):
    content = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    content["trainer"] |= {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    probes, data = content["trainer"]["callbacks"][:2], content["data"]
    if name == "interpretable_filters":
        for callback in probes:
            callback["init_args"]["probe"]["init_args"]["num_images"] = 8
        content["model"]["init_args"] = {"width": 4}
        data["init_args"] = {"num_train": 16, "num_val": 8, "batch_size": 8}
    else:
        for callback in probes:
            callback["init_args"]["probe"]["init_args"] |= {"root": str(animals), "size": [64, 64]}
            # Small receptive fields, which are found sooner.
            callback["init_args"]["layers"] = ["features.4"]
        data["init_args"] |= {"root": str(animals), "batch_size": 4}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    assert main(["fit", "--config", str(tmp_path / "config.yaml"), "--trainer.fast_dev_run=true"]) == 0


def test_photos_that_fill_no_batch_are_refused(animals):
    with pytest.raises(
        DatasetError, match="8 photos to train on are fewer than a batch; give a batch size of at most 8"
    ):
        photos.PartPhotosData(str(animals), batch_size=9)
