"""The command `lightning-interp` and the configs that come with it."""

import inspect
import os
import pickle
import sys
import typing
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import lightning_interp
from lightning_interp import Every, GraphResult, NetworkDissection, load_result
from lightning_interp.cli import main
from lightning_interp.data.probe import ProbeSet
from recipes.pretrained_photos.module import PhotoConcepts, Photos
from recipes.rendered_faces.module import FaceAttributes, Faces
from tests.helpers.quiet import LIGHTNING_NOISE
from tests.test_recipes import write_photos

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]

# The other recipes' own tests run theirs.
CONFIGS = [Path(__file__).parents[1] / "configs" / f"{name}.yaml" for name in ("pretrained_photos", "rendered_faces")]


@pytest.fixture
def config(tmp_path):
    """Writes one of the configs, made small: few images, a tiny network, files below `tmp_path`."""

    def write(name="rendered_faces", **callback):
        content = yaml.safe_load((CONFIGS[0].parent / f"{name}.yaml").read_text())
        content["trainer"] |= {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False}
        content["trainer"] |= {"enable_model_summary": False, "log_every_n_steps": 1}
        content["trainer"]["logger"]["init_args"]["save_dir"] = str(tmp_path / "runs")
        own = content["trainer"]["callbacks"][0]["init_args"]
        if name == "rendered_faces":
            own["probe"]["init_args"] = {"num_images": 12}
            content["model"]["init_args"] = {"width": 4}
            content["data"]["init_args"] = {"num_train": 16, "num_val": 8, "batch_size": 8}
        else:
            folder = str(write_photos(tmp_path / "photos"))
            own["probe"]["init_args"] |= {"root": folder, "size": [64, 64], "mask_size": [32, 32]}
            content["model"]["init_args"]["num_concepts"] = 2
            content["data"]["init_args"] |= {"root": folder, "batch_size": 4}
        own |= callback
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(content))
        return str(path)

    return write


