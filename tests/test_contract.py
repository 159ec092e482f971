"""What must hold of every method that measures: each question is put to each row of ``tests/contract.py``.

The page's list of tags against what is written is asked here too, once methods have pages: of the tags that
:func:`watched` notes, none may be missing from the page and none may be more.
"""

import dataclasses
import inspect
import os
import pickle
import pydoc
import re
import sys
import typing
import warnings
from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
import yaml
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.loggers.logger import Logger
from torch.utils.tensorboard import SummaryWriter

from lightning_interp import AtEnd, DatasetError, Every, load
from lightning_interp.cli import main
from tests.contract import BATCH, IMAGES, ROWS, SIDE, Faces, Network
from tests.helpers.harmless import differences, digest, fit
from tests.helpers.lightning import loader, make_trainer
from tests.helpers.quiet import LIGHTNING_NOISE
from tests.helpers.ranks import run_ranks, values

pytestmark = [
    pytest.mark.timeout(120),
    *map(pytest.mark.filterwarnings, LIGHTNING_NOISE),
    # A training goes on without the checkpoint callback that wrote its checkpoint.
    pytest.mark.filterwarnings(r"ignore:Be aware that when using `ckpt_path`, callbacks used"),
    # The network has one output, and knows of no relations.
    pytest.mark.filterwarnings("ignore:.*it compares attributes"),
]

QUESTIONS = set()


def of_every_method(test):
    """Put a question to every row; those that are known to fail must fail, until the row says so no more."""
    question = test.__name__.removeprefix("test_")
    QUESTIONS.add(question)

    def parameter(row):
        why = row.fails_today.get(question)
        return pytest.param(row, id=row.name, marks=[pytest.mark.xfail(strict=True, reason=why)] if why else [])

    return pytest.mark.parametrize("row", [parameter(row) for row in ROWS])(test)


# --- How results are compared ----------------------------------------------------------------------------------------


def leaves(thing, where=""):
    """By path, everything that a result is made of; containers are told apart by what they hold alone."""
    if dataclasses.is_dataclass(thing):
        held = {each.name: getattr(thing, each.name) for each in dataclasses.fields(thing)}
    elif hasattr(thing, "_asdict"):
        held = thing._asdict()
    elif isinstance(thing, list | tuple):
        held = dict(enumerate(thing))
    else:
        held = thing
    if not isinstance(held, Mapping):
        return {where: held}
    return {path: leaf for key, value in held.items() for path, leaf in leaves(value, f"{where}/{key}").items()}


def everything(row, result):
    """All that a file holds of a result."""
    return {path: leaf for path, leaf in leaves(result).items() if path.split("/")[1] not in row.unsaved}


def measured(row, result):
    """What a result says of the network, without the circumstances."""
    scores = leaves(result.scalars(), "/scalars") if hasattr(result, "scalars") else {}
    apart = ("/seconds", "/settings", "/meta", "/scalars/seconds")
    return {path: leaf for path, leaf in (everything(row, result) | scores).items() if not path.startswith(apart)}


def assert_same(some, others, tolerance=0.0):
    """Whole numbers are equal; others to the bit, or within the tolerance."""
    assert list(some) == list(others)
    for path in some:
        one, other = some[path], others[path]
        if not isinstance(one, float | torch.Tensor | np.ndarray):
            assert one == other, path
            continue
        one, other = np.asarray(one), np.asarray(other)
        assert (one.dtype, one.shape) == (other.dtype, other.shape), path
        if tolerance and one.dtype.kind == "f":
            np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance, err_msg=path)
        elif one.dtype.kind == "f":
            # NaN has many bit patterns, all of which say the same.
            one, other = (np.where(np.isnan(values), np.nan, values) for values in (one, other))
            assert one.tobytes() == other.tobytes(), path
        else:
            assert one.tobytes() == other.tobytes(), path


