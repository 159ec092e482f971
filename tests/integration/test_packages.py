"""Both of Lightning's packages, each in a process of its own, since the order of imports decides."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TRAINING = """
import importlib, sys, warnings
from pathlib import Path
from tests.helpers import harmless
from tests.helpers.lightning import make_module

package, path = sys.argv[1], Path(sys.argv[2])
pl = importlib.import_module(package)
callbacks = importlib.import_module(package + ".callbacks")
loggers = importlib.import_module(package + ".loggers")
options = {"package": package, "module": lambda: make_module(package)}

without, _, _ = harmless.fit(path / "without", [], **options)
dissection = harmless.make_dissection()
checkpoint = callbacks.ModelCheckpoint(path / "best", monitor="dissect/features.4/mean_iou", mode="max", save_last=True)
early = callbacks.EarlyStopping("dissect/features.4/detectors", mode="max", patience=5)
logger = loggers.TensorBoardLogger(path / "with", name=None, version="")
# In a list with callbacks of the package, before and after.
listed = [early, dissection, checkpoint]
trace, module, trainer = harmless.fit(path / "with", listed, logger=logger, enable_checkpointing=True, **options)
# Nothing but the metrics that the dissection adds may differ.
assert not harmless.differences(without, trace), harmless.differences(without, trace)
assert [entry["epoch"] for entry in dissection.history] == [-1, 0, 1]
mean_iou = trainer.callback_metrics["dissect/features.4/mean_iou"]
assert abs(mean_iou - dissection.result.scalars()["features.4/mean_iou"]) < 1e-6
assert early.best_score == max(entry["scalars"]["dissect/features.4/detectors".removeprefix("dissect/")]
                               for entry in dissection.history if entry["epoch"] >= 0)
assert checkpoint.best_model_score is not None
assert len(list((path / "with").rglob("dissection.json"))) == 3

again = harmless.make_dissection()
resumed = callbacks.ModelCheckpoint(path / "best", monitor="dissect/features.4/mean_iou", mode="max", save_last=True)
options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
trainer = pl.Trainer(default_root_dir=path, max_epochs=3, callbacks=[again, resumed], **options)
loaders = harmless.noisy_loader(), harmless.noisy_loader(shuffle=False)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    trainer.fit(make_module(package), *loaders, ckpt_path=path / "best" / "last.ckpt")
assert [entry["epoch"] for entry in again.history] == [-1, 0, 1, 2]
(metrics,) = trainer.validate(make_module(package), loaders[1], verbose=False)
assert "dissect/features.4/detectors" in metrics
print("base:", next(base.__module__ for base in type(dissection).__mro__ if base.__name__ == "Callback"))
"""

# After the other, in the same process.
DIAGNOSING = """
import torch
from torch.utils.data import DataLoader, TensorDataset
from lightning_interp import RightReasons
from tests.helpers.bias import make_bias, make_planted

path = path / "bias"
bias, least = make_bias(), callbacks.ModelCheckpoint(path, monitor="bias/lipstick/crr/makeup", mode="min")
stop = callbacks.EarlyStopping("bias/lipstick/crr/makeup", mode="min", patience=5, check_finite=False)
# Images, labels and a mask; weights decide nothing here, but the penalty is taken.
images, labels, mask = torch.rand(8, 3, 24, 24), torch.arange(8) % 2, torch.zeros(8, 24, 24, dtype=torch.bool)
mask[:, 15:18, 8:16] = True
batches = DataLoader(TensorDataset(images, labels, mask), batch_size=4)
reasons = RightReasons(2, "binary", weight=0.1)
trainer = pl.Trainer(accelerator="cpu", max_epochs=3, callbacks=[stop, bias, reasons, least], enable_progress_bar=False,
                     logger=loggers.TensorBoardLogger(path, name=None, version=""), default_root_dir=path)
planted = make_planted([(8, 8), (8, 0), (8, 8)], package)


class Looking(type(planted)):
    def training_step(self, batch, batch_idx):
        return self.idle**2 + 0 * self(batch[0]).sum()


model = Looking()
trainer.fit(model, batches, batches)
assert [entry["epoch"] for entry in bias.history] == [-1, 0, 1, 2]
assert least.best_model_path.endswith("epoch=1-step=4.ckpt"), least.best_model_path
assert abs(float(least.best_model_score)) < 1e-5 and abs(float(stop.best_score)) < 1e-5
assert float(trainer.callback_metrics["right_reasons/penalty"]) > 0
assert len(list(path.rglob("bias.json"))) == 4
model.use(8, 0)
(metrics,) = trainer.validate(model, batches, verbose=False)
assert abs(metrics["bias/lipstick/crr/makeup"]) < 1e-5
print("base:", next(base.__module__ for base in type(bias).__mro__ if base.__name__ == "Callback"))
"""

FIRST = {
    "lightning first": ("import lightning.pytorch, lightning_interp", "lightning.pytorch", "lightning.pytorch"),
    "pytorch_lightning first": (
        "import pytorch_lightning, lightning_interp",
        "pytorch_lightning",
        "pytorch_lightning",
    ),
    # The callback then is of the other package, and works in a list all the same. It comes before its own package in
    # every other test.
    "before lightning": ("import lightning_interp, lightning.pytorch", "lightning.pytorch", "pytorch_lightning"),
}


@pytest.mark.parametrize("order", FIRST)
def test_trainings_with_either_package(tmp_path, order):
    imports, package, base = FIRST[order]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", imports + TRAINING + DIAGNOSING, package, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    bases = [line for line in done.stdout.splitlines() if line.startswith("base: ")]
    assert [line.startswith(f"base: {base}.") for line in bases] == [True, True]
