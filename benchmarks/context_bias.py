"""What each context-bias check costs, and what all of them read where the right answer is known.

    python -m benchmarks.context_bias                                  # cost, as ratios to one bare forward pass
    python -m benchmarks.context_bias --answers 0 0.5 0.8 0.95 --seeds 0 1 2   # trains networks: minutes for each

The costs are processor seconds of one run. The answers are those of networks trained on rendered faces whose make-up
goes with lipstick by rho, asked on faces with the same bias and on faces without any.
"""

import argparse
import time

import torch
from torch import nn

from lightning_interp import RenderedFaces
from lightning_interp.bias import Diagnoser
from lightning_interp.checks import CHECKS, DEFAULT_CHECKS
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


def trained(rho, seed, faces, epochs):
    """A network trained on biased faces."""
    torch.manual_seed(seed)
    data = RenderedFaces(faces, seed=1000 + seed, correlations={"makeup": rho}).classification(ATTRIBUTES)
    images, labels = (torch.stack(part) for part in zip(*(data[i] for i in range(len(data))), strict=True))
    network = FaceAttributes()
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=1e-2)
    steps = epochs * (len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(images))[: len(images) // 64 * 64].split(64):
            loss = nn.functional.binary_cross_entropy_with_logits(network(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def answers(rhos, seeds, faces, epochs, images):
    """Every score of every network, a column each."""
    columns = {}
    for rho in rhos:
        for seed in seeds:
            network = trained(rho, seed, faces, epochs)
            for split, correlations in (("biased", {"makeup": rho}), ("unbiased", {})):
                probe = RenderedFaces(images, seed=7, correlations=correlations)
                diagnoser = Diagnoser(probe, **QUESTION, outputs=ATTRIBUTES, examples=0)
                diagnoser.describe(network)
                columns[split, rho, seed] = diagnoser(network).scores
            print(f"trained rho {rho} seed {seed}", flush=True)
    for split in ("biased", "unbiased"):
        chosen = {key: scores for key, scores in columns.items() if key[0] == split}
        print(f"\n{split} faces  " + " ".join(f"{rho}/{seed}".rjust(7) for _, rho, seed in chosen))
        for name in next(iter(chosen.values())):
            print(f"  {name:32s}" + " ".join(f"{scores[name].value:7.3f}" for scores in chosen.values()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--answers", type=float, nargs="+", metavar="RHO", help="train networks at these correlations")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--faces", type=int, default=4000, help="to train on")
    parser.add_argument("--epochs", type=int, default=6)
    options = parser.parse_args()
    if options.answers:
        answers(options.answers, options.seeds, options.faces, options.epochs, options.images)
    else:
        cost(options.images, options.rounds)


if __name__ == "__main__":
    main()
