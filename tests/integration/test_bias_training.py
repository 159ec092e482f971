"""Context-bias diagnostics within trainings: they change nothing, arrive everywhere, and agree on all processes."""

import csv
import math
from datetime import timedelta

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from lightning_interp import Every
from lightning_interp.errors import DatasetError
from lightning_interp.methods.bias.checks import CHECKS
from lightning_interp.methods.bias.files import load_bias
from lightning_interp.probing.ranks import Ranks
from tests.helpers.bias import Additive, Heads, Remakeable, TinyFaces, biased, make_bias, make_diagnoser
from tests.helpers.bias import values as values_of
from tests.helpers.harmless import differences, digest, fit, make_dissection, module_state, noisy_loader, random_state
from tests.helpers.lightning import loader, make_module, make_trainer
from tests.helpers.models import small_cnn
from tests.helpers.quiet import LIGHTNING_NOISE
from tests.helpers.ranks import run_ranks, values

pytestmark = [
    pytest.mark.timeout(120),
    *map(pytest.mark.filterwarnings, LIGHTNING_NOISE),
    pytest.mark.filterwarnings("ignore:.*it compares attributes"),
]

EVERYTHING = {"checks": tuple(CHECKS), "fills": ("mean", "skin"), "examples": 2}
NAMED = {"checks": tuple(CHECKS), "outputs": ["lipstick", "makeup"]}


def bare(trace):
    """Without the metrics, among which are those of the callback."""
    return [{key: value for key, value in entry.items() if key != "metrics"} for entry in trace]


def own(trainer):
    return {k: float(v) for k, v in trainer.callback_metrics.items() if not k.startswith("bias/")}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"logger": True},
        {"precision": "bf16-mixed"},
        {"precision": "64-true"},
        {"accumulate_grad_batches": 3, "val_check_interval": 0.5},
        {"limit_val_batches": 0},
        {"fast_dev_run": True},
        {"num_sanity_val_steps": -1},
        {"workers": 2},
    ],
    ids=str,
)
def test_training_is_bit_identical(tmp_path, options):
    without, _, bare_trainer = fit(tmp_path / "without", [], **options)
    bias = make_bias(**EVERYTHING)
    trace, _, trainer = fit(tmp_path / "with", [bias], **options)
    assert not differences(bare(without), bare(trace))
    assert own(bare_trainer) == own(trainer)
    trial = options.get("fast_dev_run")
    assert [entry["epoch"] for entry in bias.history] == ([0] if trial else [-1, 0, 1])
    tags = {name for name in trainer.callback_metrics if name.startswith("bias/lipstick/")}
    assert {"bias/lipstick/crr/makeup", "bias/lipstick/scr/makeup", "bias/lipstick/exact_reliance/makeup"} <= tags
    assert bool(list(tmp_path.rglob("bias.json"))) != bool(trial)


def test_validation_alone_runs_in_inference_mode_and_leaves_no_trace(tmp_path):
    module, seen = make_module(), {}

    class Look(Callback):
        def __init__(self, when):
            self.when = when

        def on_validation_epoch_end(self, trainer, module):
            seen[self.when] = torch.is_inference_mode_enabled(), module_state(module), random_state()

    bias = make_bias(**EVERYTHING)
    trainer = make_trainer(tmp_path, callbacks=[Look("before"), bias, Look("after")])
    (metrics,) = trainer.validate(module, noisy_loader(shuffle=False), verbose=False)
    assert seen["before"][0]
    assert seen["before"] == seen["after"]
    assert bias.history == []
    saved = load_bias(tmp_path / "interp" / "bias" / "validate")
    assert metrics["bias/lipstick/accuracy"] == pytest.approx(saved.scores["accuracy"].value)
    # Nothing made in inference mode may be kept: a training would refuse it, and a result would change.
    trainer.fit(module, noisy_loader(), noisy_loader(shuffle=False))
    assert [entry["epoch"] for entry in bias.history] == [-1, 0, 1]


