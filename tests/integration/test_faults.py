"""Real faults of one process: broken files, hostile activations, dying workers, full disks, signals."""

import importlib.util
import json
import math
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from lightning_interp import (
    Concept,
    DatasetError,
    Every,
    Labels,
    NetworkDissection,
    ProbeSet,
    SegmentationFolder,
    dissect,
    load_result,
)
from lightning_interp.results import files
from tests.helpers.harmless import count_hooks, global_flags, make_dissection, module_state, random_state
from tests.helpers.lightning import loader, make_module, make_trainer
from tests.helpers.probes import RandomProbe
from tests.helpers.quiet import LIGHTNING_NOISE
from tests.helpers.ranks import run_ranks, values
from tests.helpers.results import HOSTILE, assert_same_counts
from tests.methods.dissection.reference.dissection import activations, dissect_dense

pytestmark = [pytest.mark.timeout(90), *map(pytest.mark.filterwarnings, LIGHTNING_NOISE)]

LAYER = "features.4"
MONITORED = f"dissect/{LAYER}/detectors"


def train(path, dissection, *more, module=None, epochs=2, **options):
    module = module or make_module()
    trainer = make_trainer(path, callbacks=[dissection, *more], max_epochs=epochs, **options)
    trainer.fit(module, loader(), loader(shuffle=False))
    return trainer


def over(probe, **options):
    return NetworkDissection(probe, [LAYER], **{"batch_size": 4, "quantile": 0.05, "gallery_rows": 2} | options)


def trace(module):
    return module_state(module) | global_flags()


@contextmanager
def nothing_left_on(module):
    before = count_hooks(module), [part.training for part in module.modules()], global_flags()
    yield
    assert (count_hooks(module), [part.training for part in module.modules()], global_flags()) == before