def timeless(state):
    """A state without wall times, which differ from run to run."""
    if isinstance(state, Mapping):
        return {key: timeless(value) for key, value in state.items() if not str(key).endswith("seconds")}
    return [timeless(value) for value in state] if isinstance(state, list | tuple) else state


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Tensors this small are slower on two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- One training a method, of which much is asked -------------------------------------------------------------------


class Noting(Logger):
    """Notes what it is given."""

    name = version = None

    def __init__(self):
        super().__init__()
        self.noted = []

    def log_metrics(self, metrics, step=None):
        self.noted.append(dict(metrics))

    def log_hyperparams(self, *args, **kwargs):
        pass


def train(path, callbacks, epochs, resume=None, **options):
    """A training without chance, so that it can be taken up again."""
    module = Network(dropout=0)
    trainer = make_trainer(path, callbacks=callbacks, max_epochs=epochs, **options)
    trainer.fit(module, loader(shuffle=False), loader(shuffle=False), ckpt_path=resume)
    return trainer, module


@pytest.fixture(scope="module")
def watch(tmp_path_factory):
    """Trains three epochs with a row's callback, once a row: what was logged, found and saved."""
    seen = {}

    def watched(row):
        if row.name not in seen:
            path, callback, logger = tmp_path_factory.mktemp(row.name), row.make(), Noting()
            fresh = pickle.dumps(callback)
            saving = ModelCheckpoint(path, filename="{epoch}", monitor=row.monitor, save_top_k=-1)
            options = {"enable_checkpointing": True, "logger": logger}
            trainer, module = train(path, [callback, saving], 3, **options)
            own = [{k: v for k, v in each.items() if k.startswith(f"{row.name}/")} for each in logger.noted]
            seen[row.name] = SimpleNamespace(
                path=path,
                fresh=fresh,
                callback=callback,
                module=module,
                metrics={tag: float(value) for tag, value in trainer.callback_metrics.items()},
                logged=[each for each in own if each],
                saving=saving,
                checkpoint=path / "epoch=1.ckpt",
            )
        return seen[row.name]

    return watched


# --- 1: nothing of it is seen in the training ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """A training without any callback, drawing random numbers wherever one can."""
    trace, _, trainer = fit(tmp_path_factory.mktemp("without"), [], module=Network)
    return trace, float(trainer.callback_metrics["val_loss"])


@of_every_method
def test_training_is_bit_equal_and_nothing_is_left_on_the_module(row, without, tmp_path):
    trace, _, trainer = fit(tmp_path, [row.make()], module=Network)
    assert differences(without[0], trace) == []
    assert float(trainer.callback_metrics["val_loss"]) == without[1]
    assert row.monitor in trainer.callback_metrics


# --- 1 and 4 on real processes: one start for all methods ------------------------------------------------------------


def measure_on(rank, world, path):
    """On this process: what happened in trainings without and with each callback, and what all of them find."""
    ddp = {"strategy": "ddp", "devices": world}
    traces = {}
    for row in (None, *ROWS) if world == 2 else ():
        name = row.name if row else "without"
        traces[name], _, _ = fit(path / name, [row.make()] if row else [], module=Network, max_epochs=1, **ddp)
    callbacks = [row.make() for row in ROWS]
    trainer = make_trainer(path / "validation", callbacks=callbacks, **ddp)
    trainer.validate(Network(exact=True), loader(shuffle=False), verbose=False)
    return traces, {row.name: measured(row, each.result) for row, each in zip(ROWS, callbacks, strict=True)}


@pytest.fixture(scope="module")
def on_ranks(tmp_path_factory):
    """What each of so many processes came to; started once."""
    seen = {}

    def measured_on(world):
        if world not in seen:
            seen[world] = values(run_ranks(measure_on, world, tmp_path_factory.mktemp(f"on_{world}"), timeout=90))
        return seen[world]

    return measured_on


