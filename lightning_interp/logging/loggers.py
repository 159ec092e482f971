"""One way to write every kind of artifact to every Lightning logger, without importing either."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from lightning_interp.drawing.figures import render
from lightning_interp.drawing.text import markdown_table
from lightning_interp.logging.artifacts import (
    Artifact,
    CustomScalars,
    Figure,
    Histogram,
    Image,
    Scalars,
    Table,
    Text,
    safe_tag,
)

# The logger is Any by need: Lightning ships its classes twice, and each logger has methods of its own.
_Writer = Callable[[Any, Any, int], None]


def write(logger: Any, artifact: Artifact, step: int) -> bool:
    """Write an artifact to a logger of Lightning, if the logger can show its kind.

    The logger's class is told by name along its base classes, so it may come from ``lightning.pytorch`` or
    from ``pytorch_lightning``. TensorBoard takes every kind; Weights & Biases all but custom scalars;
    MLflow all but that and histograms; every other logger takes scalars.

    Args:
        logger: One of ``trainer.loggers``; call it on rank zero only.
        artifact: What to write; its tag goes through :func:`safe_tag`.
        step: The global step to write it at.

    Returns:
        Whether it was written.
    """
    if isinstance(artifact, Scalars):
        logger.log_metrics({safe_tag(tag): value for tag, value in artifact.values.items()}, step=step)
        return True
    writer = _writers(logger).get(type(artifact))
    if writer is None:
        return False
    if not isinstance(artifact, CustomScalars):
        artifact = replace(artifact, tag=safe_tag(artifact.tag))
    writer(logger, artifact, step)
    return True


def shows(logger: Any, kind: type[Artifact]) -> bool:
    """Whether the logger can show artifacts of that kind: no use in drawing them otherwise."""
    return kind is Scalars or kind in _writers(logger)


def _writers(logger: Any) -> Mapping[type, _Writer]:
    names = [base.__name__ for base in type(logger).__mro__]
    return next((_WRITERS[name] for name in names if name in _WRITERS), {})


def _pixels(artifact: Image | Figure) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return render(artifact.figure) if isinstance(artifact, Figure) else np.asarray(artifact.image)


def _markdown(artifact: Text | Table) -> str:
    if isinstance(artifact, Text):
        return artifact.markdown
    return markdown_table(artifact.columns, artifact.rows)


def _tensorboard_image(logger: Any, artifact: Image | Figure, step: int) -> None:
    logger.experiment.add_image(artifact.tag, _pixels(artifact), step, dataformats="HWC")


def _tensorboard_text(logger: Any, artifact: Text | Table, step: int) -> None:
    logger.experiment.add_text(artifact.tag, _markdown(artifact), step)


def _tensorboard_histogram(logger: Any, artifact: Histogram, step: int) -> None:
    bins = artifact.bins
    # TensorBoard takes right edges; an empty first bin gives the next one its left edge.
    logger.experiment.add_histogram_raw(
        artifact.tag,
        min=bins.minimum,
        max=bins.maximum,
        num=int(bins.counts.sum()),
        sum=bins.total,
        sum_squares=bins.squares,
        bucket_limits=bins.edges.tolist(),
        bucket_counts=[0, *bins.counts.tolist()],
        global_step=step,
    )


def _tensorboard_layout(logger: Any, artifact: CustomScalars, step: int) -> None:
    layout = {
        heading: {chart: [kind, [safe_tag(tag) for tag in tags]] for chart, (kind, tags) in charts.items()}
        for heading, charts in artifact.layout.items()
    }
    logger.experiment.add_custom_scalars(layout)


def _wandb_image(logger: Any, artifact: Image | Figure, step: int) -> None:
    logger.log_image(key=artifact.tag, images=[PillowImage.fromarray(_pixels(artifact))], step=step)


def _wandb_text(logger: Any, artifact: Text, step: int) -> None:
    logger.log_text(key=artifact.tag, columns=["text"], data=[[artifact.markdown]], step=step)


def _wandb_table(logger: Any, artifact: Table, step: int) -> None:
    rows = [list(row) for row in artifact.rows]
    logger.log_table(key=artifact.tag, columns=list(artifact.columns), data=rows, step=step)


def _wandb_histogram(logger: Any, artifact: Histogram, step: int) -> None:
    histogram = importlib.import_module("wandb").Histogram
    bins = (artifact.bins.counts, artifact.bins.edges)
    logger.log_metrics({artifact.tag: histogram(np_histogram=bins)}, step=step)


def _mlflow_image(logger: Any, artifact: Image | Figure, step: int) -> None:
    image = PillowImage.fromarray(_pixels(artifact))
    logger.experiment.log_image(logger.run_id, image, f"{artifact.tag}/step_{step:08d}.png")


def _mlflow_text(logger: Any, artifact: Text | Table, step: int) -> None:
    logger.experiment.log_text(logger.run_id, _markdown(artifact), f"{artifact.tag}/step_{step:08d}.md")


_WRITERS: Mapping[str, Mapping[type, _Writer]] = {
    "TensorBoardLogger": {
        Image: _tensorboard_image,
        Figure: _tensorboard_image,
        Text: _tensorboard_text,
        Table: _tensorboard_text,
        Histogram: _tensorboard_histogram,
        CustomScalars: _tensorboard_layout,
    },
    "WandbLogger": {
        Image: _wandb_image,
        Figure: _wandb_image,
        Text: _wandb_text,
        Table: _wandb_table,
        Histogram: _wandb_histogram,
    },
    "MLFlowLogger": {
        Image: _mlflow_image,
        Figure: _mlflow_image,
        Text: _mlflow_text,
        Table: _mlflow_text,
    },
}