# --- F3-F7: what is read ---------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    """Six photos with masks of two classes."""
    root, generator = tmp_path / "photos", np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(6):
        pixels = generator.integers(0, 255, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{number}.jpg")
        Image.fromarray(generator.integers(0, 3, (24, 24), dtype=np.uint8)).save(root / "masks" / f"{number}.png")
    classes = [{"id": 1, "name": "cat"}, {"id": 2, "name": "ear", "category": "part"}]
    (root / "classes.json").write_text(json.dumps(classes))
    return root


def read(root):
    return SegmentationFolder(root, size=(24, 24), mask_size=(12, 12), normalize=None)


def truncate(photo):
    content = photo.read_bytes()
    photo.write_bytes(content[: len(content) // 2])


DAMAGE = {
    "truncated": truncate,
    "HTML": lambda photo: photo.write_text("<html>404 Not Found</html>"),
    "empty": lambda photo: photo.write_bytes(b""),
    "gone": lambda photo: photo.unlink(),
}


# One with a loader process: torch takes five seconds to end one whose error was raised.
@pytest.mark.parametrize(("damage", "workers"), [*((damage, 0) for damage in DAMAGE), ("truncated", 1)])
def test_damaged_photo_is_named(photos, damage, workers):
    probe = read(photos)
    DAMAGE[damage](photos / "images" / "3.jpg")
    module = make_module()
    with nothing_left_on(module), pytest.raises(DatasetError, match=r"images/3\.jpg"):
        dissect(module, probe, [LAYER], batch_size=2, num_workers=workers)


@pytest.mark.parametrize("damage", ["HTML", "empty"])
def test_photo_that_never_was_one_is_named_at_once(photos, damage):
    DAMAGE[damage](photos / "images" / "3.jpg")
    with pytest.raises(DatasetError, match=r"images/3\.jpg"):
        read(photos)


class Damaging(Callback):
    """Breaks a photo after the first epoch."""

    def __init__(self, photo):
        self.photo = photo

    def on_train_epoch_end(self, trainer, module):
        truncate(self.photo)


def test_photo_damaged_while_training_ends_it(tmp_path, photos):
    dissection = over(read(photos))
    with pytest.raises(DatasetError, match=r"images/3\.jpg"):
        train(tmp_path, dissection, Damaging(photos / "images" / "3.jpg"))
    assert [entry["epoch"] for entry in dissection.history] == [-1, 0]
    assert sorted(entry.name for entry in (tmp_path / "interp" / "dissect").iterdir()) == ["epoch_0000", "start"]


def test_photo_damaged_while_training_is_left_out_if_asked(tmp_path, photos):
    dissection = over(read(photos), on_bad_image="skip")
    with pytest.warns(UserWarning, match=r"left out: 1 of 6 images .* image 3: DatasetError: .*3\.jpg") as warned:
        train(tmp_path, dissection, Damaging(photos / "images" / "3.jpg"), epochs=3)
    assert sum("left out" in str(w.message) for w in warned) == 1
    results = [load_result(path.parent) for path in sorted(tmp_path.glob("interp/dissect/*/dissection.json"))]
    assert [(r.num_images, r.settings["num_skipped"]) for r in results] == [(6, 0), (5, 1), (5, 1), (6, 0)]


def break_mask(root, value, size=24):
    mask = np.zeros((size, size), dtype=np.uint8)
    mask[5, 7] = value
    Image.fromarray(mask).save(root / "masks" / "3.png")


def test_label_that_is_no_class_is_named(photos):
    break_mask(photos, 77)
    with pytest.raises(DatasetError, match=r"masks/3\.png.*77"):
        dissect(make_module(), read(photos), [LAYER])


def test_mask_of_another_size_is_named(photos):
    probe = read(photos)
    break_mask(photos, 1, size=20)
    with pytest.raises(DatasetError, match=r"masks/3\.png"):
        read(photos)
    with pytest.raises(DatasetError, match=r"masks/3\.png"):
        dissect(make_module(), probe, [LAYER])


@pytest.mark.parametrize("number", [-1, 0, 70_000])
def test_class_number_out_of_range_is_named(photos, number):
    (photos / "classes.json").write_text(json.dumps([{"id": number, "name": "cat"}]))
    with pytest.raises(DatasetError, match=rf"classes\.json, class 1: id {number}"):
        read(photos)


class Labelled(RandomProbe):
    def __init__(self, plane):
        super().__init__(6)
        self.plane = plane

    def labels(self, index):
        return Labels({"object": self.plane}) if index == 3 else super().labels(index)


@pytest.mark.parametrize(
    "plane",
    [torch.full((12, 12), -1), torch.full((12, 12), 301), torch.zeros(10, 12).long(), torch.full((12, 12), math.nan)],
    ids=["negative", "too large", "other size", "no numbers"],
)
def test_bad_plane_of_a_users_own_set_is_named(plane):
    with pytest.raises(DatasetError, match="image 3 of Labelled"):
        dissect(make_module(), Labelled(plane), [LAYER])


def test_concept_without_pixels_has_no_score():
    layer = dissect(make_module(), RandomProbe(9), [LAYER], quantile=0.05, iou_threshold=0.0)[LAYER]
    column = [concept.name for concept in layer.concepts].index("never")
    assert np.isnan(layer.iou[:, column]).all()
    assert column not in layer.best
    assert np.isnan(layer.information_quality[:, column]).all()


class Empty(RandomProbe):
    def __init__(self):
        super().__init__(0)


def test_empty_probe_set_is_refused_at_once():
    with pytest.raises(DatasetError, match="the probe set is empty"):
        over(Empty())


# --- F8, F9: what the network gives ----------------------------------------------------------------------------------


class Breaking(nn.Module):
    """In eval mode, on some images: NaN in unit 0, infinities in 1 and 2; unit 3 is constant, 4 is dead."""

    def forward(self, x):
        if self.training:
            return x
        x = x.clone()
        some = x[:, 5, 0, 0] > x[:, 5, 3, 3]
        x[some, 0, 2, 1] = torch.nan
        x[some, 1, 1] = torch.inf
        x[~some, 2] = -torch.inf
        x[:, 3], x[:, 4] = 0.7, 0.0
        return x


def breaking_module():
    module = make_module()
    module.features.append(Breaking())
    # The mean over a NaN must not reach the loss that Lightning checks.
    module.validation_step = lambda batch, batch_idx: None
    return module


@pytest.mark.parametrize("budget", [2**30, 0])
def test_units_that_break_are_named_once_and_harm_no_other(tmp_path, budget):
    module, probe = breaking_module(), RandomProbe(13)
    dissection = NetworkDissection(probe, ["features.6"], batch_size=4, quantile=0.05, byte_budget=budget)
    with pytest.warns(UserWarning, match=r"layer 'features\.6': 3 of 6 units .* \(0, 1, 2\): not scored") as warned:
        trainer = train(tmp_path, dissection, module=module)
    assert sum("not scored" in str(w.message) for w in warned) == 1
    layer = dissection.result["features.6"]
    assert layer.status == (*["non-finite"] * 3, "constant", "constant", "ok")
    assert (layer.nonfinite[:3] > 0).all()
    assert not layer.nonfinite[3:].any()
    assert trainer.callback_metrics["dissect/features.6/invalid_units"] == 5
    assert all(math.isfinite(value) for value in trainer.callback_metrics.values())
    acts = activations(module, module.features[6], probe)
    expected = dissect_dense(acts[:, 5:].contiguous(), probe, quantile=0.05)
    assert layer.thresholds[5] == expected["thresholds"][0]
    for name, tallies in (("real", layer.tallies), ("chance", layer.chance)):
        assert np.array_equal(tallies.intersection[5], expected[name]["intersection"][0])
        assert np.array_equal(tallies.unit_area[5], expected[name]["unit_area"][0])


@pytest.mark.filterwarnings("ignore:layer .* not scored")
@pytest.mark.parametrize("preset", ["cvpr2017", "pnas2020"])
def test_broken_or_constant_unit_is_never_a_detector(preset):
    module = breaking_module()
    layer = dissect(module, RandomProbe(13), ["features.6"], preset=preset, iou_threshold=0.0)["features.6"]
    assert layer.is_detector.tolist() == [False] * 5 + [True]
    assert not layer.valid[:5].any()
    assert layer.best[:5].tolist() == [-1] * 5


# --- F10, F11: loader processes --------------------------------------------------------------------------------------


class Worker(RandomProbe):
    """Does something at image 5, but only in a loader process."""

    def __init__(self, act):
        super().__init__(12)
        self.act = act

    def image(self, index):
        if index == 5 and torch.utils.data.get_worker_info() is not None:
            self.act()
        return super().image(index)


def leave():
    os._exit(3)


def hang():
    time.sleep(1000)


def train_with_a_failing_loader(rank, world, path, act):
    """In a process of its own: torch's SIGCHLD handler may raise of the same dead loader again, at any later place."""
    module = make_module()
    message = ""
    try:
        train(path, over(Worker(act), num_workers=1, loader_timeout=1.5), module=module)
    except RuntimeError as error:
        message = str(error)
    return message, count_hooks(module)


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("act", "expected"),
    [(leave, "exited unexpectedly"), (hang, "timed out after 1.5 seconds")],
    ids=["killed", "hangs"],
)
def test_loader_process_that_does_not_answer_ends_the_training(tmp_path, act, expected):
    ((message, hooks),) = values(run_ranks(train_with_a_failing_loader, 1, tmp_path, act, timeout=40))
    assert expected in message
    assert hooks == 0
    assert not (tmp_path / "interp").exists()


# --- F15-F18: what is written ----------------------------------------------------------------------------------------


def train_on_a_full_disk(rank, world, path, limit):
    """No file may grow past the limit, as if the disk were full; what was said, and the scores."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = train(path, over(RandomProbe(12)))
    said = [str(w.message) for w in caught if "could not write" in str(w.message)]
    return said, trainer.current_epoch, MONITORED in trainer.callback_metrics


@pytest.mark.ddp
@pytest.mark.parametrize("limit", [100, 2048])
def test_full_disk_is_one_warning_a_kind_and_leaves_no_part_of_a_file(tmp_path, limit):
    ((said, epochs, scored),) = values(run_ranks(train_on_a_full_disk, 1, tmp_path, limit, timeout=40))
    assert sorted(text.split(":")[1] for text in said) == [" could not write files", " could not write report"]
    assert all("File too large" in text for text in said)
    assert epochs == 2
    assert scored
    assert not list(tmp_path.rglob(".*"))
    assert not list(tmp_path.rglob("dissection.json"))
    for table in tmp_path.rglob("*.csv"):
        assert len(table.read_text().splitlines()) == 1 + 6


def train_with_tensorboard_on_a_full_disk(rank, world, path, limit):
    """As above, with TensorBoard, and a validation afterwards, for which it opens another file."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    logger = TensorBoardLogger(path, name="tb", version=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = train(path, over(RandomProbe(12)), logger=logger, log_every_n_steps=1, epochs=4)
        said = [str(w.message) for w in caught if "Training goes on" in str(w.message)]
        epochs, scored = trainer.current_epoch, MONITORED in trainer.callback_metrics
        trainer.validate(trainer.lightning_module, loader(shuffle=False), verbose=False)
    return said, epochs, scored


@pytest.mark.ddp
@pytest.mark.parametrize("limit", [1_000, 30_000, 100_000])
def test_tensorboard_on_a_full_disk_is_one_warning_and_training_goes_on(tmp_path, limit):
    outcomes = run_ranks(train_with_tensorboard_on_a_full_disk, 1, tmp_path, limit, timeout=60)
    ((said, epochs, scored),) = values(outcomes)
    (lost,) = [text for text in said if "TensorBoard" in text]
    assert "File too large" in lost
    assert str(tmp_path / "tb" / "version_0") in lost
    assert epochs == 4
    assert scored
    EventAccumulator(str(tmp_path / "tb" / "version_0")).Reload()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_tensorboard_folder_turned_into_a_file_is_one_warning_and_training_goes_on(tmp_path):
    removing = Removing(tmp_path / "tb", replace=True)
    logger = TensorBoardLogger(removing.folder, name="run", version=0)
    with pytest.warns(UserWarning, match="could not (be written|write).* NotADirectoryError") as warned:
        trainer = train(tmp_path, over(RandomProbe(12)), removing, logger=logger, epochs=4)
    assert sum("TensorBoard log in" in str(w.message) for w in warned) == 1
    assert trainer.current_epoch == 4
    assert MONITORED in trainer.callback_metrics


def die_while_writing(rank, world, path):
    def die(source, target):
        if Path(target).name == "dissection.json":
            os.kill(os.getpid(), signal.SIGKILL)
        os.rename(source, target)

    files.os.replace = die
    train(path, over(RandomProbe(12)))


@pytest.mark.ddp
def test_process_killed_while_writing_leaves_no_result_that_could_be_taken_for_one(tmp_path):
    (outcome,) = run_ranks(die_while_writing, 1, tmp_path, timeout=40)
    assert outcome.signal == signal.SIGKILL
    folder = tmp_path / "interp" / "dissect" / "start"
    assert list(folder.glob("*.safetensors"))
    with pytest.raises(DatasetError, match=r"dissection\.json"):
        load_result(folder)
    dissection = over(RandomProbe(12))
    train(tmp_path, dissection)
    assert load_result(folder).num_images == 12
    assert_same_counts(load_result(tmp_path / "interp" / "dissect" / "epoch_0001"), dissection.result)


class Removing(Callback):
    """Removes the log folder after the first epoch, and may put a file in its place."""

    def __init__(self, folder, replace):
        self.folder, self.replace = folder, replace

    def on_train_epoch_end(self, trainer, module):
        if trainer.current_epoch == 0:
            shutil.rmtree(self.folder)
            if self.replace:
                self.folder.write_text("in the way")


def test_removed_log_folder_is_made_again(tmp_path):
    folder = tmp_path / "interp"
    train(tmp_path, over(RandomProbe(12)), Removing(folder, replace=False))
    assert load_result(folder / "dissect" / "epoch_0001").meta["epoch"] == 1


def test_log_folder_turned_into_a_file_is_one_warning_a_kind(tmp_path):
    folder = tmp_path / "interp"
    with pytest.warns(UserWarning, match="dissect: could not write (files|report): NotADirectoryError") as warned:
        trainer = train(tmp_path, over(RandomProbe(12)), Removing(folder, replace=True), epochs=4)
    said = [text for text in (str(w.message) for w in warned) if text.startswith("dissect")]
    assert sum("write files" in text for text in said) == sum("write report" in text for text in said) == 1
    assert len(said) == 2
    assert trainer.current_epoch == 4
    assert MONITORED in trainer.callback_metrics


WITHOUT_TENSORBOARD = """
    import importlib.metadata as metadata
    import sys
    from pathlib import Path

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("tensorboard", "tensorboardX"):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    def hiding(original):
        def look_up(name):
            if name.lower() in ("tensorboard", "tensorboardx"):
                raise metadata.PackageNotFoundError(name)
            return original(name)
        return look_up

    sys.meta_path.insert(0, Blocker())
    metadata.version, metadata.distribution = hiding(metadata.version), hiding(metadata.distribution)

    from tests.helpers.harmless import make_dissection
    from tests.helpers.lightning import loader, make_module, make_trainer

    trainer = make_trainer(Path(sys.argv[1]), callbacks=[make_dissection()], logger=True)
    trainer.fit(make_module(), loader(), loader(shuffle=False))
    print(type(trainer.logger).__name__, "tensorboard" in sys.modules)
"""


def test_without_tensorboard_scores_go_to_the_csv_logger(tmp_path):
    script = textwrap.dedent(WITHOUT_TENSORBOARD)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=root, capture_output=True, text=True, timeout=80, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["CSVLogger", "False"]
    (table,) = tmp_path.rglob("metrics.csv")
    assert MONITORED in table.read_text().splitlines()[0]
    assert len(list(tmp_path.rglob("dissection.json"))) == 3


# --- F19: a large layer ----------------------------------------------------------------------------------------------


class Large(nn.Module):
    """64 maps of 112 x 112 for an image: 49 MiB for a batch of 16, 0.4 GiB upsampled in float64 to 224 x 224."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 64, 3, padding=1)

    def forward(self, x):
        return self.layer(x)


class Wide(RandomProbe):
    def __init__(self):
        super().__init__(32, size=112, mask_size=(224, 224))


def peak_above_the_forward(rank, world, budget):
    model, probe = Large(), Wide()
    with torch.no_grad():
        for _ in range(2):
            model(torch.stack([probe.image(i) for i in range(16)]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = dissect(model, probe, ["layer"], batch_size=16, byte_budget=budget)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, result


@pytest.mark.ddp
def test_large_layer_stays_within_its_budget():
    ((small, first),) = values(run_ranks(peak_above_the_forward, 1, 2**22, timeout=80))
    ((large, second),) = values(run_ranks(peak_above_the_forward, 1, 2**30, timeout=80))
    assert_same_counts(first, second)
    # Some copies of a batch's maps, 49 MiB each; upsampled they would be eight times that.
    assert small < 8 * 49
    assert large < 8 * 49


def dissect_without_memory(rank, world):
    model = Large()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 2**24, used + 3 * 2**24))
    try:
        dissect(model, Wide(), ["layer"], batch_size=32)
    except RuntimeError as error:
        return str(error), count_hooks(model), model.training
    return None


@pytest.mark.ddp
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the limit is set from /proc")
def test_maps_that_do_not_fit_are_refused_with_the_figure():
    (told,) = values(run_ranks(dissect_without_memory, 1, timeout=60))
    text, hooks, training = told
    assert "you tried to allocate" in text
    assert (hooks, training) == (0, True)


# --- F20-F22: signals and pickling -----------------------------------------------------------------------------------


class Signalling(RandomProbe):
    """Sends this process a signal at image 9 and notes what is read."""

    def __init__(self, number):
        super().__init__(40)
        self.number, self.seen = number, []

    def image(self, index):
        self.seen.append(index)
        if index == 9:
            os.kill(os.getpid(), self.number)
        return super().image(index)


@pytest.fixture
def _handlers():
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # A shell that starts the tests in the background has its children ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_handlers")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_in_a_probe_ends_it_within_a_batch_and_leaves_no_trace(tmp_path, number):
    probe, module = Signalling(number), make_module()
    module.features[1].eval()
    dissection = over(probe)
    seen, original = {}, dissection.on_train_start

    def watched(trainer, pl_module):
        seen["before"] = trace(pl_module), random_state()
        try:
            original(trainer, pl_module)
        finally:
            seen["after"] = trace(pl_module), random_state()

    dissection.on_train_start = watched
    with pytest.raises(SystemExit):
        train(tmp_path, dissection, module=module, num_sanity_val_steps=0)
    # The example, then the batches up to the one in which the signal came, and the next one at most.
    assert probe.seen == [0, *range(12)] if number == signal.SIGTERM else [0, *range(10)]
    assert seen["before"] == seen["after"]
    assert dissection.result is None
    assert not (tmp_path / "interp").exists()


def test_stopped_probe_is_made_up_for_by_the_next(tmp_path):
    """A probe that was told to stop counts as none: the schedule takes it up again."""
    dissection = over(RandomProbe(12), schedule=Every(n_epochs=5, at_end=False))
    asked, measure = [], type(dissection.engine).__call__

    class Stopped(type(dissection.engine)):
        def __call__(self, *args, **options):
            asked.append(len(dissection.history))
            return None if len(asked) == 1 else measure(self, *args, **options)

    dissection.engine.__class__ = Stopped
    train(tmp_path, dissection, epochs=3, num_sanity_val_steps=0)
    assert [entry["epoch"] for entry in dissection.history] == [1]
    assert asked == [0, 0]


def train_pickled(rank, world, path, dissection):
    train(path, dissection)
    return dissection.result


@pytest.mark.ddp
def test_callback_can_be_sent_to_another_process(tmp_path):
    dissection = make_dissection()
    again = pickle.loads(pickle.dumps(dissection))
    assert again.state_key == dissection.state_key
    (elsewhere,) = values(run_ranks(train_pickled, 1, tmp_path / "1", dissection, timeout=40))
    assert elsewhere.num_images == 14
    assert dissection.result is None


# --- F24: names ------------------------------------------------------------------------------------------------------


class Hostile(ProbeSet):
    def __init__(self):
        self.mask_size = (8, 8)
        names = enumerate(HOSTILE, start=1)
        self.concepts = tuple(Concept(n, name, ("object", "$x_1$ <b>|")[n % 2]) for n, name in names)

    def __len__(self):
        return 12

    def image(self, index):
        return torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(index))

    def labels(self, index):
        generator = torch.Generator().manual_seed(index)
        planes = torch.randint(len(HOSTILE) + 1, (3, 2, 2), generator=generator)
        return Labels({"object": planes.repeat_interleave(4, 1).repeat_interleave(4, 2)})


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="charts are part of the test")
def test_hostile_concept_names_reach_every_output(tmp_path):
    dissection = over(Hostile(), iou_threshold=0.0, on_error="raise")
    logger = TensorBoardLogger(tmp_path, name=None, version="")
    train(tmp_path, dissection, logger=logger)
    layer = dissection.result[LAYER]
    assert len({layer.concepts[best].name for best in layer.best}) > 2
    tags = EventAccumulator(str(tmp_path), size_guidance={"images": 0, "scalars": 0}).Reload().Tags()
    assert {tag.removeprefix(f"dissect/{LAYER}/") for tag in tags["images"]} >= {"concepts", "timeline", "units"}
    bad = [tag for tag in tags["scalars"] + tags["images"] if not tag.isascii() or set(tag) & set("<>|$")]
    assert not bad
    page = (tmp_path / "interp" / "dissect" / "report.html").read_text()
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    again = load_result(tmp_path / "interp" / "dissect" / "epoch_0001")
    assert_same_counts(again, dissection.result)