@pytest.mark.ddp
@pytest.mark.slow
@of_every_method
def test_training_on_two_processes_is_bit_equal(row, on_ranks):
    (one, _), (other, _) = on_ranks(2)
    for traces in (one, other):
        assert differences(traces["without"], traces[row.name]) == []
    # Each has batches of its own, or nothing was shared out.
    assert differences(one["without"], other["without"])


@pytest.fixture(scope="module")
def alone():
    """What the functions find of an exact network, by the size of a batch."""
    seen = {}

    def measured_alone(row, batch_size=BATCH):
        key = row.name, batch_size
        if key not in seen:
            seen[key] = measured(row, row.measure(Network(exact=True), batch_size=batch_size))
        return seen[key]

    return measured_alone


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
@of_every_method
def test_processes_agree(row, world, on_ranks, alone):
    for _, found in on_ranks(world):
        assert_same(found[row.name], alone(row), tolerance=1e-6)


@pytest.mark.parametrize("batch_size", [1, IMAGES + 3])
@of_every_method
def test_batch_sizes_agree(row, batch_size, alone):
    assert_same(alone(row, batch_size), alone(row), tolerance=1e-6)


# --- 2: a trial run --------------------------------------------------------------------------------------------------


@of_every_method
def test_trial_run_looks_at_one_batch(row, tmp_path):
    probe, module, seen = Faces(), Network(), set()
    callback = row.make(probe)
    probe.read.clear()  # labels and regions may be found when the callback is made

    def note(module, args):
        images = args[0] if args[0].shape[-1] == SIDE else ()
        seen.update(image.detach().numpy().tobytes() for image in images)

    module.register_forward_pre_hook(note)
    trainer = make_trainer(tmp_path, fast_dev_run=True, callbacks=[callback])
    trainer.fit(module, loader(), loader(shuffle=False))
    assert (callback.result is not None) == row.tries
    assert len(set(probe.read)) <= BATCH
    assert len(seen) <= row.versions * BATCH


# --- 3: a training that is taken up again ----------------------------------------------------------------------------


@of_every_method
def test_resumed_training_goes_on(row, watch, tmp_path):
    whole, callback = watch(row), row.make()
    trainer, _ = train(tmp_path, [callback], 3, resume=whole.checkpoint)
    assert callback.last_epoch == 2
    # Values of before the interruption are in the state, if the method keeps any.
    assert digest(timeless(callback.state_dict())) == digest(timeless(whole.callback.state_dict()))
    again = {tag: float(value) for tag, value in trainer.callback_metrics.items()}
    assert_same(timeless(dict(sorted(again.items()))), timeless(dict(sorted(whole.metrics.items()))))


@of_every_method
def test_history_of_another_probe_set_is_dropped(row, watch):
    # As Lightning reads it: plain values alone.
    saved = torch.load(watch(row).checkpoint, weights_only=True)["callbacks"]
    callback = row.make(Faces(seed=1))
    with pytest.warns(UserWarning, match=f"{row.name}: .*another probe set") as warned:
        callback.load_state_dict(saved[callback.state_key])
    assert len(warned) == 1
    assert callback.state_dict() == row.make(Faces(seed=1)).state_dict()


# --- 5 and 12: what is logged ----------------------------------------------------------------------------------------


@of_every_method
def test_scalars_have_the_same_keys_at_every_probe(row, watch):
    logged = watch(row).logged
    # Before the training and after each epoch; a graph is learnt at the end of the fit once more.
    assert len(logged) >= 4
    assert {tuple(sorted(each)) for each in logged} == {tuple(sorted(logged[0]))}


