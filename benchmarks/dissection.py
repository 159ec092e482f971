"""What a dissection costs, as ratios to the bare forward pass over the same loader, all from one run.

    python benchmarks/dissection.py                # CPU, and the GPU where there is one
    python benchmarks/dissection.py --images 256 --rounds 7

Variants take turns, several rounds; the minima are compared. `control` is the bare pass against itself: where it is
not near 1, the machine was busy and the run says little.
"""

import argparse
import gc
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
import torchvision
from torch import nn

from lightning_interp.data.labels import LabelEncoder
from lightning_interp.data.loading import Reading, probe_batches
from lightning_interp.data.probe import BRODEN_CATEGORIES, Concept, Labels, ProbeSet
from lightning_interp.methods.dissection.engine import Dissector
from lightning_interp.probing.runner import prepare

STAGES = ["layer1", "layer2", "layer3", "layer4"]
SIZE, MASK = 224, 112


class Patchwork(ProbeSet):
    """Blurry noise photographs with rectangular patches of concepts, about `present` of them an image."""

    normalize = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def __init__(self, images, concepts=20, present=8):
        self.mask_size = (MASK, MASK)
        self.concepts = tuple(Concept(i + 1, f"c{i}", BRODEN_CATEGORIES[i % 6]) for i in range(concepts))
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(images, 3, 14, 14, generator=generator)
        smooth = nn.functional.interpolate(noise, size=(SIZE, SIZE), mode="bilinear")
        grain = torch.randint(0, 55, (images, 3, SIZE, SIZE), generator=generator)
        self.photos = (smooth * 200 + grain).to(torch.uint8)
        chosen = torch.rand(images, concepts, generator=generator).topk(present, dim=1).indices + 1
        patches = torch.randint(0, present, (images, 2, 6, 6), generator=generator)
        planes = chosen[torch.arange(images)[:, None, None, None], patches]
        self.planes = planes.repeat_interleave(19, 2).repeat_interleave(19, 3)[:, :, :MASK, :MASK].to(torch.int16)

    def __len__(self):
        return len(self.photos)

    def image(self, index):
        return self.photos[index]

    def labels(self, index):
        return Labels({"object": self.planes[index, 0], "part": self.planes[index, 1]})


class Replay(nn.Module):
    """A network that costs nothing: the same random maps for every batch, so that only the statistics are timed."""

    def __init__(self, units, side, batch_size):
        super().__init__()
        maps = torch.randn(batch_size, units, side, side, generator=torch.Generator().manual_seed(0))
        # Correlated neighbours, as real maps have.
        self.register_buffer("maps", nn.functional.avg_pool2d(maps, 3, 1, 1).relu())
        self.layer = nn.Identity()

    def forward(self, images):
        return self.layer(self.maps[: len(images)])


def bare_pass(model, probe, batch_size, precision):
    images = range(len(probe))
    batches = probe_batches(LabelEncoder(probe, probe.mask_size), images, Reading(batch_size=batch_size), known=images)
    with torch.inference_mode(), precision():
        for batch in batches:
            model(prepare(batch.images, model, probe.normalize))


def timed(run):
    """Wall seconds on a GPU, processor seconds of all threads on a CPU."""
    gc.collect()
    cuda = torch.cuda.is_available() and torch.cuda.memory_allocated() > 0
    clock = time.perf_counter if cuda else time.process_time
    start = clock()
    run()
    if cuda:
        torch.cuda.synchronize()
    return clock() - start


def race(variants, rounds):
    """Least time of each variant; they take turns."""
    best = {name: [] for name in variants}
    for run in variants.values():
        run()
    for _ in range(rounds):
        for name, run in variants.items():
            best[name].append(timed(run))
    return {name: min(times) for name, times in best.items()}


def dissector(probe, layers, batch_size=32, **options):
    return Dissector(probe, layers, batch_size=batch_size, **options)


