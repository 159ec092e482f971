"""An explanatory graph, with what can be done with it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from lightning_interp.data.probe import ProbeSet
from lightning_interp.methods.graph.maths import editing
from lightning_interp.methods.graph.maths.export import to_networkx
from lightning_interp.methods.graph.patterns import Inference, PatternGraph
from lightning_interp.results.base import Result, headline_of

if TYPE_CHECKING:
    import networkx


@dataclass(frozen=True, repr=False)
class GraphResult(PatternGraph, Result):
    """An explanatory graph (Zhang et al., AAAI 2018): part patterns of some layers and edges between them.

    Its fields are those of a :class:`~lightning_interp.methods.graph.patterns.PatternGraph`.
    """

    FILE: ClassVar[str] = "graph.json"

    @property
    def num_images(self) -> int:  # type: ignore[override]  # it follows from the images
        """Images that the graph was learnt from; 0 if they were not kept."""
        return 0 if self.learnt_from is None else len(self.learnt_from.images)

    def scalars(self) -> dict[str, float]:
        """The evaluation's figures as ``<layer>/<quantity>``, ``<layer>/patterns`` and ``seconds``.

        For the quantities see :class:`~lightning_interp.methods.graph.maths.evaluation.LayerEvaluation`; they are there
        if the images had landmarks of parts.
        """
        counts = {f"{each.layer}/patterns": float(len(each)) for each in self.layers}
        return {**self.meta.get("evaluation", {}), **counts, "seconds": self.seconds}

    def headline(self) -> dict[str, float]:
        """Patterns of each layer, and how they do beside raw filters and chance."""
        values = self.scalars()
        found: dict[str, float] = {}
        against = ("correlation?", "correlation_raw?", "correlation_chance?", "instability?", "instability_raw?")
        for name in self.names:
            own = {key.removeprefix(f"{name}/"): v for key, v in values.items() if key.startswith(f"{name}/")}
            found |= {f"{name}/{key}": value for key, value in headline_of(own, ("patterns", *against)).items()}
        return found

    def infer(self, images: Tensor | ProbeSet, model: nn.Module, *, indices: Sequence[int] | None = None) -> Inference:
        """Where the patterns are in other images (:func:`~lightning_interp.methods.graph.engine.infer_images`)."""
        from lightning_interp.methods.graph.engine import infer_images

        return infer_images(self, model, images, indices=indices)

    def rank(self, layer: str | None = None, top: int | None = None) -> list[editing.RankedPattern]:
        """The kept patterns by score, the highest first.

        See :func:`~lightning_interp.methods.graph.maths.editing.rank`.
        """
        return editing.rank(self, layer, top)

    def rank_for_pruning(
        self, parts: Mapping[int, Tensor | Sequence[float]] | None = None, inference: Inference | None = None
    ) -> list[editing.DoubtfulPattern]:
        """The kept patterns, those most likely not on the part first.

        See :func:`~lightning_interp.methods.graph.maths.editing.rank_for_pruning`.
        """
        return editing.rank_for_pruning(self, parts, inference)

    def prune(self, names: Iterable[str]) -> "GraphResult":
        """A graph without the patterns of these names (:func:`~lightning_interp.methods.graph.maths.editing.prune`)."""
        return editing.prune(self, names)

    def restore(self, names: Iterable[str] | None = None) -> "GraphResult":
        """A graph with pruned patterns put back, all of them by default.

        See :func:`~lightning_interp.methods.graph.maths.editing.restore`.
        """
        return editing.restore(self, names)

    def undo(self) -> "GraphResult":
        """The graph before its last :meth:`prune` or :meth:`restore`; itself if there was none."""
        return editing.undo(self)

    def save(self, folder: Path) -> Path:
        """Write it to a folder, all or nothing (:func:`~lightning_interp.methods.graph.files.save_graph`)."""
        from lightning_interp.methods.graph.files import save_graph

        return save_graph(self, folder)

    @classmethod
    def load(cls, folder: Path) -> "GraphResult":
        """Read what :meth:`save` wrote (:func:`~lightning_interp.methods.graph.files.load_graph`)."""
        from lightning_interp.methods.graph.files import load_graph

        return load_graph(folder)

    def to_networkx(self) -> "networkx.DiGraph":
        """Patterns as nodes, edges from parent to child.

        See :func:`~lightning_interp.methods.graph.maths.export.to_networkx`.
        """
        return to_networkx(self)

    def export(self, path: Path) -> Path:
        """Write it as ``.graphml`` or ``.json`` (:func:`~lightning_interp.methods.graph.files.export_graph`)."""
        from lightning_interp.methods.graph.files import export_graph

        return export_graph(self, path)
