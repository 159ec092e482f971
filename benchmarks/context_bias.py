"""What each context-bias check costs, as ratios to one bare forward pass: processor seconds of one run.

python -m benchmarks.context_bias
"""

import argparse
import time

import torch

from lightning_interp import RenderedFaces
from lightning_interp.methods.bias.checks import CHECKS, DEFAULT_CHECKS
from lightning_interp.methods.bias.engine import Diagnoser
from recipes.rendered_faces.module import ATTRIBUTES, FaceAttributes

QUESTION = {"target": "lipstick", "region": "mouth", "contexts": {"makeup": "eyes", "blond": "hair"}}


def seconds(run):
    start = time.process_time()
    run()
    return time.process_time() - start


def cost(images, rounds):
    """Each check alone, and the default ones together, over a bare forward pass of the same images."""
    probe = RenderedFaces(images)
    network = FaceAttributes().eval()
    batches = torch.stack([probe.image(i) for i in range(images)]).float().div(255).split(64)

    def bare():
        with torch.inference_mode():
            for batch in batches:
                network(batch)

    def diagnosis(checks):
        diagnoser = Diagnoser(probe, **QUESTION, outputs=ATTRIBUTES, checks=checks, examples=0)
        diagnoser.describe(network)
        return lambda: diagnoser(network)

    runs = {"bare": bare, "bare again": bare} | {name: diagnosis([name]) for name in CHECKS}
    runs["default checks"] = diagnosis(DEFAULT_CHECKS)
    first = {name: seconds(run) for name, run in runs.items()}
    least = {name: min(seconds(run) for _ in range(rounds)) for name, run in runs.items()}
    unit = min(least["bare"], least["bare again"])
    print(f"{images} images of 64 x 64, {len(QUESTION['contexts'])} contexts, in bare forward passes over them")
    print(f"  control (bare / bare)  {least['bare again'] / least['bare']:6.2f}")
    for name in (*CHECKS, "default checks"):
        kind = " (default)" if name in DEFAULT_CHECKS else ""
        print(f"  {name + kind:22s} {least[name] / unit:6.1f}   first time {first[name] / unit:6.1f}")
    print("  (bar for the default checks: 40)")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    cost(options.images, options.rounds)


if __name__ == "__main__":
    main()
