"""What the callback tells, and when: on a module whose reliance is known in every epoch."""

import json
import math
import warnings
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from lightning_interp import ContextBias, DatasetError, Every
from lightning_interp.errors import LayerError
from lightning_interp.methods.bias.checks import CHECKS
from lightning_interp.methods.bias.result import Score
from tests.helpers.bias import QUESTION, Additive, Heads, biased, find, make_bias, make_planted
from tests.helpers.bias_results import bias_result, scores
from tests.helpers.lightning import loader, make_trainer
from tests.helpers.quiet import LIGHTNING_NOISE

pytestmark = [
    *map(pytest.mark.filterwarnings, LIGHTNING_NOISE),
    # The planted module has one output.
    pytest.mark.filterwarnings("ignore:.*it compares attributes"),
    # A training goes on without the callback that wrote the checkpoint, in a folder that is there on purpose.
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]

# The mouth only, both, the lids only, for longer.
PLAN = [(8, 0), (6, 4), (0, 8), (0, 8)]
SHARES = [0, 0.46, 1, 1]


def train(path, callbacks, plan=PLAN, resume=None, **options):
    trainer = make_trainer(path, callbacks=callbacks, **{"max_epochs": len(plan)} | options)
    loaders = loader(12), loader(12, shuffle=False)
    module = make_planted(plan)
    trainer.fit(module, *loaders, ckpt_path=resume)
    return trainer, module


class Metrics(Callback):
    """What other callbacks find in ``callback_metrics`` at the end of each epoch."""

    def __init__(self, prefix="bias/"):
        self.prefix, self.epochs = prefix, []

    def on_validation_end(self, trainer, module):
        if not trainer.sanity_checking:
            found = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(self.prefix)}
            self.epochs.append(found)


def test_scores_of_every_epoch_are_in_callback_metrics(tmp_path):
    bias, seen = make_bias(), Metrics()
    train(tmp_path, [bias, seen])
    tag = "bias/lipstick/"
    for check in ("crr", "scr", "exact_reliance"):
        shares = [epoch[f"{tag}{check}/makeup"] for epoch in seen.epochs]
        assert shares == pytest.approx(SHARES, abs=0.06), check
    assert [epoch[f"{tag}accuracy"] for epoch in seen.epochs] == pytest.approx([1, 1, 0.8, 0.8])
    # One set of names throughout, before training too.
    assert len({frozenset(epoch) for epoch in seen.epochs}) == 1
    names = {name.removeprefix("bias/") for name in seen.epochs[0] if "_known" not in name}
    for entry in bias.history:
        assert set(entry["scalars"]) ^ names == set()
    assert [entry["epoch"] for entry in bias.history] == [-1, 0, 1, 2, 3]