@of_every_method
def test_tags_are_safe(row, watch):
    tags = {tag for each in watch(row).logged for tag in each}
    assert [tag for tag in tags if not re.fullmatch(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)+", tag)] == []
    # Files and some loggers do not tell capitals from small letters.
    assert len({tag.lower() for tag in tags}) == len(tags) > 0


@of_every_method
def test_every_score_can_be_monitored(row, watch):
    seen = watch(row)
    scores = {f"{row.name}/{key}": value for key, value in seen.callback.result.scalars().items()}
    assert scores.keys() <= seen.metrics.keys()
    logged = {tag: seen.metrics[tag] for tag in scores}
    # Lightning keeps them in single precision.
    assert timeless(logged) == pytest.approx(timeless(scores), rel=1e-6, nan_ok=True)


def known(tag):
    """The tag that says whether a score has a value: ``crr/makeup`` has ``crr_known/makeup``."""
    name, *layer = tag.split("/")
    score, context = (layer[1], layer[2:]) if len(layer) > 1 else (layer[0], [])
    return "/".join([name, *layer[:1], f"{score}_known", *context])


@of_every_method
def test_loggers_get_a_headline_that_a_person_can_watch(row, watch):
    seen = watch(row)
    by_subject = {}
    for tag in seen.logged[0]:
        by_subject.setdefault(tuple(tag.split("/")[:2]), []).append(tag)
    assert by_subject.pop((row.name, "seconds")) == [f"{row.name}/seconds"]
    assert all(0 < len(tags) <= 12 for tags in by_subject.values())
    for logged in seen.logged:
        for tag, value in logged.items():
            # Where there is no value, a word; and where there may be none, 1 while there is one.
            assert logged.get(known(tag), float(not np.isnan(value))) == float(not np.isnan(value)), tag
    # The rest is there to be monitored.
    scores = {f"{row.name}/{key}" for key in seen.callback.result.scalars()}
    assert {*scores, *seen.logged[0]} <= set(seen.metrics)


@of_every_method
def test_all_scores_are_sent_if_asked(row, tmp_path):
    callback, logger = row.make(scalars="all", schedule=Every()), Noting()
    train(tmp_path, [callback], 1, logger=logger)
    sent = {tag for each in logger.noted for tag in each}
    assert {f"{row.name}/{key}" for key in callback.result.scalars()} <= sent
    with pytest.raises(ValueError, match="scalars must be 'headline' or 'all', got 'some'"):
        row.make(scalars="some")


@of_every_method
def test_at_end_probes_the_trained_network_once(row, watch, tmp_path):
    callback, logger = row.make(schedule=AtEnd()), Noting()
    trainer, module = train(tmp_path, [callback], 3, logger=logger)
    assert {f"{row.name}/{key}" for key in callback.result.scalars()} <= set(trainer.callback_metrics)
    own = [each for each in logger.noted if any(tag.startswith(f"{row.name}/") for tag in each)]
    assert len(own) == 1
    assert callback.result.meta["epoch"] is None
    folder = tmp_path / "interp" / row.name
    assert {path.name for path in folder.iterdir() if path.is_dir()} - {"report_images"} == {"end"}
    assert_same(measured(row, callback.result), measured(row, row.measure(module)))


@of_every_method
def test_every_option_is_shown_where_it_arrives(row):
    """``help()``, completion and YAML readers see what the engine takes, with types and defaults."""
    engine = inspect.signature(type(row.make().engine)).parameters
    own = [p for p in engine.values() if p.kind is p.KEYWORD_ONLY and p.name not in row.callback_decides]
    callback, function = inspect.signature(row.callback).parameters, inspect.signature(row.function).parameters
    assert {"batch_size", "on_bad_image", "num_workers", "loader_timeout"} <= {p.name for p in own}
    for parameter in own:
        assert callback[parameter.name] == parameter
        assert typing.get_type_hints(row.callback.__init__)[parameter.name] == parameter.annotation
    for parameter in (p for p in engine.values() if p.kind is p.KEYWORD_ONLY):
        assert function[parameter.name] == parameter
    assert {"schedule", "scalars", "on_error", "name", "timeout"} <= set(callback)
    assert not any(p.kind is p.VAR_KEYWORD for p in (*callback.values(), *function.values()))
    shown = pydoc.plain(pydoc.render_doc(row.callback))
    assert all(f"{p.name}: " in shown for p in own)


@of_every_method
def test_a_misspelt_option_is_named(row):
    with pytest.raises(TypeError, match="unknown option 'batchsize'; did you mean 'batch_size'"):
        row.make(batchsize=3)
    with pytest.raises(TypeError, match="unknown option 'batchsize'; did you mean 'batch_size'"):
        row.measure(Network(), batchsize=3)


@of_every_method
def test_checkpoints_can_be_chosen_by_a_score(row, watch):
    seen = watch(row)
    assert sorted(path.name for path in seen.path.glob("*.ckpt")) == [f"epoch={epoch}.ckpt" for epoch in range(3)]
    by_epoch = [each[row.monitor] for each in seen.logged[1:4]]
    assert float(seen.saving.best_model_score) == pytest.approx(min(by_epoch))


# --- 6: output that fails --------------------------------------------------------------------------------------------


class Failing(TensorBoardLogger):
    """Takes only what Lightning itself logs, which no callback could survive the loss of."""

    def log_metrics(self, metrics, step=None):
        if "epoch" not in metrics:
            raise OSError("no scalars")
        super().log_metrics(metrics, step)


def no_ink(*args, **kwargs):
    raise OSError("no ink")


def break_logger(path, monkeypatch):
    for kind in ("image", "text", "histogram_raw", "custom_scalars"):
        monkeypatch.setattr(SummaryWriter, f"add_{kind}", no_ink)
    return Failing(path)


def break_figures(path, monkeypatch):
    for how in ("new", "fromarray"):
        monkeypatch.setattr(PIL.Image, how, no_ink)
    return TensorBoardLogger(path)


def break_disk(path, monkeypatch):
    (path / "interp").write_text("in the way")
    return False  # files go where the trainer's own do


@pytest.mark.parametrize("break_it", [break_logger, break_figures, break_disk])
@of_every_method
def test_failing_output_is_one_warning_a_kind(row, break_it, tmp_path, monkeypatch):
    logger, callback = break_it(tmp_path, monkeypatch), row.make()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer, module = train(tmp_path, [callback], 1, logger=logger)
    said = [str(each.message) for each in caught if str(each.message).startswith(f"{row.name}: ")]
    kinds = re.findall(rf"^{row.name}: could not write (\w+): \w*Error", "\n".join(said), re.MULTILINE)
    assert len(kinds) == len(set(kinds))
    assert kinds or (break_it is break_figures and not row.draws)
    assert (trainer.current_epoch, len(module.losses)) == (1, 4)
    assert callback.last_epoch == 0
    assert row.monitor in trainer.callback_metrics


# --- 7: an image that cannot be read ---------------------------------------------------------------------------------


@of_every_method
def test_damaged_image_is_named(row, tmp_path):
    with pytest.raises(DatasetError, match=r"face_3\.png"):
        row.measure(Network(), Faces(damaged=(3,)))
    with pytest.raises(DatasetError, match=r"face_3\.png"):
        train(tmp_path, [row.make(Faces(damaged=(3,)))], 1)


@pytest.mark.filterwarnings("ignore:left out. 1 of 17 images")
@of_every_method
def test_damaged_image_is_skipped_and_counted(row, tmp_path):
    callback = row.make(Faces(damaged=(3,)), on_bad_image="skip")
    trainer = make_trainer(tmp_path, callbacks=[callback])
    trainer.validate(Network(), loader(shuffle=False), verbose=False)
    assert callback.result.settings["num_skipped"] == 1


@pytest.mark.filterwarnings("ignore:left out. 1 of 17 images")
@of_every_method
def test_damaged_image_is_skipped_by_the_function(row):
    result = row.measure(Network(), Faces(damaged=(3,)), on_bad_image="skip")
    assert result.settings["num_skipped"] == 1


# --- 8: files --------------------------------------------------------------------------------------------------------


@of_every_method
def test_saved_is_loaded_bit_for_bit(row, watch, tmp_path):
    result = watch(row).callback.result
    row.save(result, tmp_path / "new")
    loaded = row.load(tmp_path / "new")
    assert type(loaded) is row.result
    assert_same(everything(row, loaded), everything(row, result))
    # What was written during the training is the same kind of folder.
    assert row.load(watch(row).path / "interp" / row.name / "epoch_0002").meta["epoch"] == 2
    assert [path.name for path in watch(row).path.rglob("*") if path.name.startswith(".") or "tmp" in path.suffix] == []


@of_every_method
def test_a_folder_is_read_whatever_it_holds(row, watch, tmp_path):
    result = watch(row).callback.result
    path = result.save(tmp_path)
    assert path.name == row.result.FILE
    for loaded in (
        row.result.load(tmp_path),
        load(tmp_path),
        load(str(watch(row).path / "interp" / row.name / "epoch_0002")),
    ):
        assert type(loaded) is row.result
        assert_same(timeless(measured(row, result)), timeless(measured(row, loaded)))


@of_every_method
def test_half_written_is_nothing(row, watch, tmp_path, monkeypatch):
    """Files take their names in one step; if that fails, none is left, and no result that could be taken for one."""
    monkeypatch.setattr(os, "replace", no_ink)
    with pytest.raises(OSError, match="no ink"):
        row.save(watch(row).callback.result, tmp_path)
    monkeypatch.undo()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    with pytest.raises(DatasetError):
        row.load(tmp_path)


# --- 9: one finding, however it is come by ---------------------------------------------------------------------------


@of_every_method
def test_callback_and_function_find_the_same(row, watch):
    seen = watch(row)
    result = row.measure(seen.module)
    assert type(result) is row.result
    assert_same(measured(row, seen.callback.result), measured(row, result))


@pytest.fixture
def _own_process(monkeypatch, tmp_path):
    """Undoes what a process that ends after its command need not."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["lightning-interp"])
    # Lightning 2.6 calls functions that newer versions of jsonargparse deprecate.
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_own_process")
@of_every_method
def test_command_line_finds_the_same(row, watch, tmp_path):
    own = {"probe": {"class_path": "tests.contract.Faces"}, "batch_size": BATCH, **row.options, **row.callback_alone}
    callback = {"class_path": f"lightning_interp.{row.callback.__name__}", "init_args": own}
    trainer = {"accelerator": "cpu", "logger": False, "callbacks": [callback]}
    model = {"class_path": "tests.contract.Network", "init_args": {"dropout": 0.0}}
    config = {"seed_everything": 0, "trainer": trainer, "model": model}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    checkpoint = ["--ckpt", str(watch(row).path / "epoch=2.ckpt")]
    assert main(["probe", "--config", str(tmp_path / "config.yaml"), *checkpoint, "--output", str(tmp_path)]) == 0
    found = row.load(tmp_path / row.name)
    assert_same(measured(row, found), measured(row, watch(row).callback.result))


# --- 10 and 11: results and callbacks as objects ---------------------------------------------------------------------


@of_every_method
def test_result_prints_as_one_line(row, watch):
    text = repr(watch(row).callback.result)
    assert "\n" not in text
    assert len(text) < 300


@of_every_method
def test_callback_and_result_travel_by_pickle(row, watch):
    seen = watch(row)
    before, after = pickle.loads(seen.fresh), pickle.loads(pickle.dumps(seen.callback))
    assert before.state_dict() == row.make().state_dict()
    assert digest(after.state_dict()) == digest(seen.callback.state_dict())
    for result in (after.result, pickle.loads(pickle.dumps(seen.callback.result))):
        assert_same(leaves(result), leaves(seen.callback.result))


# --- The table itself ------------------------------------------------------------------------------------------------


def test_known_failures_are_of_questions_that_are_asked():
    assert {question for row in ROWS for question in row.fails_today} <= QUESTIONS


def test_rows_have_names_of_their_own():
    assert len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert row.make().name == row.name
