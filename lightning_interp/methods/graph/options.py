"""How to learn an explanatory graph."""

import math
import operator
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lightning_interp.errors import LayerError

# Nodes a filter by unit of its map, from so many units on: those of the paper's VGG-16 (40 for 28 x 28 maps, 20 for
# 14 x 14), ResNets (10 for 7 x 7) and VAE-GAN (52, 26, 13 for 32 x 32, 16 x 16, 8 x 8).
_DENSITIES = ((28 * 28, 0.05), (14 * 14, 0.1), (0, 0.2))

# Of the generators of PyTorch, which are given a little more for every layer.
_SEEDS = 2**63


@dataclass(frozen=True)
class GraphOptions:
    """Options of an explanatory graph; lengths are relative to sqrt(H * W) of the image.

    Args:
        patterns: Part patterns a filter, one number by layer, or one for all layers; None for those of the paper: 5 %
            of the units of maps of 28 x 28 and more, 10 % from 14 x 14 on, 20 % of smaller ones.
        filters: Take the so many filters of a layer with the largest mean response; None for all that are alive.
        iterations: T, EM steps a layer.
        parents: M, edges of a node to the layer above.
        candidates: Patterns of the layer above that may become parents: those with the largest scores.
        sigma: Standard deviation of a pattern's prior while it is learnt, without parents.
        deformation: Largest standard deviation of the prior when a pattern is looked for; None for that of learning,
            as in the paper.
        learn_width: Learn it for every pattern of the top layer instead.
        spreads: Least and largest standard deviation that is learnt.
        tau: Density of V_none, relative to that of a uniform distribution over the image.
        background: Response that any filter is taken to have in all, spread evenly over the image, relative to its
            mean over the layer. With 0 a pattern takes an active unit of its filter however far it is, as in the paper;
            above 0 it stays where it is expected when its filter is silent near by.
        pose: K, numbers that say how an image's patterns are displaced together (this project's own); 0 for none,
            as in the paper. They are taken up once they make the images likelier, their own priors included: where
            nothing moves together there is no displacement.
        ridge: Images' worth of evidence that the displacement by pose has to overcome.
        window: Half the side of the square beyond which a pattern looks at nothing; None for no such window.
        flips: Let each image, or its mirror image, whichever is likelier, speak.
        seed: Of the first positions.

    Raises:
        ValueError: If a value is out of range, naming it.
    """

    patterns: int | Sequence[int] | None = None
    filters: int | None = None
    iterations: int = 20
    parents: int = 15
    candidates: int = 600
    sigma: float = 0.3
    deformation: float | None = 0.1
    learn_width: bool = False
    spreads: tuple[float, float] = (0.03, 0.5)
    tau: float = 0.1
    background: float = 0.1
    pose: int = 2
    ridge: float = 1.0
    window: float | None = None
    flips: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        # Numbers of numpy and lists of YAML are made Python's own, as JSON and comparisons need them.
        for name, value in self._checked().items():
            object.__setattr__(self, name, value)

    def _checked(self) -> dict[str, Any]:
        """The values that a kind of number is asked of, as that, and within their ranges."""
        found: dict[str, Any] = {"patterns": _counts(self.patterns), "seed": _whole("seed", self.seed, 0)}
        parents = found["parents"] = _whole("parents", self.parents, 1)
        for name, least in (("iterations", 1), ("candidates", parents), ("pose", 0)):
            found[name] = _whole(name, getattr(self, name), least)
        if self.filters is not None:
            found["filters"] = _whole("filters", self.filters, 1)
        for name in ("sigma", "deformation", "window"):
            if name == "sigma" or getattr(self, name) is not None:
                number = found[name] = _number(name, getattr(self, name))
                if not (number > 0 and math.isfinite(number)):
                    raise ValueError(f"{name} must be positive and finite, got {number}")
        for name in ("tau", "background", "ridge"):
            number = found[name] = _number(name, getattr(self, name))
            if not (number >= 0 and math.isfinite(number)):
                raise ValueError(f"{name} must be at least 0 and finite, got {number}")
        for name in ("learn_width", "flips"):
            found[name] = _flag(name, getattr(self, name))
        if found["seed"] >= _SEEDS:
            raise ValueError(f"seed must be below 2**63, got {found['seed']}")
        spreads = found["spreads"] = tuple(_number("spreads", each) for each in _several(self.spreads) or ())
        if len(spreads) != 2 or not 0 < spreads[0] <= spreads[1] < math.inf:
            raise ValueError(f"spreads must be two positive numbers, the smaller first, got {self.spreads}")
        return found

    def nodes(self, place: int, name: str, size: tuple[int, int]) -> int:
        """Patterns a filter of the layer in that place, whose maps are ``(h, w)``.

        Raises:
            LayerError: If there is no number for the layer, or it is larger than the map.
        """
        units = size[0] * size[1]
        if self.patterns is None:
            density = next(share for least, share in _DENSITIES if units >= least)
            return math.ceil(density * units)
        counts = self.patterns
        if isinstance(counts, Sequence) and place >= len(counts):
            raise LayerError(f"patterns has {len(counts)} numbers; layer '{name}' is number {place + 1}")
        count = counts[place] if isinstance(counts, Sequence) else counts
        if count > units:
            raise LayerError(f"layer '{name}': {count} patterns a filter, but its maps have {units} units")
        return count

    def as_dict(self) -> dict[str, Any]:
        """The options, JSON-able."""
        return asdict(self)


def _whole(name: str, value: Any, least: int) -> int:
    try:
        number = int(operator.index(value))
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return number


def _counts(value: Any) -> int | tuple[int, ...] | None:
    several = _several(value)
    if several is not None:
        return tuple(_whole("patterns", each, 1) for each in several)
    return None if value is None else _whole("patterns", value, 1)


def _several(value: Any) -> list[Any] | None:
    """What is in it; None if it is one thing, as arrays and tensors of no dimension are too."""
    try:
        return list(value)
    except TypeError:
        return None


def _flag(name: str, value: Any) -> bool:
    if value not in (True, False):
        raise ValueError(f"{name} must be true or false, got {value!r}")
    return bool(value)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        # The last for tensors of several numbers.
        raise ValueError(f"{name} must be a number, got {value!r}") from None
