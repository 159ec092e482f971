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
print(next(base.__module__ for base in type(dissection).__mro__ if base.__name__ == "Callback"))
"""

FIRST = {
    "lightning first": ("import lightning.pytorch, lightning_interp", "lightning.pytorch", "lightning.pytorch"),
    "pytorch_lightning first": (
        "import pytorch_lightning, lightning_interp",
        "pytorch_lightning",
        "pytorch_lightning",
    ),
    # The callback then is of the other package, and works in a list all the same.
    "before lightning": ("import lightning_interp, lightning.pytorch", "lightning.pytorch", "pytorch_lightning"),
    "before pytorch_lightning": (
        "import lightning_interp, pytorch_lightning",
        "pytorch_lightning",
        "pytorch_lightning",
    ),
}


@pytest.mark.parametrize("order", FIRST)
def test_training_with_either_package(tmp_path, order):
    imports, package, base = FIRST[order]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", imports + TRAINING, package, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1].startswith(base + ".")
