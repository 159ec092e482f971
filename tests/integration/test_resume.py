"""A training that is taken up again: no epoch twice, nothing lost, the same scores for the same checkpoint."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import nn

from lightning_interp import Every, dissect, load_result
from tests.helpers.harmless import count_hooks, digest, make_dissection, make_recorder, module_state, seed_all
from tests.helpers.lightning import loader, make_module, make_trainer
from tests.helpers.planted import make_planted, planted_dissection, planted_loader
from tests.helpers.probes import RandomProbe
from tests.helpers.quiet import LIGHTNING_NOISE
from tests.helpers.results import assert_same_counts

pytestmark = [pytest.mark.filterwarnings(text) for text in LIGHTNING_NOISE]
pytestmark += [
    # The folder of the first part is there on purpose.
    pytest.mark.filterwarnings(r"ignore:Checkpoint directory .* exists and is not empty"),
    # Some of these trainings go on without the callback that wrote the checkpoint.
    pytest.mark.filterwarnings(r"ignore:Be aware that when using `ckpt_path`, callbacks used"),
    # A checkpoint within an epoch: its first half is not repeated, but its data are not the same.
    pytest.mark.filterwarnings(r"ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings(r"ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]


def plain_module():
    """Without dropout: Lightning keeps no random state, so only then is a resumed training the same."""
    module = make_module()
    module.features[3] = nn.Identity()
    return module


def train(path, callbacks, epochs, resume=None, module=None, **options):
    module = module or plain_module()
    checkpoint = ModelCheckpoint(path, save_last=True, save_top_k=0)
    trainer = make_trainer(
        path, callbacks=[*callbacks, checkpoint], max_epochs=epochs, enable_checkpointing=True, **options
    )
    seed_all()
    # No weights_only: the default has to do.
    trainer.fit(module, loader(shuffle=False), loader(shuffle=False), ckpt_path=resume)
    return module, trainer


def told(dissection):
    return [(entry["epoch"], entry["step"], digest(entry["detects"])) for entry in dissection.history]


def folders(path):
    return sorted(document.parent.name for document in Path(path).rglob("dissection.json"))


def test_history_goes_on_as_in_one_training(tmp_path):
    whole, first, second = make_dissection(), make_dissection(), make_dissection()
    _, uninterrupted = train(tmp_path / "whole", [whole], 4)
    train(tmp_path / "parts", [first], 2)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").rglob("dissection.json")}
    module, trainer = train(tmp_path / "parts", [second], 4, resume=tmp_path / "parts" / "last.ckpt")
    assert [epoch for epoch, _, _ in told(second)] == [-1, 0, 1, 2, 3]
    assert told(second) == told(whole)
    assert second.state_dict()["gallery"] == first.state_dict()["gallery"] == whole.state_dict()["gallery"]
    assert folders(tmp_path / "parts") == folders(tmp_path / "whole")
    assert [name for name in folders(tmp_path / "parts") if name[-1].isdigit()] == [
        "epoch_0000", "epoch_0001", "epoch_0002", "epoch_0003"
    ]  # fmt: skip
    # Nothing that was probed is probed, or written, again.
    assert {path: path.stat().st_mtime_ns for path in written} == written
    ours = [name for name in trainer.callback_metrics if name.startswith("dissect/") and "seconds" not in name]
    assert len(ours) > 10
    assert [trainer.callback_metrics[n] for n in ours] == [uninterrupted.callback_metrics[n] for n in ours]
    assert count_hooks(module) == 0


def test_changes_are_counted_from_before_the_interruption(tmp_path):
    plan = [3, 1, 3]
    train(tmp_path, [planted_dissection()], 2, module=make_planted(plan))
    seen = planted_dissection()
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    trainer = make_trainer(tmp_path, callbacks=[seen, checkpoint], max_epochs=3, enable_checkpointing=True)
    trainer.fit(make_planted(plan), planted_loader(), planted_loader(), ckpt_path=tmp_path / "last.ckpt")
    changes = {key: trainer.callback_metrics[f"dissect/layer/{key}"] for key in ("born", "died", "changed")}
    assert changes == {"born": 2, "died": 0, "changed": 0}


def test_resumed_training_is_bit_identical_with_and_without(tmp_path):
    traces = {}
    for name, make in (("without", lambda: []), ("with", lambda: [make_dissection()])):
        train(tmp_path / name, make(), 1)
        recorder = make_recorder()
        module, _ = train(tmp_path / name, [*make(), recorder], 3, resume=tmp_path / name / "last.ckpt")
        traces[name] = recorder.trace, module_state(module)
    assert len(traces["without"][0]) > 8
    assert traces["with"] == traces["without"]


@pytest.mark.parametrize("weights_only", [None, True])
def test_checkpoint_is_plain(tmp_path, weights_only):
    dissection = make_dissection()
    train(tmp_path, [dissection], 1)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"][dissection.state_key]
    assert [entry["epoch"] for entry in state["history"]] == [-1, 0]
    again = make_dissection()
    trainer = make_trainer(tmp_path, callbacks=[again], max_epochs=2)
    loaders = loader(shuffle=False), loader(shuffle=False)
    trainer.fit(plain_module(), *loaders, ckpt_path=tmp_path / "last.ckpt", weights_only=weights_only)
    assert [entry["epoch"] for entry in again.history] == [-1, 0, 1]


def test_same_checkpoint_gives_the_same_scores(tmp_path):
    train(tmp_path, [make_dissection()], 2)
    (saved,) = (load_result(path.parent) for path in tmp_path.rglob("epoch_0001/dissection.json"))
    module = make_module()
    module.features[3] = nn.Identity()
    module.load_state_dict(torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"])
    options = {"batch_size": 6, "quantile": 0.05, "top_k": 2}
    assert_same_counts(dissect(module, RandomProbe(14), ["features.4"], **options), saved)
    again = make_dissection()
    trainer = make_trainer(tmp_path / "again", callbacks=[again])
    trainer.validate(plain_module(), loader(shuffle=False), ckpt_path=tmp_path / "last.ckpt", verbose=False)
    assert_same_counts(again.result, saved)


class SaveOnce(Callback):
    """Writes a checkpoint at the first validation of the training, within its first epoch."""

    def on_validation_end(self, trainer, module):
        if trainer.global_step == 2:
            trainer.save_checkpoint(f"{trainer.default_root_dir}/half.ckpt")


def test_epoch_cut_in_two_is_probed_once(tmp_path):
    halves = {"val_check_interval": 0.5}
    first, second = make_dissection(), make_dissection()
    train(tmp_path, [first, SaveOnce()], 1, **halves)
    assert torch.load(tmp_path / "half.ckpt", weights_only=True)["global_step"] == 2
    validations = []

    class Look(Callback):
        def on_validation_end(self, trainer, module):
            validations.append((trainer.current_epoch, trainer.global_step))

    train(tmp_path, [second, Look()], 2, resume=tmp_path / "half.ckpt", **halves)
    # The second half of epoch 0 was trained and validated, but not probed again.
    assert (0, 4) in validations
    assert [(e["epoch"], e["step"]) for e in first.history] == [(-1, 0), (0, 2)]
    assert [(e["epoch"], e["step"]) for e in second.history] == [(-1, 0), (0, 2), (1, 6)]


def test_schedule_goes_on_where_it_was(tmp_path):
    def every_second():
        return make_dissection(schedule=Every(2, at_end=False))

    # Epoch 1, the first after the resume, is not due.
    train(tmp_path, [every_second()], 1)
    second = every_second()
    train(tmp_path, [second], 5, resume=tmp_path / "last.ckpt")
    assert [entry["epoch"] for entry in second.history] == [0, 2, 4]


def test_two_dissections_keep_their_own_states(tmp_path):
    def both():
        return [make_dissection(), make_dissection(layers=["features.0"], name="early", schedule=Every(2))]

    train(tmp_path, both(), 2)
    one, two = both()
    train(tmp_path, [two, one], 3, resume=tmp_path / "last.ckpt")
    assert [entry["epoch"] for entry in one.history] == [-1, 0, 1, 2]
    assert {name for entry in one.history for name in entry["detects"]} == {"features.4"}
    assert [entry["epoch"] for entry in two.history] == [0, 1, 2]
    assert {name for entry in two.history for name in entry["detects"]} == {"features.0"}


def test_callback_may_join_at_a_resume(tmp_path):
    train(tmp_path, [], 1)
    joined = make_dissection()
    train(tmp_path, [joined], 3, resume=tmp_path / "last.ckpt")
    # The untrained network is gone, so there is no start.
    assert [entry["epoch"] for entry in joined.history] == [1, 2]


def test_other_layers_may_be_named_at_a_resume(tmp_path):
    train(tmp_path, [make_dissection()], 1)
    other = make_dissection(layers=["features.0"])
    _, trainer = train(tmp_path, [other], 2, resume=tmp_path / "last.ckpt")
    assert list(other.history[-1]["detects"]) == ["features.0"]
    assert trainer.callback_metrics["dissect/features.0/born"] == 0
    assert np.isfinite(other.result["features.0"].thresholds).all()


def test_history_of_another_probe_set_is_dropped_with_a_warning():
    before, after = make_dissection(images=14), make_dissection(images=12)
    state = before.state_dict() | {"history": [{"epoch": 0}], "last_epoch": 0}
    with pytest.warns(UserWarning, match="history is of another probe set"):
        after.load_state_dict(state)
    assert after.history == []
    # Else it would wait for epochs that another set was probed in.
    assert after.last_epoch is None


@pytest.mark.filterwarnings("ignore:dissect. EarlyStopping sees the last score again")
def test_scores_are_there_to_be_monitored_wherever_a_training_goes_on(tmp_path):
    """Lightning keeps no metrics in a checkpoint, nor from one fit to the next; EarlyStopping asks for them at once."""
    tag = "dissect/features.4/detectors"

    def watching():
        return [make_dissection(schedule=Every(3, at_end=False)), EarlyStopping(tag, patience=9, mode="max")]

    first = watching()
    _, before = train(tmp_path, first, 2)
    assert [entry["epoch"] for entry in first[0].history] == [0]
    second = watching()
    module, trainer = train(tmp_path, second, 3, resume=tmp_path / "last.ckpt")
    assert [entry["epoch"] for entry in second[0].history] == [0]
    assert trainer.callback_metrics[tag] == before.callback_metrics[tag]
    trainer.fit_loop.max_epochs = 5
    trainer.fit(module, loader(shuffle=False), loader(shuffle=False))
    assert [entry["epoch"] for entry in second[0].history] == [0, 3]
    trainer.fit_loop.max_epochs = 6
    trainer.fit(module, loader(shuffle=False))  # without a validation
    assert trainer.callback_metrics[tag] == second[0].state_dict()["values"][tag]
    assert [entry["epoch"] for entry in second[0].history] == [0, 3]


def test_only_what_was_probed_is_a_point_in_the_log_of_a_resume(tmp_path):
    logged, tag = [], "dissect/features.4/detectors"

    class Recorder(CSVLogger):
        def log_metrics(self, metrics, step=None):
            logged.extend((metrics["epoch"], step) for name in metrics if name == tag)

    train(tmp_path, [make_dissection(schedule=Every(3, at_end=False))], 2)
    options = {"logger": Recorder(tmp_path)}
    dissection = make_dissection(schedule=Every(3, at_end=False))
    train(tmp_path, [dissection], 5, resume=tmp_path / "last.ckpt", **options)
    assert [entry["epoch"] for entry in dissection.history] == [0, 3]
    assert [epoch for epoch, _ in logged] == [3]
