"""What is asked of a network: a target, the region that should decide it, and the contexts that should not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lightning_interp.data.counterfactuals import Remade
from lightning_interp.data.probe import ProbeSet
from lightning_interp.data.region_bank import CONTROL
from lightning_interp.errors import DatasetError
from lightning_interp.functional.fills import Fill
from lightning_interp.functional.swaps import draw_donors


@dataclass(frozen=True)
class Asked:
    """The question, with everything about the probe set that does not change from epoch to epoch.

    Args:
        probe: The probe set.
        target: The attribute.
        region: The region that should decide it.
        contexts: By context attribute, its region.
        labels: By attribute, ``(N,)`` int64 over the whole probe set; -1 where unknown. The target always.
        num_classes: Of the target.
        outputs: What the network's outputs stand for; None for one output or one an answer.
        fills: How to fill regions; the first is the headline.
        indices: The images to probe, on all processes together.
        shown: By region, ``(n,)`` bool, which of these show it.
        training: By attribute, its values in the training set, where they were given.
        remade: Makes images of the probe set again with attributes set, if it can.
        expected: Signs of the relations that attributes ought to have; a pair not named is unrelated.
        units: Of the layer looked at, once that is known.
    """

    probe: ProbeSet
    target: str
    region: str
    contexts: Mapping[str, str]
    labels: Mapping[str, Tensor]
    num_classes: int
    outputs: tuple[str, ...] | None
    fills: Sequence[Fill]
    indices: Sequence[int]
    shown: Mapping[str, Tensor]
    remade: Remade
    training: Mapping[str, Tensor] = field(default_factory=dict)
    expected: Mapping[tuple[str, str], int] = field(default_factory=dict)
    units: int = 0

    def first(self, count: int | None) -> "Asked":
        """The same of the first so many images alone; of all for None."""
        shown = {region: seen[:count] for region, seen in self.shown.items()}
        return replace(self, indices=self.indices[:count], shown=shown)

    @property
    def labelled(self) -> tuple[str, ...]:
        """Contexts whose labels are known for some images."""
        return tuple(name for name in self.contexts if bool((self.chosen(name) >= 0).any()))

    @property
    def apart(self) -> dict[str, str]:
        """By context that no image shows together with the target's region, why reliance cannot be divided."""
        shown = self.shown[self.region]
        return {
            context: f"no image shows '{self.region}' and '{place}'"
            for context, place in self.contexts.items()
            if not bool((shown & self.shown[place]).any())
        }

    @property
    def regions(self) -> tuple[str, ...]:
        """The region and the contexts' regions, each once."""
        return tuple(dict.fromkeys((self.region, *self.contexts.values())))

    def chosen(self, name: str) -> Tensor:
        """``(n,)`` int64, labels of the probed images; -1 throughout for an attribute that nobody labelled."""
        known = self.labels.get(name)
        return torch.full((len(self.indices),), -1) if known is None else known[list(self.indices)]

    def sign_label(self, context: str) -> str:
        """The attribute that signs a context's effect: its own where it is labelled, else the target.

        With more than two classes the target always: their score is the true class's, which no context's label turns.
        """
        return context if context in self.labelled and self.num_classes == 2 else self.target

    def donors(self, labels: Tensor, region: str, seed: int = 0) -> tuple[Tensor, Tensor]:
        """For each image a donor of the same label and one of another, drawn among the images that show a region.

        Drawn from the whole set, so that they do not depend on the processes.

        Args:
            labels: ``(n,)`` int64, of the probed images; -1 where unknown.
            region: The region.
            seed: Seed of the draw.

        Returns:
            Each ``(N,)`` int64, indices of the probe set; -1 where there is no donor.
        """
        chosen = torch.tensor(list(self.indices))
        drawn = torch.stack(draw_donors(torch.where(self.shown[region], labels, -1), seed))
        donors = torch.full((2, len(self.probe)), -1)
        donors[:, chosen] = torch.where(drawn >= 0, chosen[drawn], -1)
        return donors[0], donors[1]


def check_question(target: str, region: str, contexts: Mapping[str, str]) -> None:
    """Check that target, region and contexts are names that can be told apart.

    Raises:
        DatasetError: If not.
    """
    if not isinstance(contexts, Mapping) or not contexts:
        raise DatasetError(f"contexts are {contexts!r}; give at least one context: {{attribute: region}}")
    for kind, names in {"attribute": (target, *contexts), "region": (region, *contexts.values())}.items():
        for name in names:
            if not isinstance(name, str):
                raise DatasetError(f"{kind} {name!r} is a {type(name).__name__}; give one name")
    if target in contexts:
        raise DatasetError(f"'{target}' is the target and a context; its effects cannot be told apart from its own")
    if taken := {"region", CONTROL} & set(contexts):
        raise DatasetError(f"a context may not be named '{taken.pop()}': that is what others are held against")


def check_lists(**options: Sequence[str] | None) -> None:
    """Check that options that list names are no single name, and that no output is named twice.

    Raises:
        DatasetError: If not.
    """
    for option, given in options.items():
        if isinstance(given, str):
            raise DatasetError(f"{option} must be a list of names; write {option}=[{given!r}]")
        if option == "outputs" and given is not None and len(set(given)) < len(given):
            raise DatasetError(f"outputs={list(given)!r} names an output twice")
