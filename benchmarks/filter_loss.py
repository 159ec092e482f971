"""What a filter loss adds to a training step: resnet18, layer4, batches of 32 images of 224 px, ratios from one run.

    OMP_WAIT_POLICY=passive python -m benchmarks.filter_loss

Without the variable, threads that wait for one another count as working.

Whole fits of a few steps take turns, several rounds; the minima are compared. `control` is the fit without a loss
against itself: where it is not near 1, the machine was busy and the run says little.
"""

import argparse
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import torch
import torchvision
from pytorch_lightning import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.dissection import high_water, race
from lightning_interp import InterpretableFilters

CLASSES, BATCH, SIZE = 10, 32, 224
LOSSES = ("label_conditioned", "mutual_information", "spatial_compactness")


class Classifier(LightningModule):
    """resnet18 that learns labels of noise."""

    def __init__(self):
        super().__init__()
        self.network = torchvision.models.resnet18(num_classes=CLASSES)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3, momentum=0.9)


def fitting(loss, data, accelerator):
    """A call that trains over all of the data, with a loss or without (None)."""
    net = Classifier()

    def run():
        # A low weight: the cost is the same, and noise teaches nothing that it could spoil.
        filters = loss and InterpretableFilters(["network.layer4"], CLASSES, loss=loss, weight=1e-6, start_epoch=0)
        trainer = Trainer(
            accelerator=accelerator,
            max_epochs=1,
            callbacks=[filters] if filters else [],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(net, DataLoader(data, BATCH))

    return run


def images(steps):
    torch.manual_seed(0)
    return TensorDataset(torch.randn(steps * BATCH, 3, SIZE, SIZE), torch.arange(steps * BATCH) % CLASSES)


def peak_memory(which):
    """Peak resident MiB of a fit beyond what the images take (Linux: the kernel's own mark, reset)."""
    run = fitting(which if which in LOSSES else None, images(2), "cpu")
    run()
    Path("/proc/self/clear_refs").write_text("5")
    before = high_water()
    run()
    print((high_water() - before) // 1024)


def memory():
    """Peak memory of each variant, in a process of its own."""
    for which in ("without", *LOSSES):
        command = [sys.executable, "-m", "benchmarks.filter_loss", "--memory", which]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
        print(f"  {which:22s} {found:>6s} MiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", choices=("without", *LOSSES), help="print one variant's peak memory and stop")
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    if options.memory:
        peak_memory(options.memory)
        return
    accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    data = images(options.steps)
    variants = {"without": None, "without again": None} | dict(zip(LOSSES, LOSSES, strict=True))
    seconds = race({name: fitting(loss, data, accelerator) for name, loss in variants.items()}, options.rounds)
    bare = min(seconds["without"], seconds["without again"])
    print(f"resnet18 layer4, batch {BATCH}, {SIZE} px, {accelerator}: a training step over one without the loss")
    print(f"  without                {1000 * bare / options.steps:8.0f} ms a step")
    print(f"  control                {seconds['without again'] / seconds['without']:8.3f}")
    for loss in LOSSES:
        print(f"  {loss:22s} {seconds[loss] / bare:8.3f}   (bar 1.05)")
    if sys.platform == "linux" and accelerator == "cpu":
        print("peak memory of a fit beyond the images")
        memory()


if __name__ == "__main__":
    main()
