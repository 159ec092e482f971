"""The recipes for the explanatory graph run to their ends, say what they found, and have configs that run."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from pytorch_lightning import Trainer

from lightning_interp import RenderedFaces
from lightning_interp.cli import main
from lightning_interp.methods.graph.decoder_files import load_decoder
from recipes.graph_decoder import train as decoder_train
from recipes.graph_decoder.module import LayerDecoder, ProbeImages, strongest
from recipes.rendered_faces.module import FaceAttributes
from recipes.vae_gan import train as vae_train
from recipes.vae_gan.module import VAEGAN, FacePictures, load_encoder
from tests.helpers.quiet import LIGHTNING_NOISE
from tests.test_lipstick import own_place  # noqa: F401 - a fixture for every test here

# An epoch of one batch is shorter than the logging interval of the recipe.
NOISE = (*LIGHTNING_NOISE, "ignore:The number of training batches")
pytestmark = [pytest.mark.filterwarnings(noise) for noise in NOISE]
CONFIGS = Path(__file__).parents[1] / "configs"


def rows_of(text, title):
    """The lines of a table, split into cells, by their first cell."""
    lines = text[text.index(title) :].split("\n\n")[0].splitlines()
    return {row[0]: row[1:] for row in (re.split("  +", line.strip()) for line in lines[2:])}


def quiet_trainer(folder, **options):
    return Trainer(
        accelerator="cpu",
        max_epochs=1,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def test_decoder_is_trained_told_of_and_saved(tmp_path, capsys):
    torch.save(FaceAttributes().state_dict(), tmp_path / "faces.pth")
    small = "--epochs 1 --faces 64 --layer features.3 --accelerator cpu"
    decoder_train.main([str(tmp_path / "faces.pth"), *small.split(), "--runs", str(tmp_path)])
    said = capsys.readouterr().out
    rows = rows_of(said, "features.3, drawn from")
    assert list(rows) == list(decoder_train.ROWS)
    assert rows["mean image"][1] == "1.000"
    log = tmp_path / "graph_decoder" / "version_0"
    assert f"Decoder: {log / 'decoder.safetensors'}\n" in said
    decoder = load_decoder(log / "decoder.safetensors")
    assert decoder(torch.zeros(1, 96, 16, 16)).shape == (1, 3, 64, 64)
    with Image.open(log / "drawn.png") as page:
        assert page.width > 4 * 128


def test_decoder_leaves_the_network_alone_and_learns_to_draw(tmp_path):
    network = FaceAttributes(width=4)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    probe = RenderedFaces(64, size=32, seed=1)
    net = LayerDecoder(network, "features.1", width=8, lr=1e-2)
    trainer = quiet_trainer(tmp_path, num_sanity_val_steps=0)
    trainer.fit_loop.max_epochs = 8
    trainer.fit(net, ProbeImages(probe, probe.split(2, num_images=32), batch_size=16))
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    error = {name: float(value) for name, value in trainer.callback_metrics.items()}
    # What was saved, without a logger in the root folder, is what was trained.
    maps = torch.rand(1, 8, 8, 8)
    assert torch.equal(load_decoder(tmp_path / "decoder.safetensors")(maps), net.decoder(maps))
    assert error["error/whole"] < 0.7 * error["error/mean_image"]
    assert error["error/whole"] < error["error/few"]


def test_the_strongest_units_stay():
    maps = torch.tensor([[4.0, 1.0, 3.0, 2.0], [0.0, 5.0, 0.0, 6.0]]).reshape(2, 2, 1, 2)
    left = strongest(maps, torch.tensor([0.5, 0.01]))
    assert left.flatten(1).tolist() == [[4, 0, 3, 0], [0, 0, 0, 6]]


def test_vae_gan_is_trained_told_of_and_saved(tmp_path, capsys):
    vae_train.main(f"--epochs 2 --faces 32 --accelerator cpu --runs {tmp_path}".split())
    said = capsys.readouterr().out
    head, *lines = said[said.index("epoch") :].split("\n\n")[0].splitlines()
    assert re.split("  +", head) == ["epoch", *vae_train.COLUMNS]
    table = [[float(cell) for cell in line.split()] for line in lines]
    assert [row[0] for row in table] == [0, 1]
    # The mean image is the same in every epoch, and what it is off by is the faces' own variance.
    assert table[0][2] == table[1][2] == pytest.approx(0.06, abs=0.04)
    assert all(0 < cell < 1 for row in table for cell in row[4:])
    log = tmp_path / "vae_gan" / "version_0"
    encoder = load_encoder(log / "encoder.safetensors")
    sizes = []
    maps = torch.zeros(1, 3, 48, 48)
    for block in encoder.maps:
        maps = block(maps)
        sizes.append(tuple(maps.shape[2:]))
    assert sizes == [(24, 24), (12, 12), (6, 6)]
    with Image.open(log / "faces.png") as page:
        assert page.size == (4 * 50 + 2, 3 * 50 + 2)


def stepped(deceit, folder):
    """The network after one step."""
    torch.manual_seed(0)
    net = VAEGAN(width=4, latent=3, deceit=deceit)
    quiet_trainer(folder, limit_train_batches=1, limit_val_batches=0).fit(net, FacePictures(8, 2, batch_size=8))
    return net


def test_only_the_decoder_learns_to_deceive(tmp_path):
    honest, deceiver = (stepped(deceit, tmp_path).state_dict() for deceit in (0.0, 100.0))
    same = {name: torch.equal(value, deceiver[name]) for name, value in honest.items()}
    assert all(equal for name, equal in same.items() if not name.startswith("decoder."))
    assert not same["decoder.start.0.weight"]


def test_encoder_comes_back_from_its_file(tmp_path):
    net = VAEGAN(width=4, latent=5)
    vae_train.save_encoder(net.encoder, tmp_path / "encoder.safetensors")
    images = torch.randn(2, 3, 48, 48)
    both = load_encoder(tmp_path / "encoder.safetensors"), net.encoder.eval()
    (mean, variance), (same_mean, same_variance) = (encoder(images) for encoder in both)
    assert torch.equal(mean, same_mean)
    assert torch.equal(variance, same_variance)


@pytest.mark.parametrize("name", ["graph_decoder", "vae_gan"])
def test_config_runs(name, tmp_path):
    content = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    content["trainer"] |= {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    data = content["data"].setdefault("init_args", {})
    if name == "vae_gan":
        data |= {"num_train": 16, "num_val": 8, "batch_size": 8}
    else:
        torch.save(FaceAttributes(width=4).state_dict(), tmp_path / "faces.pth")
        model = content["model"]["init_args"]
        model["network"]["init_args"] = {"width": 4}
        model["checkpoint"] = str(tmp_path / "faces.pth")
        data["batch_size"] = 8
        for part in ("train", "val"):
            data[part]["init_args"]["num_images"] = 16
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    assert main(["fit", "--config", str(tmp_path / "config.yaml"), "--trainer.fast_dev_run=true"]) == 0
