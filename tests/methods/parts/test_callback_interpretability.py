"""Part interpretability of every epoch, on a module whose filters are known to fire on a part, or not to."""

import pytest
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_interp import DatasetError
from lightning_interp.methods.parts.callback import PartInterpretability
from lightning_interp.methods.parts.files import load_parts
from tests.helpers.harmless import differences, fit
from tests.helpers.lightning import make_trainer
from tests.helpers.parts import FIXED, SpotProbe, make_spotter, spot_loader
from tests.helpers.quiet import LIGHTNING_NOISE

pytestmark = [pytest.mark.filterwarnings(text) for text in LIGHTNING_NOISE]
PROBE = SpotProbe(12)
OPTIONS = {"parts": ["red spot"], "batch_size": 5}


def train(path, callbacks, plan, **options):
    trainer = make_trainer(path, callbacks=callbacks, max_epochs=len(plan), **options)
    trainer.fit(make_spotter(plan), spot_loader(), spot_loader())
    return trainer


def test_scores_follow_what_filters_do(tmp_path):
    still = sum(PROBE.labels(i).planes["part"][0][FIXED].item() == 7 for i in range(12)) / 12
    values = []
    for following in (0, 1, 2):
        trainer = train(tmp_path, [PartInterpretability(PROBE, ["layer"], **OPTIONS)], [following])
        values.append({k.removeprefix("parts/layer/"): float(v) for k, v in trainer.callback_metrics.items()})
    assert [v["interpretability"] for v in values] == pytest.approx([still, (1 + still) / 2, 1])
    assert [v["purity"] for v in values] == pytest.approx([still, (1 + still) / 2, 1])
    assert values[2]["purity_by_chance"] == pytest.approx(2 / 256)
    assert values[2]["interpretability_by_chance"] < 0.2
    assert values[2]["purity_beats_constant"] == 1
    assert values[0]["dead"] == 0


def test_checkpoints_can_monitor_it(tmp_path):
    best = ModelCheckpoint(tmp_path, filename="{epoch}", monitor="parts/layer/interpretability", mode="max")
    train(tmp_path, [PartInterpretability(PROBE, ["layer"], **OPTIONS), best], [0, 2, 1], enable_checkpointing=True)
    assert best.best_model_path.endswith("epoch=1.ckpt")


def test_files_and_table(tmp_path):
    parts = PartInterpretability(PROBE, ["layer"], on_error="raise", **OPTIONS)
    train(tmp_path, [parts], [2], logger=TensorBoardLogger(tmp_path, "", ""))
    stored = load_parts(tmp_path / "interp" / "parts" / "epoch_0000")
    assert stored["layer"].interpretability.by_filter.tolist() == [1, 1]
    assert stored["layer"].location is None
    events = EventAccumulator(str(tmp_path)).Reload()
    table = events.Tensors("parts/layer/table/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "| 0 | red spot | 1.000 |" in table


def test_training_is_bit_identical(tmp_path):
    plain, _, _ = fit(tmp_path / "a", [])
    parts = PartInterpretability(SpotProbe(7, side=24), ["features.4"], batch_size=3, byte_budget=0)
    watched, _, _ = fit(tmp_path / "b", [parts])
    for trace in (plain, watched):
        for entry in trace:
            entry.pop("metrics", None)
    assert differences(plain, watched) == []
    assert parts.result.num_images == 7


def test_a_probe_set_without_parts_is_refused():
    probe = SpotProbe(4)
    probe.concepts = probe.concepts[:1]
    with pytest.raises(DatasetError, match="no concept of category 'part'; RenderedFaces, CelebAMaskHQ"):
        PartInterpretability(probe, ["layer"])
    with pytest.raises(DatasetError, match="unknown part 'nose'"):
        PartInterpretability(PROBE, ["layer"], parts=["nose"])


def test_a_trial_run_probes_one_batch(tmp_path):
    parts = PartInterpretability(PROBE, ["layer"], **OPTIONS)
    train(tmp_path, [parts], [1], fast_dev_run=True)
    assert parts.result.num_images == 5
    assert not (tmp_path / "interp").exists()
