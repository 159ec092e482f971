"""What every result is: figures by name, the few of them that a person watches, one line when printed, files."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from lightning_interp.errors import DatasetError

S = TypeVar("S", bound="Result")
L = TypeVar("L")

MOST_HEADLINES = 11
"""Tags that a layer or target sends to the loggers by default, at most; one more is the wall time of all."""


class Result(ABC):
    """What a probe found: frozen, on the CPU.

    Attributes:
        FILE: Name of the file that says that a folder holds such a result.
        num_images: Images probed.
        settings: The options that produced it, JSON-able.
        seconds: Wall time of the probe.
        meta: When it was made: ``epoch``, ``global_step`` and the like.
    """

    FILE: ClassVar[str]
    num_images: int
    settings: Mapping[str, Any]
    seconds: float
    meta: Mapping[str, Any]

    _kinds: ClassVar[dict[str, "type[Result]"]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "FILE" in vars(cls):
            other = Result._kinds.setdefault(cls.FILE, cls)
            if other.__qualname__ != cls.__qualname__:
                raise TypeError(f"{cls.FILE} is the file of {other.__qualname__} already")
            Result._kinds[cls.FILE] = cls

    @abstractmethod
    def scalars(self) -> dict[str, float]:
        """Every figure by name, always the same names in the same order, and ``seconds``; NaN for none."""

    @abstractmethod
    def headline(self) -> dict[str, float]:
        """The few figures that a person watches, each with its level of chance.

        At most :data:`MOST_HEADLINES` of a layer or target. Beside each that can be NaN stands ``<figure>_known``,
        1 or 0, so that a chart is never empty without a word.
        """

    @abstractmethod
    def save(self, folder: Path) -> Path:
        """Write it to a folder, whole or not at all, without pickle; the path of :attr:`FILE`, which comes last."""

    @classmethod
    @abstractmethod
    def load(cls: type[S], folder: Path) -> S:
        """Read what :meth:`save` wrote, bit for bit.

        Raises:
            DatasetError: If the folder holds no complete result.
        """

    @abstractmethod
    def about(self) -> str:
        """What was looked at, in a few words."""

    def __repr__(self) -> str:
        """One line: the arrays would fill pages."""
        return f"{type(self).__name__}({self.about()})"


class LayeredResult(Result, Generic[L]):
    """A result of some layers of a network.

    Attributes:
        layers: By module path, in the order asked for.
        HEADLINE: What :meth:`watched` gives, where that is the same for all layers.
        LAYER: The dataclass of a layer, for results of the common saved form.
    """

    HEADLINE: ClassVar[tuple[str, ...]] = ()
    LAYER: ClassVar[type]
    layers: Mapping[str, L]

    def __getitem__(self, layer: str) -> L:
        """The layer of that name."""
        return self.layers[layer]

    @abstractmethod
    def layer_scalars(self, layer: L) -> dict[str, float]:
        """A layer's figures by name, without the layer's."""

    def scalars(self) -> dict[str, float]:
        """Every figure as ``<layer>/<quantity>``, and ``seconds``."""
        values: dict[str, float] = {}
        for name, layer in self.layers.items():
            values |= {f"{name}/{key}": value for key, value in self.layer_scalars(layer).items()}
        return values | {"seconds": self.seconds}

    def watched(self, layer: L) -> tuple[str, ...]:
        """The figures of a layer that a person watches; one that can be NaN ends in ``?``."""
        return self.HEADLINE

    def headline(self) -> dict[str, float]:
        """The figures of :meth:`watched` as ``<layer>/<quantity>``."""
        found: dict[str, float] = {}
        for name, layer in self.layers.items():
            chosen = headline_of(self.layer_scalars(layer), self.watched(layer))
            found |= {f"{name}/{key}": value for key, value in chosen.items()}
        return found

    def about(self) -> str:
        """Layers and images."""
        return f"{', '.join(self.layers)}; {self.num_images} images"

    def rows(self, layer: L) -> Sequence[Sequence[Any]]:
        """The table of a layer, a row a unit below a row of names; none by default."""
        return ()

    def save(self, folder: Path) -> Path:
        """Write :attr:`FILE`, and for each layer its arrays and, if there are :meth:`rows`, a CSV."""
        from lightning_interp.results.layered import save_layered

        return save_layered(self, folder)

    @classmethod
    def load(cls: type[S], folder: Path) -> S:
        """Read what :meth:`save` wrote, bit for bit."""
        from lightning_interp.results.layered import load_layered

        found: S = load_layered(cls, folder)
        return found


def headline_of(values: Mapping[str, float], wanted: Iterable[str]) -> dict[str, float]:
    """Those of some figures that are there, and beside what can be NaN whether it is known.

    Example:
        >>> headline_of({"detectors": 3.0, "purity": math.nan, "seconds": 1.0}, ["detectors", "purity?", "r2?"])
        {'detectors': 3.0, 'purity': nan, 'purity_known': 0.0}
    """
    found: dict[str, float] = {}
    for each in wanted:
        name = each.removesuffix("?")
        if name in values:
            found[name] = values[name]
            if name != each:
                found[f"{name}_known"] = float(not math.isnan(values[name]))
    return found


def load(folder: str | Path) -> Result:
    """Read whichever result a folder holds.

    Raises:
        DatasetError: If it holds none, or none that is complete, or several.
        MissingExtraError: If what reads its arrays is not installed.
    """
    kinds = {file: kind for file, kind in Result._kinds.items() if (Path(folder) / file).is_file()}
    if len(kinds) != 1:
        known = ", ".join(sorted(Result._kinds))
        what = (
            f"several results ({', '.join(kinds)}); load one by its class" if kinds else f"no result: none of {known}"
        )
        raise DatasetError(f"{folder}: {what}")
    (kind,) = kinds.values()
    return kind.load(Path(folder))
