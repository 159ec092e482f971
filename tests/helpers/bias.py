"""Faces of a few rectangles with exact counterfactuals, and networks whose every effect has a closed form."""

import importlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lightning_interp import ContextBias
from lightning_interp.data.probe import Concept, Labels, ProbeSet
from lightning_interp.methods.bias.engine import Diagnoser, diagnose

SIZE = 24
MOUTH = torch.zeros(SIZE, SIZE, dtype=torch.bool)
MOUTH[15:18, 8:16] = True
LIDS = torch.zeros(SIZE, SIZE, dtype=torch.bool)
LIDS[6:8, 4:20] = True
# Colours of 255.
LIPS, LIPSTICK, LID, MAKEUP = 60, 190, 40, 200
REGIONS = {"mouth": MOUTH, "lids": LIDS}
QUESTION = ("lipstick", "mouth", {"makeup": "lids"})


class TinyFaces(ProbeSet):
    """Rectangles on a grey of each face's own: the mouth red with lipstick, the lids blue with make-up.

    Args:
        rows: By image, ``(face, lipstick, makeup)``; images of one face are alike but for its attributes.
        known: Attributes that ``facts`` tell.
        without_mouth: Images that show no mouth.
        jitter: Faces differ in the brightness of their parts.
    """

    normalize = None
    concepts = (Concept(1, "mouth", "part"), Concept(2, "lids", "part"))
    mask_size = (SIZE, SIZE)

    def __init__(self, rows, *, known=("lipstick", "makeup"), without_mouth=(), jitter=True):
        self.rows, self.known, self.without_mouth, self.jitter = tuple(rows), known, set(without_mouth), jitter

    def __len__(self):
        return len(self.rows)

    def image(self, index: int) -> Tensor:
        return self._draw(index, {})

    def _draw(self, index: int, do: Mapping[str, int]) -> Tensor:
        face, lipstick, makeup = self.rows[index]
        lipstick, makeup = do.get("lipstick", lipstick), do.get("makeup", makeup)
        generator = torch.Generator().manual_seed(face)
        image = torch.randint(90, 130, (3, SIZE, SIZE), generator=generator)
        red, blue = torch.randint(0, 40, (2,), generator=generator).tolist() if self.jitter else (0, 0)
        image[0, MOUTH] = (LIPSTICK if lipstick else LIPS) + red
        image[2, LIDS] = (MAKEUP if makeup else LID) + blue
        return image.byte()

    def labels(self, index: int) -> Labels:
        plane = 2 * LIDS.long() + (0 if index in self.without_mouth else 1) * MOUTH.long()
        return Labels({"part": plane})

    def facts(self, index):
        _, lipstick, makeup = self.rows[index]
        attributes = {"lipstick": lipstick, "makeup": makeup, "third": index // 4 % 2, "kind": index % 3}
        return {"attributes": {name: attributes[name] for name in self.known}}

    def describe(self):
        return super().describe() | {"rows": self.rows}


class Remakeable(TinyFaces):
    """The same with exact counterfactuals."""

    def counterfactuals(self, indices: Sequence[int], do: Mapping[str, int]) -> Tensor:
        return torch.stack([self._draw(index, do) for index in indices])


def find(item):
    """Regions to the pixel; the mouth is empty in an image that shows none."""
    return {"mouth": item.labels.planes["part"] == 1, "lids": LIDS}


def all_versions(faces=12, **options):
    """Every face four times, with and without each attribute: label and context are independent."""
    return Remakeable([(face, y, c) for face in range(faces) for y in (0, 1) for c in (0, 1)], **options)


def biased(faces=40, conflicting=4, kind=Remakeable, **options):
    """Each face once; the attributes agree but for every so many-th pair of faces."""
    rows = []
    for face in range(faces):
        y = face % 2
        rows.append((face, y, 1 - y if face // 2 % (faces // 2 // (conflicting // 2)) == 0 else y))
    return kind(rows, **options)


class Additive(nn.Module):
    """``s = w_R * (redness of the mouth - its middle) + w_Q * (blueness of the lids - its middle)``, by a layer.

    Args:
        region: w_R.
        context: w_Q.
        centred: Whether the middles are taken off; without, the head has no bias.
    """

    def __init__(self, region: float, context: float, centred: bool = True) -> None:
        super().__init__()
        self.layer = nn.Identity()
        head = torch.zeros(3, SIZE, SIZE)
        head[0, MOUTH] = region / MOUTH.sum()
        head[2, LIDS] = context / LIDS.sum()
        self.head = nn.Parameter(head)
        # Of all faces, whose parts are up to 39 brighter.
        middle = region * ((LIPS + LIPSTICK) / 2 + 19.5) + context * ((LID + MAKEUP) / 2 + 19.5)
        self.bias = nn.Parameter(torch.tensor(-middle / 255 if centred else 0.0))

    def forward(self, x: Tensor) -> Tensor:
        return (self.layer(x) * self.head).sum((1, 2, 3)) + self.bias


class Heads(nn.Module):
    """Several additive networks as the columns of one output, by one layer."""

    def __init__(self, *heads: Additive) -> None:
        super().__init__()
        self.layer = nn.Identity()
        self.heads = nn.ModuleList(heads)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        return torch.stack([head(x) for head in self.heads], 1)


OPTIONS = {"regions": find, "layer": "layer", "fills": ("grey",), "batch_size": 16, "examples": 0}


def ask(model, probe, *, question=QUESTION, **options):
    """Diagnose with the options of these networks."""
    return diagnose(model, probe, *question, **OPTIONS | options)


def make_diagnoser(probe, *, question=QUESTION, **options):
    return Diagnoser(probe, *question, **OPTIONS | options)


def look_at(diagnoser, model, indices):
    """Images as the checks see them."""
    images = torch.stack([diagnoser.read(index) for index in indices])
    return diagnoser.view(diagnoser.network(model), indices, images)


def values(result):
    """By name, the value of every score."""
    return {name: score.value for name, score in result.scores.items()}


def make_bias(probe=None, *, question=QUESTION, **options):
    """The callback, on biased faces."""
    options = {"regions": find, "fills": ("grey",), "batch_size": 16, "examples": 1} | options
    return ContextBias(probe or biased(20), *question, **options)


def make_planted(plan, package="pytorch_lightning"):
    """A module that uses mouth and lids by the weights ``plan[e]`` in epoch e, none before; training is idle."""
    pl = importlib.import_module(package)

    class Planted(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer, self.idle = nn.Identity(), nn.Parameter(torch.zeros(()))
            self.use(0, 0)

        def use(self, region, context):
            net = Additive(region, context)
            self.register_buffer("head", net.head.detach(), persistent=False)
            self.register_buffer("bias", net.bias.detach(), persistent=False)

        def forward(self, x):
            return (self.layer(x) * self.head).sum((1, 2, 3)) + self.bias

        def on_train_epoch_start(self):
            self.use(*plan[self.current_epoch])

        def training_step(self, batch, batch_idx):
            return self.idle**2

        def validation_step(self, batch, batch_idx):
            pass

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Planted()