def against_forward(device, precision_name, images, rounds, batch_size=32):
    """Probe sweep with dissection over the bare pass: layer4, all stages, and the part of chance calibration."""
    probe = Patchwork(images)
    model = torchvision.models.resnet18().eval().to(device)
    precision = (lambda: torch.autocast(device, torch.bfloat16)) if precision_name == "bf16" else nullcontext

    def forward(batch):
        with precision():
            return model(batch)

    def bare():
        bare_pass(model, probe, batch_size, precision)

    last, every = dissector(probe, ["layer4"], batch_size), dissector(probe, STAGES, batch_size)

    def without_chance():
        with patch("lightning_interp.methods.dissection.study.cyclic_partners", return_value={}):
            last(model, forward=forward)

    seconds = race(
        {
            "bare": bare,
            "bare again": bare,
            "layer4": lambda: last(model, forward=forward),
            "layer4 without chance": without_chance,
            "all stages": lambda: every(model, forward=forward),
        },
        rounds,
    )
    bare_seconds = min(seconds["bare"], seconds["bare again"])
    print(f"\nresnet18, {SIZE} px, {images} images, {device} {precision_name}: ratio to the bare forward pass")
    print(f"  bare pass                {1000 * bare_seconds / images:8.2f} ms an image")
    print(f"  control (bare / bare)    {seconds['bare again'] / seconds['bare']:8.3f}")
    print(f"  dissection of layer4     {seconds['layer4'] / bare_seconds:8.3f}   (bar 1.15)")
    chance = seconds["layer4"] - seconds["layer4 without chance"]
    print(f"    of it chance           {chance / bare_seconds:8.3f}")
    print(f"  dissection of 4 stages   {seconds['all stages'] / bare_seconds:8.3f}   (bar 1.6)")


def scaling(rounds):
    """Cost of the statistics alone against images, units and concepts; linear would be 2."""
    batch_size = 32

    def cost(images=96, units=256, concepts=20, present=8):
        probe = Patchwork(images, concepts, present)
        model = Replay(units, 7, batch_size)
        run = dissector(probe, ["layer"], batch_size)
        return race({"run": lambda: run(model)}, rounds)["run"]

    base = cost()
    print("\nstatistics alone, 7x7 maps (2.0 is linear for a doubling)")
    print(f"  images x 2               {cost(images=192) / base:8.2f}")
    print(f"  units x 2                {cost(units=512) / base:8.2f}")
    print(f"  concepts x 2             {cost(concepts=40) / base:8.2f}")
    print(f"  concepts x 10            {cost(concepts=200) / base:8.2f}")
    print(f"  concepts an image x 2    {cost(concepts=40, present=16) / base:8.2f}")


MEMORY = ("bare", "layer4", "4 stages")


def peak_memory(which, images):
    """Peak resident MiB beyond what the network and the images take (Linux: the kernel's own mark, reset)."""
    probe = Patchwork(images)
    model = torchvision.models.resnet18().eval()
    Path("/proc/self/clear_refs").write_text("5")
    before = high_water()
    if which == "bare":
        bare_pass(model, probe, 32, nullcontext)
    else:
        dissector(probe, STAGES if which == "4 stages" else ["layer4"])(model)
    print((high_water() - before) // 1024)


def high_water():
    """Peak resident size in KiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def memory(images):
    print("\npeak memory beyond network and images, MiB, each in a process of its own")
    for which in MEMORY:
        command = [sys.executable, __file__, "--memory", which, "--images"]
        values = [
            int(subprocess.run([*command, str(n)], capture_output=True, text=True, check=True).stdout)
            for n in (images, 2 * images)
        ]
        print(f"  {which:10s} {values[0]:6d}   with twice the images {values[1]:6d}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", choices=MEMORY, help="print one variant's peak memory and stop")
    arguments = parser.parse_args()
    if arguments.memory:
        peak_memory(arguments.memory, arguments.images)
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, minima of {arguments.rounds} rounds")
    against_forward("cpu", "fp32", arguments.images, arguments.rounds)
    if torch.cuda.is_available():
        for precision in ("fp32", "bf16"):
            against_forward("cuda", precision, 16 * arguments.images, arguments.rounds, batch_size=256)
    scaling(arguments.rounds)
    memory(arguments.images)


if __name__ == "__main__":
    main()
