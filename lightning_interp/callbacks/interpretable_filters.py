"""Training whose filters come to mean something: each fires at one place, on one class."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_interp._lightning import LightningModule, Trainer, rank_zero_warn
from lightning_interp.callbacks.loss_term import LossTerm, add_to_loss
from lightning_interp.data.part_regions import check_names
from lightning_interp.errors import LayerError
from lightning_interp.functional.filter_losses import FilterLoss
from lightning_interp.functional.filter_templates import Centre, Template, check_template
from lightning_interp.functional.mutual_information import mutual_information
from lightning_interp.functional.spatial_compactness import spatial_compactness
from lightning_interp.losses.filter_loss import LabelConditionedLoss
from lightning_interp.losses.ramp import Ramp, as_ramp
from lightning_interp.probing.layers import resolve_layers
from lightning_interp.probing.ranks import training_reduction

Loss = Literal["label_conditioned", "mutual_information", "spatial_compactness"]
_FREE: Mapping[str, Callable[[Tensor], Tensor]] = {
    "mutual_information": mutual_information,
    "spatial_compactness": spatial_compactness,
}
# Growth of the peaks since the first step; a weight so high that accuracy collapsed made it 8 in a prototype.
_INFLATED = 4.0
# Share of the filters that no longer fire on any image of a batch, and did before.
_DIED = 0.5
# Steps between two looks at the peaks, for a look makes an accelerator wait.
_LOOK = 20


class InterpretableFilters(LossTerm):
    """Adds a filter loss on named layers to whatever ``training_step`` returns.

    - ``"label_conditioned"`` (:func:`~lightning_interp.functional.filter_losses.label_conditioned`; Zhang, Wu, Zhu,
      CVPR 2018, as its code computes it): a filter is to fire at one place, on the images of its own class;
    - ``"mutual_information"`` (:func:`~lightning_interp.functional.mutual_information.mutual_information`; the paper's
      Eq. 1): at one place, whatever the class;
    - ``"spatial_compactness"`` (:func:`~lightning_interp.functional.spatial_compactness.spatial_compactness`;
      Varshneya et al., IJCAI 2021): in one blob.

    Start from a network that has learnt its task: from scratch these losses cost much accuracy. Works with automatic
    optimisation, mixed precision, gradient accumulation and DDP (the label-conditioned loss with statistics of all
    processes, the others with each process' own). Which filter belongs to which class is kept in checkpoints.

    Scalars, means over the epoch: ``<name>/weight`` and, by layer, ``<name>/<layer>/loss`` (before weighting),
    ``dead`` (filters that fired on no image of a batch), ``mean_peak``; of the label-conditioned loss also
    ``negative_share``, ``reassigned``, ``fewest_filters`` and ``most_filters`` of a class.

    Warns once when peaks grow to four times those at the first step, or half the filters cease to fire: the weight is
    then too high, and accuracy is about to go.

    Args:
        layers: Paths of layers that give maps after a ReLU, and by which everything passes: of a residual network a
            whole stage, not a branch of it.
        num_classes: Classes of the labels; for the label-conditioned loss.
        loss: Which loss.
        weight: Weight of the sum over filters and layers, or how it grows over the epochs.
        start_epoch: First epoch with a weight, where that is a number; before it, the classes' statistics are taken.
        labels: Where the batch has the labels, ``(B,)`` integers or ``(B, K)`` memberships: a position, a key, or a
            function of the batch.
        template: Slope of the label-conditioned loss' templates, or beta itself, larger for smaller parts
            (:func:`~lightning_interp.functional.filter_templates.templates_at`).
        centre: See :func:`~lightning_interp.functional.filter_templates.map_centres`.
        name: First part of every tag.

    Raises:
        LayerError: If a layer is unknown; at the first training step if it does not run once, or gives no maps, or
            values below 0.
        ProbeError: With manual optimisation or sharded weights; with :class:`LabelConditionedLoss` do it by hand.
        DatasetError: If the loss is unknown.
        ValueError: If ``num_classes`` is missing or the template unknown; at the first step, if labels do not fit.
    """

    title = "filters"
    by_hand = "LabelConditionedLoss"

    def __init__(
        self,
        layers: Sequence[str],
        num_classes: int | None = None,
        *,
        loss: Loss = "label_conditioned",
        weight: float | Ramp = 1e-2,
        start_epoch: int = 1,
        labels: int | str | Callable[[Any], Tensor] = 1,
        template: Template = "code",
        centre: Centre = "argmax",
        name: str = "filters",
    ) -> None:
        check_names([loss], get_args(Loss), "filter loss")
        check_template(template)
        if loss == "label_conditioned" and num_classes is None:
            raise ValueError("the label-conditioned loss needs num_classes, the number of classes of the labels")
        self.layers, self.num_classes, self.loss, self.labels = layers, num_classes, loss, labels
        self.weight = as_ramp(weight) if isinstance(weight, Ramp) else Ramp(weight, start_epoch)
        self.template: Template = template
        self.centre: Centre = centre
        self.name = name
        self.losses: dict[str, LabelConditionedLoss] = {}
        self._loaded: dict[str, Any] = {}
        self._maps: dict[str, list[Tensor]] | None = None
        self._names: tuple[str, ...] = ()
        self._handles: list[Any] = []
        self._start: dict[str, tuple[Tensor, Tensor]] = {}
        self._steps, self._warned = 0, False

    @property
    def state_key(self) -> str:
        """Two callbacks of different names keep their states apart."""
        return f"{type(self).__name__}{{'name': {self.name!r}}}"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot work."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            resolve_layers(pl_module, self.layers)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wrap the training step and hook the layers, before a compiled module runs for the first time."""
        super().on_fit_start(trainer, pl_module)
        layers = resolve_layers(pl_module, self.layers)
        self._names = tuple(layers)
        for name, layer in layers.items():

            def keep(module: Any, args: Any, output: Any, name: str = name) -> None:
                if self._maps is not None and torch.is_grad_enabled():
                    self._maps.setdefault(name, []).append(output)

            self._handles.append(layer.register_forward_hook(keep))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave nothing on the module."""
        super().teardown(trainer, pl_module, stage)
        for handle in self._handles:
            handle.remove()
        self._handles, self._maps = [], None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pair filters and classes anew, by what the epoch before showed."""
        for name, loss in self.losses.items():
            self._log(trainer, pl_module, {f"{name}/reassigned": float(loss.assignment.reassign())}, 1)

    def around(self, trainer: Trainer, pl_module: LightningModule, step: Callable[[], Any], batch: Any) -> Any:
        """The step, with the weighted loss of every layer added."""
        self._maps = {}
        try:
            output = step()
            seen = self._maps
        finally:
            self._maps = None
        if output is None:
            return None
        weight = self.weight.at(trainer.current_epoch)
        total, scalars, size = None, {"weight": weight}, 1
        for name in self._names:
            maps = _one(name, seen.get(name, []))
            found = self._of(name, maps, batch)
            scalars |= {f"{name}/{key}": value for key, value in self._told(name, found).items()}
            total = found.loss if total is None else total + found.loss
            size = len(maps)
        self._log(trainer, pl_module, scalars, size)
        self._steps += 1
        return add_to_loss(output, weight * total) if weight and total is not None else output

    def _of(self, name: str, maps: Tensor, batch: Any) -> FilterLoss:
        """Loss and diagnostics of a layer."""
        if self._steps == 0 and bool((maps < 0).any()):
            raise LayerError(
                f"layer '{name}' gives values below 0; name the ReLU after it, or a block that ends in one"
            )
        if self.loss != "label_conditioned":
            with torch.no_grad():
                peaks = maps.float().amax((2, 3))
            nothing = peaks.new_zeros(())
            return FilterLoss(_FREE[self.loss](maps), nothing, peaks.amax(0) == 0, peaks.mean(), nothing)
        if name not in self.losses:
            assert self.num_classes is not None  # refused in __init__
            made = LabelConditionedLoss(maps.shape[1], self.num_classes, self.template, self.centre)
            if name in self._loaded:
                made.load_state_dict(self._loaded[name])
            self.losses[name] = made.to(maps.device)
        loss = self.losses[name]
        found: FilterLoss = loss(maps, _labels(batch, self.labels, maps), training_reduction())
        if not loss.assignment.decided:
            loss.assignment.reassign()
        return found

    def _told(self, name: str, found: FilterLoss) -> dict[str, Any]:
        """Scalars of a layer, after a look at whether its activations inflate."""
        peak, dead = found.mean_peak.detach(), found.dead.float().mean()
        start, dead_then = self._start.setdefault(name, (peak, dead))
        if not self._warned and self._steps % _LOOK == _LOOK - 1:
            grown, died = float(peak / start), float(dead - dead_then)
            if grown > _INFLATED or died > _DIED:
                self._warned = True
                what = f"{grown:.0f} times those at the start" if grown > _INFLATED else f"0 in {died:.0%} more filters"
                rank_zero_warn(
                    f"{self.name}: the peaks of '{name}' are {what}; the weight {self.weight.weight:g} is too high, "
                    "and accuracy is about to go: take a tenth of it"
                )
        scalars = {"loss": found.loss.detach(), "dead": dead * len(found.dead), "mean_peak": peak}
        if name in self.losses:
            counts = self.losses[name].assignment.filters_per_class.float()
            scalars |= {
                "negative_share": found.negative_share,
                "fewest_filters": counts.min(),
                "most_filters": counts.max(),
            }
        return scalars

    def _log(self, trainer: Trainer, pl_module: LightningModule, scalars: Mapping[str, Any], size: int) -> None:
        if not trainer.barebones:
            tags = {f"{self.name}/{name}": value for name, value in scalars.items()}
            pl_module.log_dict(tags, on_step=False, on_epoch=True, sync_dist=True, batch_size=size)

    def state_dict(self) -> dict[str, Any]:
        """Statistics and assignments of every layer, and what its filters did at the start."""
        return {
            "losses": {name: loss.state_dict() for name, loss in self.losses.items()},
            "start": dict(self._start),
            "warned": self._warned,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with them; a layer's are taken up when it first runs, for only then its filters are counted."""
        self._loaded, self._start = dict(state_dict["losses"]), dict(state_dict["start"])
        self._warned = state_dict["warned"]


def _one(name: str, runs: list[Any]) -> Tensor:
    if len(runs) != 1:
        raise LayerError(f"layer '{name}' ran {len(runs)} times with gradients in training_step, expected once")
    (maps,) = runs
    if not isinstance(maps, Tensor) or maps.ndim != 4 or not maps.is_floating_point():
        raise LayerError(f"layer '{name}' gives no float maps (B, F, H, W); name a submodule that does")
    return maps


def _labels(batch: Any, place: int | str | Callable[[Any], Tensor], maps: Tensor) -> Tensor:
    try:
        labels = place(batch) if callable(place) else batch[place]
    except (KeyError, IndexError, TypeError) as error:
        if callable(place):
            raise
        raise ValueError(f"filters: labels={place!r} is not in the batch, a {type(batch).__name__}: {error}") from error
    labels = labels.to(maps.device)
    return labels.long() if labels.ndim == 1 else labels.bool()