def scalars_of(path):
    events = EventAccumulator(str(path), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()
    return events, events.Tags()


def test_every_tag_arrives_in_tensorboard(tmp_path):
    bias = make_bias(**EVERYTHING, **{"outputs": ["makeup", "lipstick"], "scalars": "all"})
    logger = TensorBoardLogger(tmp_path, name=None, version="")
    trainer = make_trainer(tmp_path, callbacks=[bias], logger=logger)
    trainer.fit(make_module(), loader(), loader(shuffle=False))
    events, tags = scalars_of(tmp_path)
    wanted = {f"bias/{name}" for name in bias.history[-1]["scalars"]} | {"bias/seconds"}
    assert {tag for tag in tags["scalars"] if tag.startswith("bias/") and "_known" not in tag} == wanted
    assert [e.step for e in events.Scalars("bias/lipstick/accuracy")] == [0, 3, 7]
    assert {f"bias/lipstick/{name}" for name in ("interventions", "relations")} == set(tags["images"])
    tables = {f"bias/lipstick/{name}/text_summary" for name in ("findings", "scores", "verdict")}
    assert set(tags["tensors"]) == tables | {"custom_scalars__config__"}


def test_both_callbacks_share_one_layout(tmp_path):
    logger = TensorBoardLogger(tmp_path, name=None, version="")
    callbacks = [make_dissection(), make_bias(scalars="all")]
    trainer = make_trainer(tmp_path, callbacks=callbacks, logger=logger)
    trainer.fit(make_module(), loader(), loader(shuffle=False))
    events, tags = scalars_of(tmp_path)
    config = events.Tensors("custom_scalars__config__")[-1]
    layout = layout_pb2.Layout.FromString(config.tensor_proto.string_val[0])
    assert [c.title for c in layout.category] == ["Network Dissection: dissect", "Context bias: bias"]
    margins = [chart.margin.series[0] for chart in layout.category[1].chart if chart.margin.series]
    assert len(margins) == 3
    for series in margins:
        assert {series.value, series.lower, series.upper} <= set(tags["scalars"])
        assert "_low/" in series.lower
        assert "_high/" in series.upper


def test_csv_holds_every_scalar(tmp_path):
    bias = make_bias(scalars="all")
    logger = CSVLogger(tmp_path, name=None, version="")
    make_trainer(tmp_path, callbacks=[bias], logger=logger).fit(make_module(), loader(), loader(shuffle=False))
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {f"bias/{name}" for name in bias.history[-1]["scalars"]} <= set(rows[0])
    accuracies = [float(row["bias/lipstick/accuracy"]) for row in rows if row["bias/lipstick/accuracy"]]
    assert accuracies == pytest.approx([entry["scalars"]["lipstick/accuracy"] for entry in bias.history], abs=1e-6)


def test_untrained_network_reads_no_signal(tmp_path):
    bias = make_bias(schedule=Every(at_start=True))
    make_trainer(tmp_path, callbacks=[bias], max_epochs=1).fit(make_module(), loader(), loader(shuffle=False))
    start = bias.history[0]["scalars"]
    assert all(math.isnan(start[f"lipstick/{check}/makeup"]) for check in ("crr", "scr", "exact_reliance"))
    assert not math.isnan(start["lipstick/crr_untrained/makeup"])


# --- Several processes -----------------------------------------------------------------------------------------------

MODELS = {
    "additive": lambda: (Heads(Additive(6, 4), Additive(1, 7)), {}),
    "cnn": lambda: (small_cnn(), {"layer": "1"}),
}


def rows(count):
    """Two of 22 images are all that conflict, so that processes lack a group; some show no mouth."""
    return Remakeable(biased(22, conflicting=2).rows[:count], without_mouth=[1, 4])


def diagnose_on(rank, world, name, count, options):
    model, own_options = MODELS[name]()
    ranks = Ranks.connect(timedelta(seconds=30))
    diagnoser = make_diagnoser(rows(count), **NAMED | options | own_options)
    diagnoser.describe(model)
    try:
        return diagnoser(model, ranks=ranks)
    finally:
        ranks.close()


def assert_equal(result, other):
    assert list(result.scores) == list(other.scores)
    for name, score in result.scores.items():
        expected = other.scores[name]
        assert score.count == expected.count, name
        for field in ("value", "low", "high", "chance"):
            assert getattr(score, field) == pytest.approx(getattr(expected, field), rel=1e-6, abs=1e-6, nan_ok=True)
    assert result.signal == other.signal
    assert [f.kind for f in result.relations.findings] == [f.kind for f in other.relations.findings]


@pytest.mark.ddp
@pytest.mark.parametrize("name", MODELS)
def test_processes_agree_with_one_on_uneven_shards(name):
    # 22 images: shards of 11 and 11, then of 8, 7 and 7; batches of 5 cut them otherwise still.
    options = {"batch_size": 5, "examples": 2}
    alone = diagnose_on(0, 1, name, 22, options)
    for world in (2, 3):
        first, *rest = values(run_ranks(diagnose_on, world, name, 22, options, timeout=60))
        assert_equal(first, alone)
        for other in rest:
            # To the bit, but for the wall time and the picture, which is rank zero's.
            assert digest({k: vars(v) for k, v in other.scores.items()}) == digest(
                {k: vars(v) for k, v in first.scores.items()}
            )
            assert other.examples == ()
        assert len(first.examples) == 2


@pytest.mark.ddp
def test_more_processes_than_images():
    options = {"checks": ["groups", "occlusion", "exact", "attribution", "relations"]}
    for result in values(run_ranks(diagnose_on, 3, "additive", 2, options, timeout=60)):
        assert result.scores["accuracy"].count == 2


class Corrupt(TinyFaces):
    broken = False

    def image(self, index):
        if self.broken and index == 5:
            raise DatasetError("photo_5.jpg: cannot be decoded")
        return super().image(index)


def break_on(rank, world):
    probe = Corrupt([(face, face % 2, face % 2) for face in range(8)])
    diagnoser, model = make_diagnoser(probe, checks=["occlusion"]), Additive(6, 4)
    diagnoser.describe(model)
    probe.broken = True
    ranks = Ranks.connect(timedelta(seconds=30))
    try:
        diagnoser(model, ranks=ranks)
    finally:
        ranks.close()


@pytest.mark.ddp
def test_image_that_breaks_on_one_process_is_told_by_all():
    outcomes = run_ranks(break_on, 2, timeout=60)
    assert {outcome.error for outcome in outcomes} == {
        "ProbeError: the probe failed; rank 1: DatasetError: photo_5.jpg: cannot be decoded"
    }


TRAINED = {"checks": ("groups", "occlusion", "swap", "exact", "attribution")}


def train_on(rank, world, folder, with_it):
    bias = make_bias(biased(14), **TRAINED)
    # Without validation, the other rank's batch statistics are not what a checkpoint would hold.
    options = {"strategy": "ddp", "devices": world, "limit_val_batches": 0}
    trace, module, trainer = fit(folder, [bias] if with_it else [], **options)
    scores = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("bias/")}
    return bare(trace), module.state_dict(), scores


@pytest.mark.ddp
def test_ddp_training_is_bit_identical_and_scores_are_the_same_on_all_ranks(tmp_path):
    without = values(run_ranks(train_on, 2, tmp_path / "1", False, timeout=90))
    with_it = values(run_ranks(train_on, 2, tmp_path / "2", True, timeout=90))
    for rank in range(2):
        assert not differences(without[rank][0], with_it[rank][0])
    assert differences(with_it[0][0], with_it[1][0])
    assert digest(with_it[0][1]) == digest(without[0][1])
    assert with_it[0][2] == pytest.approx(with_it[1][2], abs=0, nan_ok=True)
    module = make_module()
    module.load_state_dict(with_it[0][1])
    module.eval()
    bias = make_bias(biased(14), **TRAINED)
    bias.diagnoser.describe(module)
    alone = values_of(bias.diagnoser(module))
    assert len(alone) > 20
    assert {name: with_it[0][2][f"bias/lipstick/{name}"] for name in alone} == pytest.approx(
        alone, rel=1e-5, nan_ok=True
    )
