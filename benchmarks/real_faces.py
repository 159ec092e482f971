"""Context reliance on photos of faces, where the right answer is known because the make-up is rendered.

    python -m benchmarks.real_faces FOLDER --out OUT      # FOLDER as FacesWithParts reads it; minutes

Networks learn lipstick and make-up, which go together by rho, from photos recoloured anew for each copy of the training
set; other photos are asked about. One more network learns whose lips are red, by the table's column ``lip_redness``,
of which no counterfactual is known.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from lightning_interp.data import FacesWithParts, Recoloured
from lightning_interp.data.probe import ProbeSet
from lightning_interp.methods.bias.engine import diagnose
from lightning_interp.methods.bias.figures.interventions import intervention_gallery
from lightning_interp.methods.bias.verdict import verdict
from lightning_interp.results.files import write_png
from recipes.rendered_faces.module import block

SIZE = 64
OUTPUTS = ("lipstick", "makeup")
SHOWN = ("accuracy", "worst_group_accuracy", "association", "exact_reliance", "crr", "crr_by_target", "crr_grey")
SHOWN += ("crr_skin", "crr_blur", "scr", "e_region", "e_context", "e_control", "mass", "enrichment", "relation")


def network(outputs: int) -> nn.Module:
    def down(inputs: int, channels: int) -> nn.Sequential:
        return nn.Sequential(*block(inputs, channels), nn.MaxPool2d(2))

    head = (nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(96, outputs))
    return nn.Sequential(down(3, 32), down(32, 64), block(64, 96), block(96, 96), *head)


def train(images: torch.Tensor, labels: torch.Tensor, options: argparse.Namespace) -> nn.Module:
    """``(N, 3, H, W)`` float, normalised, and ``(N, K)`` float."""
    torch.manual_seed(options.seed)
    net = network(labels.shape[1])
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=options.epochs * (len(images) // 64))
    for _ in range(options.epochs):
        for rows in torch.randperm(len(images))[: len(images) // 64 * 64].split(64):
            batch = images[rows]
            if torch.rand(()) < 0.5:
                batch = batch.flip(3)
            loss = nn.functional.binary_cross_entropy_with_logits(net(batch), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def pixels(probe: ProbeSet) -> torch.Tensor:
    """``(N, 3, H, W)`` float as the engine gives them to the network: normalised."""
    mean, std = (torch.tensor(part)[:, None, None] for part in probe.normalize)
    images = torch.stack([probe.image(i) for i in range(len(probe))]).float() / 255
    return (images - mean) / std


def planted(faces: FacesWithParts, rho: float, options: argparse.Namespace) -> None:
    """A network that learnt from recoloured photos, asked about others, without the bias and with it."""
    train_on, ask = split(faces)
    copies = [Recoloured(faces, rho=rho, seed=seed, indices=train_on) for seed in range(options.copies)]
    images = torch.cat([pixels(copy) for copy in copies])
    facts = [copy.facts(i)["attributes"] for copy in copies for i in range(len(copy))]
    net = train(images, torch.tensor([[own[name] for name in OUTPUTS] for own in facts]).float(), options)
    for name, own in (("unbiased", 0.0), ("biased", rho)):
        probe = Recoloured(faces, rho=own, seed=1000, indices=ask)
        tell(f"rho {rho:g}, {name}", options, net, probe, "lipstick", {"makeup": "eyes"}, outputs=OUTPUTS)


def natural(faces: FacesWithParts, options: argparse.Namespace) -> None:
    """A network that learnt whose lips are red, from the photos as they are."""
    plain = {"lipstick": (0.0, 0.0), "makeup": (0.0, 0.0)}
    learn, probe = (Recoloured(faces, strengths=plain, indices=part) for part in split(faces))
    labels = torch.tensor([learn.facts(i)["attributes"]["red_lips"] for i in range(len(learn))]).float()
    copies = options.copies
    net = train(pixels(learn).repeat(copies, 1, 1, 1), labels.repeat(copies)[:, None], options)
    contexts = {"eye area": "eyes", "hair colour": "hair", "surroundings": "background"}
    tell("red lips", options, net, probe, "red_lips", contexts)


def split(faces: FacesWithParts) -> tuple[list[int], list[int]]:
    """Photos to learn from, and every fourth to ask about."""
    return [i for i in range(len(faces)) if i % 4], list(range(0, len(faces), 4))


def tell(
    title: str,
    options: argparse.Namespace,
    net: nn.Module,
    probe: Recoloured,
    target: str,
    contexts: dict[str, str],
    outputs: Sequence[str] | None = None,
) -> None:
    """Print what the network relies on, in words and figures, and write the picture."""
    result = diagnose(net, probe, target, "mouth", contexts, outputs=outputs, fills=("grey", "skin", "blur"))
    print(f"\n{title}: {result.num_images} photos", *verdict(result, {}), sep="\n  ")
    for name, score in result.scores.items():
        if name.partition("/")[0] in SHOWN:
            interval = "" if math.isnan(score.low) else f"  [{score.low:.3f}, {score.high:.3f}]"
            print(f"  {name:32s}{score.value:8.3f}{interval}", flush=True)
    write_png(options.out / f"{title.replace(', ', '_').replace(' ', '_')}.png", intervention_gallery(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--rhos", type=float, nargs="+", default=(0.0, 0.6, 0.95))
    parser.add_argument("--copies", type=int, default=6, help="of the training set, each with make-up of its own")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--redness", type=float, default=13.0, help="lip_redness above which lips are red")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    red = {"red_lips": ("lip_redness", options.redness)}
    faces = FacesWithParts(options.folder, attributes=red, size=(SIZE, SIZE))
    for rho in options.rhos:
        planted(faces, rho, options)
    natural(faces, options)


if __name__ == "__main__":
    main()