class Dead(torch.nn.Module):
    """No logit is finite."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Identity()

    def forward(self, x):
        return self.layer(x).mean((2, 3))[:, :2] * math.nan


@pytest.mark.filterwarnings("ignore:.*are NaN or infinite")
def test_tags_are_the_same_whatever_the_network_has_learnt():
    training = {"lipstick": [0, 1, 1], "makeup": [0, 1, 0]}
    bias = make_bias(checks=tuple(CHECKS), outputs=["lipstick", "makeup"], training=training, layer="layer")
    tags = []
    for model in (Heads(Additive(0, 0), Additive(0, 0)), Heads(Additive(6, 4), Additive(0, 8)), Dead()):
        bias.diagnoser.describe(model)
        tags.append(list(bias.scalars(bias.diagnoser(model, meta={"epoch": 0}))))
    assert tags[0] == tags[1] == tags[2]
    assert len(tags[0]) > 60


def test_references_stand_beside_the_scores(tmp_path):
    bias, seen = make_bias(), Metrics("bias/lipstick/crr")
    train(tmp_path, [bias, seen])
    last = {name.removeprefix("bias/lipstick/"): value for name, value in seen.epochs[1].items()}
    assert {"crr/makeup", "crr_low/makeup", "crr_high/makeup", "crr_chance/makeup", "crr_untrained/makeup"} <= set(last)
    assert last["crr_low/makeup"] < last["crr/makeup"] < last["crr_high/makeup"]
    assert last["crr_chance/makeup"] == pytest.approx(32 / 56)
    # The planted module is constant before training: nothing to split.
    assert math.isnan(last["crr_untrained/makeup"])


def test_untrained_level_has_no_regard_to_signal(tmp_path):
    module = make_planted(PLAN)
    module.use(0.01, 0.03)
    bias = make_bias()
    make_trainer(tmp_path, callbacks=[bias], max_epochs=1).fit(module, loader(12), loader(12, shuffle=False))
    start = bias.history[0]["scalars"]
    assert math.isnan(start["lipstick/crr/makeup"])
    assert start["lipstick/crr_untrained/makeup"] == bias.untrained["crr/makeup"]
    assert 0.6 < bias.untrained["crr/makeup"] < 0.9
    assert 0.6 < bias.untrained["exact_reliance/makeup"] < 0.9
    assert bias.history[1]["scalars"]["lipstick/crr_untrained/makeup"] == bias.untrained["crr/makeup"]


def test_every_reliance_score_has_an_untrained_level():
    """Of a network whose scores are too small, and of one that always gives the same answer."""
    training = {"lipstick": [0, 1, 1], "makeup": [0, 1, 0]}
    bias = make_bias(
        checks=tuple(CHECKS), fills=("grey", "mean"), outputs=["lipstick", "makeup"], training=training, layer="layer"
    )
    faint = Heads(Additive(0.01, 0.03), Additive(0.01, 0.04))
    bias.diagnoser.describe(faint)
    gated = bias.diagnoser(faint, meta={"epoch": None})
    bias.scalars(gated)
    assert math.isnan(gated.scores["crr_mean/makeup"].value)
    missing = {name for name, value in bias.untrained.items() if math.isnan(value)}
    # No answer is confident.
    assert missing == {"confident_errors"}
    # The same network with larger scores has signal, and the same shares.
    loud = Heads(Additive(5, 15), Additive(5, 20))
    known = bias.diagnoser(loud, meta={"epoch": 0})
    for name in ("crr", "crr_by_target", "crr_mean", "scr", "exact_reliance", "relation", "relation_kl"):
        expected = known.scores[f"{name}/makeup"].value
        assert bias.untrained[f"{name}/makeup"] == pytest.approx(expected, abs=1e-4), name
    assert bias.untrained["failure_modes"] == known.scores["failure_modes"].value == 1
    constant = Heads(Additive(8, 8, centred=False), Additive(0, 8))
    bias.scalars(bias.diagnoser(constant, meta={"epoch": None}))
    assert bias.untrained["relation/makeup"] > 0.5
    assert {name for name, value in bias.untrained.items() if math.isnan(value)} == {"rfs/makeup", "phi_excess/makeup"}


def test_alarm_is_one_line_in_the_epoch_in_which_reliance_passes_it(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("lightning_interp.methods.bias.callback.rank_zero_info", told.append)
    monkeypatch.setattr("lightning_interp.callbacks.base.rank_zero_info", told.append)
    train(tmp_path, [make_bias()])
    alarms = [line for line in told if "reliance on makeup is" in line]
    assert alarms == ["bias: lipstick: reliance on makeup is 100 % (by re-rendering), 50 % or more since epoch 2"]
    # At the end, the verdict in words.
    assert any("shortcut: 100 % of the reliance is on makeup (lids), 0 % on the mouth" in line for line in told)


def test_every_context_is_told_when_it_passes_the_alarm(monkeypatch):
    told = []
    monkeypatch.setattr("lightning_interp.methods.bias.callback.rank_zero_info", told.append)
    bias = make_bias()
    for epoch, (makeup, blond) in enumerate([(0.2, 0.1), (0.6, 0.1), (0.7, 0.8), (0.7, 0.9), (0.4, 0.9), (0.7, 0.9)]):
        bias.note(bias_result(scores(crr__makeup=makeup, crr__blond=blond), meta={"epoch": epoch}))
    assert told == [
        "bias: lipstick: reliance on makeup is 60 % (by hiding parts), 50 % or more since epoch 1",
        "bias: lipstick: reliance on blond is 80 % (by hiding parts), 50 % or more since epoch 2",
        "bias: lipstick: reliance on makeup is 70 % (by hiding parts), 50 % or more since epoch 5",
    ]


def test_bad_logits_are_warned_of_when_they_begin():
    bias, told = make_bias(), []
    for epoch, number in enumerate([0, 3, 12, 0, 2]):
        found = {"nonfinite": Score(float(number), count=20), "crr/makeup": Score(0.1)}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            scalars = bias.note(bias_result(found, meta={"epoch": epoch}))
        assert scalars["lipstick/nonfinite"] == number
        told += [(epoch, str(warning.message)) for warning in caught]
    assert told == [
        (1, "bias: lipstick: the logits of 3 of 20 images are NaN or infinite; the scores leave them out"),
        (4, "bias: lipstick: the logits of 2 of 20 images are NaN or infinite; the scores leave them out"),
    ]


def test_checkpoint_and_early_stopping_can_read_reliance(tmp_path):
    best = ModelCheckpoint(tmp_path, monitor="bias/lipstick/crr/makeup", mode="min")
    stop = EarlyStopping("bias/lipstick/crr/makeup", mode="min", patience=1)
    trainer, _ = train(tmp_path, [make_bias(), best, stop], enable_checkpointing=True)
    assert float(best.best_model_score) == pytest.approx(0, abs=1e-6)
    assert "epoch=0" in best.best_model_path
    # Higher in the second epoch, and that was that.
    assert trainer.current_epoch == 2


def test_schedule_skips_epochs(tmp_path):
    bias = make_bias(schedule=Every(3))
    train(tmp_path, [bias])
    assert [entry["epoch"] for entry in bias.history] == [0, 3]
    assert bias.untrained == {}
    assert not any("untrained" in name for name in bias.history[0]["scalars"])


def test_files_of_every_epoch(tmp_path):
    train(tmp_path, [make_bias()], plan=PLAN[:2])
    folders = {path.name: sorted(file.name for file in path.iterdir()) for path in tmp_path.glob("interp/bias/*")}
    files = ["bias.json", "interventions.png", "scores.csv"]
    assert folders == {"start": files, "epoch_0000": files, "epoch_0001": files}


def test_resumed_training_keeps_its_history(tmp_path):
    whole, first, second = make_bias(), make_bias(), make_bias()
    train(tmp_path / "whole", [whole])
    saving = ModelCheckpoint(tmp_path / "parts", save_last=True)
    train(tmp_path / "parts", [first, saving], max_epochs=2, enable_checkpointing=True)
    state = torch.load(tmp_path / "parts" / "last.ckpt", weights_only=True)["callbacks"][first.state_key]
    json.dumps(state)
    train(tmp_path / "parts", [second], resume=tmp_path / "parts" / "last.ckpt")
    assert [entry["epoch"] for entry in second.history] == [-1, 0, 1, 2, 3]
    assert second.untrained.keys() == whole.untrained.keys()
    for one, other in zip(second.history, whole.history, strict=True):
        one, other = ({k: v for k, v in entry["scalars"].items() if k != "seconds"} for entry in (one, other))
        assert one == pytest.approx(other, nan_ok=True)
    # Another training is another history.
    train(tmp_path / "again", [second], plan=PLAN[:1])
    assert [entry["epoch"] for entry in second.history] == [-1, 0]


def test_history_of_another_probe_set_is_not_taken_over():
    other = make_bias(biased(24))
    with pytest.warns(UserWarning, match="history is of another probe set; it starts anew"):
        other.load_state_dict(make_bias().state_dict() | {"history": [{}], "last_epoch": 3})
    assert (other.history, other.last_epoch) == ([], None)


def test_contexts_that_would_share_a_tag_are_refused():
    with pytest.raises(DatasetError, match=r"contexts '化粧' and '髪色' would both be logged as '_'; rename one"):
        make_bias(question=("lipstick", "mouth", {"化粧": "lids", "髪色": "lids"}))


def test_a_schedule_is_one():
    with pytest.raises(TypeError, match=r"schedule is 2; give one, such as Every\(n_epochs=2\)"):
        make_bias(schedule=2)


def test_what_does_not_run_is_warned_of_once(tmp_path):
    probe = biased(20, known=["lipstick"])
    with pytest.warns(UserWarning, match="bias: groups: no labels of makeup in the probe set"):
        train(tmp_path, [make_bias(probe)], plan=PLAN[:1])


def test_layer_and_output_are_checked_before_the_first_step(tmp_path):
    class Never(Callback):
        def on_train_start(self, trainer, module):
            raise AssertionError("too late")

    for options, error in (({"layer": "layr"}, LayerError), ({"outputs": ["lipstick", "makeup"]}, DatasetError)):
        with pytest.raises(error):
            train(tmp_path, [make_bias(**options), Never()])


@pytest.mark.parametrize(
    ("options", "text"),
    [({"alarm": 0}, "alarm must be in"), ({"alarm": 1.1}, "alarm must be in"), ({"name": "a/b"}, "name 'a/b'")],
)
def test_bad_option_is_refused(options, text):
    with pytest.raises(ValueError, match=text):
        make_bias(**options)


def test_two_callbacks_have_states_of_their_own():
    assert make_bias().state_key != make_bias(name="other").state_key
    assert ContextBias(biased(20), *QUESTION, regions=find).name == "bias"


def test_charts_are_of_tags_that_are_written(tmp_path):
    bias, seen = make_bias(), Metrics()
    train(tmp_path, [bias, seen], plan=PLAN[:1])
    charts = bias.charts(bias.result)
    checks = ("reliance", "crr", "scr", "exact_reliance")
    assert set(charts) == {f"lipstick on makeup: {check}" for check in checks}
    assert {kind for kind, _ in charts.values()} == {"Multiline", "Margin"}
    for kind, tags in charts.values():
        assert len(tags) == (3 if kind == "Margin" else 4)
        assert {f"bias/{tag}" for tag in tags} <= set(seen.epochs[0])


def test_picture_that_cannot_be_written_leaves_no_part_of_a_file(tmp_path, monkeypatch):
    def full(image, file, *args, **kwargs):
        # As PIL does on a full disk: something is there already.
        if isinstance(file, Path):
            file.write_bytes(b"half")
        else:
            file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("PIL.Image.Image.save", full)
    with pytest.warns(UserWarning, match="bias: could not write files: OSError: disk full"):
        trainer, _ = train(tmp_path, [make_bias()])
    assert trainer.current_epoch == len(PLAN)
    assert list(tmp_path.rglob("bias.json"))
    assert not [path for path in tmp_path.rglob("*") if "interventions" in path.name]
