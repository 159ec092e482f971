"""What learning an explanatory graph costs: 60 images, 672 filters of 14 x 14 units, 20 patterns each, 20 iterations.

    python -m benchmarks.explanatory_graph

CPU seconds are those of the process, on two threads; threads that wait for one another on a busy machine count as
busy unless `OMP_WAIT_POLICY=passive` is set. The published enumeration, 36 places a pattern and all pairs of places,
is timed on a few filters of the same maps, one iteration, on one thread. On a machine with a GPU the same is learnt
there too.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.dissection import high_water
from lightning_interp.functional.upsampling import Axis, Grid
from lightning_interp.methods.graph.maths.aaai2018 import learn_alone
from lightning_interp.methods.graph.maths.chunks import BYTE_BUDGET
from lightning_interp.methods.graph.maths.infer import LayerMaps
from lightning_interp.methods.graph.maths.learn import learn_graph
from lightning_interp.methods.graph.options import GraphOptions

IMAGES, FILTERS, PATTERNS, SIDE, ITERATIONS = 60, 672, 20, 14, 20
# Poses are this project's own; without them, and by default.
VARIANTS = {"as in the paper": 0, "with poses": GraphOptions().pose}
GRID = Grid(Axis.cells(SIDE, 224), Axis.cells(SIDE, 224))


def layer(images=IMAGES, filters=FILTERS, device="cpu"):
    """Noise: what it costs does not depend on what the maps show."""
    maps = torch.randn(images, filters, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return LayerMaps("noise", maps.to(device), None, GRID)


def learn(own, pose=0, iterations=ITERATIONS):
    return learn_graph([own], GraphOptions(patterns=PATTERNS, pose=pose, iterations=iterations))


def cpu_seconds(call):
    start = time.process_time()
    call()
    return time.process_time() - start


def published(own, filters):
    """One iteration of the published E- and M-step for some filters."""
    draw = torch.Generator().manual_seed(0)
    for maps in own.maps[:, :filters].double().transpose(0, 1):
        start = torch.rand(PATTERNS, 2, generator=draw, dtype=torch.float64) * (SIDE - 1) + 1
        learn_alone(maps, start, (0.316, 3.16), 0.025 * SIDE, iterations=1)


def peak_memory(pose):
    """Peak resident MiB of the learning beyond the maps (Linux: the kernel's own mark, reset)."""
    own = layer()
    learn(own._replace(maps=own.maps[:, :4]), pose, iterations=4)
    Path("/proc/self/clear_refs").write_text("5")
    before = high_water()
    learn(own, pose, iterations=4)
    print((high_water() - before) // 1024)


def memory():
    """Peak memory of each variant, in a process of its own."""
    # That of the pieces, four copies of the maps, and 100 bytes for each pattern in each image.
    budget = BYTE_BUDGET + 4 * layer().maps.nbytes + 100 * IMAGES * FILTERS * PATTERNS
    for name, pose in VARIANTS.items():
        command = [sys.executable, "-m", "benchmarks.explanatory_graph", "--memory", str(pose)]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
        print(f"  {name:22s} {found:>8s} MiB (bar {budget // 2**20})")


def against_published(seconds, images, filters, few=2):
    """The published enumeration's CPU time per filter and iteration over that of ``seconds`` for all."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    slow = cpu_seconds(lambda: published(layer(images, few), few)) / few
    torch.set_num_threads(threads)
    own = seconds / (filters * ITERATIONS)
    print(f"  published enumeration  {slow:8.3f} s a filter and iteration, {slow / own:.0f} times as long (bar 100)")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--filters", type=int, default=FILTERS)
    parser.add_argument("--memory", type=int, help="print the peak memory with so many pose numbers and stop")
    options = parser.parse_args()
    if options.memory is not None:
        peak_memory(options.memory)
        return
    torch.set_num_threads(2)
    images, filters = options.images, options.filters
    learn(layer(images, 4))
    print(
        f"{images} images, {filters} filters, {PATTERNS} patterns, {SIDE} x {SIDE} units, {ITERATIONS} iterations, CPU"
    )
    seconds = {}
    for name, pose in VARIANTS.items():
        seconds[name] = cpu_seconds(lambda pose=pose: learn(layer(images, filters), pose))
        print(f"  {name:22s} {seconds[name]:8.2f} s of two threads (bar 60)")
    against_published(seconds["as in the paper"], images, filters)
    for name, half in (("images", (images // 2, filters)), ("nodes", (images, filters // 2))):
        less = cpu_seconds(lambda half=half: learn(layer(*half)))
        print(f"  twice the {name:12s} {seconds['as in the paper'] / less:8.2f} times the time")
    if torch.cuda.is_available():
        for name, pose in VARIANTS.items():
            on_gpu(name, pose, images, filters)
    if sys.platform == "linux":
        print("peak memory beyond the maps")
        memory()


def on_gpu(name, pose, images, filters):
    own = layer(images, filters, "cuda")
    learn(own, pose, iterations=3)
    torch.cuda.synchronize()
    start = time.perf_counter()
    learn(own, pose)
    torch.cuda.synchronize()
    print(f"  {name}, GPU{'':6s} {time.perf_counter() - start:8.2f} s (bar 2)")


if __name__ == "__main__":
    main()
