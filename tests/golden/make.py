"""Freeze the behaviour of today: ``python -m tests.golden.make [case...]``, by hand, after a change that is meant.

Writes ``values/<case>.json``; with ``checkpoints``, ``checkpoints/*.ckpt``, which a later version has to go on from and
which are therefore not made again; with ``weights``, the network's weights, by which everything changes.
"""

import contextlib
import sys
import tempfile
from pathlib import Path

import pytorch_lightning
import torch
from pytorch_lightning.loggers import TensorBoardLogger

from tests.golden import cases
from tests.golden.freeze import write
from tests.golden.network import GoldenModule, face_loader, train_weights

HERE = Path(__file__).parent
VALUES, CHECKPOINTS = HERE / "values", HERE / "checkpoints"
# By name of the checkpoint, what makes the callback that it is of.
MONITORS = {
    "dissection": cases.make_dissection,
    "bias": cases.make_small_bias,
    "location": cases.make_location,
    "parts": cases.make_parts,
    "graph": cases.make_small_graph,
}


@contextlib.contextmanager
def one_thread():
    """Sums in one order, whatever the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compute(name, folder):
    """The fields of a case as the present code gives them."""
    folder.mkdir(exist_ok=True)
    with one_thread():
        return cases.CASES[name](folder)


class SaveOnce(pytorch_lightning.Callback):
    """Writes a checkpoint at the end of epoch 1; ModelCheckpoint would write this machine's folders into it."""

    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, module):
        if trainer.current_epoch == 1:
            trainer.save_checkpoint(self.path)


def make_checkpoint(name):
    """Two epochs with a callback, and the checkpoint after them."""
    CHECKPOINTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, one_thread():
        callbacks = [MONITORS[name](), SaveOnce(CHECKPOINTS / f"{name}.ckpt")]
        # Only for a logger that shows pictures are the units chosen that are in the gallery ever after.
        trainer = cases.make_trainer(folder, callbacks, logger=TensorBoardLogger(folder))
        trainer.fit(GoldenModule(), face_loader(), face_loader())


def main(names):
    VALUES.mkdir(exist_ok=True)
    if "weights" in names:
        print(train_weights())
    if "checkpoints" in names:
        for name in MONITORS:
            make_checkpoint(name)
    for name in names or cases.CASES:
        if name in cases.CASES:
            with tempfile.TemporaryDirectory() as folder:
                write(compute(name, Path(folder)), VALUES / f"{name}.json")


if __name__ == "__main__":
    main(sys.argv[1:])