@pytest.fixture(autouse=True)
def own_place(monkeypatch, tmp_path):
    """Undoes what a process that ends after its command need not: changes of the path and the environment."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")
    # Lightning 2.6 calls functions that newer versions of jsonargparse deprecate.
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    # LightningCLI warns of arguments where the process has its own.
    monkeypatch.setattr(sys, "argv", ["lightning-interp"])
    # ModelCheckpoint writes last.ckpt there even in a trial run.
    monkeypatch.chdir(tmp_path)


def test_help_names_every_verb(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert said.startswith("usage: lightning-interp")
    assert all(f"    {verb} " in said for verb in ("fit", "validate", "test", "dissect", "graph"))
    assert "A config is code" in " ".join(said.split())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_prints(path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", str(path), "--print_config"])
    assert ended.value.code == 0
    content = yaml.safe_load(capsys.readouterr().out)
    dissection, checkpoint = content["trainer"]["callbacks"]
    assert dissection["class_path"].endswith("NetworkDissection")
    # Defaults are documentation.
    assert dissection["init_args"]["preset"] == "cvpr2017"
    layers = dissection["init_args"]["layers"]
    assert checkpoint["init_args"]["monitor"] == f"dissect/{layers[-1]}/unique_detectors"
    assert checkpoint["init_args"]["auto_insert_metric_name"] is False


@pytest.mark.parametrize("name", [path.stem for path in CONFIGS])
def test_config_runs(name, config):
    assert main(["fit", "--config", config(name), "--trainer.fast_dev_run=true"]) == 0


def test_dissect_after_training_equals_the_callback(config, tmp_path, capsys):
    path = config(layers=["features.4"])
    assert main(["fit", "--config", path]) == 0
    log = tmp_path / "runs" / "rendered_faces" / "version_0"
    checkpoint, saved = log / "checkpoints" / "last.ckpt", log / "config.yaml"
    capsys.readouterr()
    # The config that Lightning saved serves as well as the one it was given.
    for given, folder in ((path, "one"), (str(saved), "two")):
        command = ["dissect", "--config", given, "--ckpt", str(checkpoint), "--output", str(tmp_path / folder)]
        assert main(command) == 0
        said = capsys.readouterr().out
        assert "features.4: " in said
        assert "by chance" in said
        result = load_result(tmp_path / folder / "dissect")
        assert result.meta == {"checkpoint": "last.ckpt", "epoch": 0, "global_step": 2, "name": "dissect"}
        during = load_result(log / "interp" / "dissect" / "epoch_0000")
        assert list(result.layers) == list(during.layers)
        for one, other in zip(result.layers.values(), during.layers.values(), strict=True):
            assert np.array_equal(one.thresholds, other.thresholds)
            assert np.array_equal(one.tallies.intersection, other.tallies.intersection)
        assert (tmp_path / folder / "dissect" / "report.html").is_file()


def test_dissect_takes_a_state_dict_and_other_layers(config, tmp_path, capsys):
    torch.manual_seed(0)
    torch.save(FaceAttributes(width=4).state_dict(), tmp_path / "weights.pt")
    command = ["dissect", "--config", config(), "--ckpt", str(tmp_path / "weights.pt"), "--output", str(tmp_path / "o")]
    assert main([*command, "--layers", "[features.0]", "--rows", "2"]) == 0
    said = capsys.readouterr().out
    assert "features.0: " in said
    assert "features.4" not in said
    assert list(load_result(tmp_path / "o" / "dissect").layers) == ["features.0"]


def test_graph_after_training_is_that_of_the_fit_s_end(tmp_path, capsys):
    content = yaml.safe_load((CONFIGS[0].parent / "explanatory_graph.yaml").read_text())
    content["trainer"] |= {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    content["trainer"] |= {"max_epochs": 1, "limit_val_batches": 0, "log_every_n_steps": 1}
    content["trainer"]["logger"]["init_args"]["save_dir"] = str(tmp_path / "runs")
    own = content["trainer"]["callbacks"][0]["init_args"]
    own["probe"]["init_args"] |= {"num_images": 8, "size": 32}
    own["options"] = {"patterns": 2, "iterations": 3}
    content["model"]["init_args"] = {"width": 4}
    content["data"]["init_args"] = {"num_train": 16, "num_val": 8, "batch_size": 8}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    assert main(["fit", "--config", str(tmp_path / "config.yaml")]) == 0
    log = tmp_path / "runs" / "explanatory_graph" / "version_0"
    checkpoint = next((log / "checkpoints").iterdir())
    capsys.readouterr()
    command = ["graph", f"--config={tmp_path / 'config.yaml'}", "--ckpt", str(checkpoint)]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    assert str(tmp_path / "out" / "graph" / "graph.html") in capsys.readouterr().out
    after, during = (GraphResult.load(folder) for folder in (tmp_path / "out" / "graph", log / "interp/graph/end"))
    assert after.meta["checkpoint"] == checkpoint.name
    for one, other in zip(after.layers, during.layers, strict=True):
        assert torch.equal(one.position, other.position)
        assert torch.equal(one.parents, other.parents)


def test_graph_without_a_callback_says_what_is_missing(config, capsys):
    assert main(["graph", "--config", config()]) == 2
    assert "no ExplanatoryGraph among trainer.callbacks" in capsys.readouterr().err


class Bomb:
    def __reduce__(self):
        return os.mkdir, (str(Path(os.environ["BOMB"])),)


def test_checkpoint_cannot_run_anything(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("BOMB", str(tmp_path / "boom"))
    (tmp_path / "bad.ckpt").write_bytes(pickle.dumps({"state_dict": Bomb()}, protocol=2))
    assert main(["dissect", "--config", config(), "--ckpt", str(tmp_path / "bad.ckpt")]) == 2
    assert "cannot load" in capsys.readouterr().err
    assert not (tmp_path / "boom").exists()


def other_network(path):
    torch.save({"conv.weight": torch.zeros(1)}, path)


def no_file(path):
    pass


def text(path):
    path.write_text("hello")


def a_list(path):
    torch.save([1, 2], path)


@pytest.mark.parametrize("write", [other_network, no_file, text, a_list])
def test_checkpoint_that_does_not_fit_is_told_in_a_line(write, config, tmp_path, capsys):
    write(tmp_path / "x.ckpt")
    assert main(["dissect", "--config", config(), "--ckpt", str(tmp_path / "x.ckpt")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"lightning-interp: error: cannot load {tmp_path / 'x.ckpt'}: ")
    assert len(error.split(": ", 3)[3]) > 5


def test_errors_of_this_package_are_told_in_a_line(config, capsys):
    assert main(["fit", "--config", config(layers=["features.9"])]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("lightning-interp: error: unknown layer 'features.9'; did you mean")


def test_dissect_without_the_callback(config, tmp_path, capsys):
    content = yaml.safe_load(Path(config()).read_text())
    del content["trainer"]["callbacks"]
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump(content))
    assert main(["dissect", "--config", str(tmp_path / "bare.yaml")]) == 2
    assert "no NetworkDissection among trainer.callbacks" in capsys.readouterr().err


def test_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    assert main(["fit"]) == 2
    assert "pip install 'lightning-interp[cli]'" in capsys.readouterr().err


def test_config_cannot_name_any_callable_as_a_probe(config, tmp_path, capsys):
    probe = {"class_path": "subprocess.Popen", "init_args": {"args": ["mkdir", str(tmp_path / "boom")]}}
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", config(probe=probe)])
    assert ended.value.code == 2
    assert not (tmp_path / "boom").exists()


def parts(annotation):
    yield annotation
    for part in typing.get_args(annotation):
        if isinstance(part, list):
            for inner in part:
                yield from parts(inner)
        else:
            yield from parts(part)


def configurable():
    exported = [getattr(lightning_interp, name) for name in lightning_interp.__all__]
    probes = [
        kind for kind in exported if inspect.isclass(kind) and issubclass(kind, ProbeSet) and kind is not ProbeSet
    ]
    return [NetworkDissection, Every, *probes, FaceAttributes, Faces, PhotoConcepts, Photos]


@pytest.mark.parametrize("kind", configurable(), ids=lambda kind: kind.__name__)
def test_no_parameter_takes_any_callable(kind):
    hints = typing.get_type_hints(kind.__init__)
    for name in inspect.signature(kind).parameters:
        # What has no annotation would be taken from a config as anything.
        for part in parts(hints[name]):
            assert part is not typing.Any, f"{kind.__name__}({name}) takes anything"
            assert Callable not in (part, typing.get_origin(part)), f"{kind.__name__}({name}) takes any function"
