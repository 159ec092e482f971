"""Training whose filters come to mean something: each fires at one place, on one class."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_interp._lightning import LightningModule, Trainer, rank_zero_warn
from lightning_interp.callbacks.loss_term import LossTerm, add_to_loss
from lightning_interp.errors import LayerError, check_names
from lightning_interp.methods.filters.loss import LabelConditionedLoss
from lightning_interp.methods.filters.maths.filter_losses import FilterLoss
from lightning_interp.methods.filters.maths.filter_templates import (
    Centre,
    Template,
    check_centre,
    check_maps,
    check_template,
)
from lightning_interp.methods.filters.maths.memberships import memberships
from lightning_interp.methods.filters.maths.mutual_information import mutual_information
from lightning_interp.methods.filters.maths.spatial_compactness import spatial_compactness
from lightning_interp.probing.layers import resolve_layers
from lightning_interp.probing.ranks import agree_in_training
from lightning_interp.schedule import Ramp, as_ramp

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

    - ``"label_conditioned"`` (:func:`~lightning_interp.methods.filters.maths.filter_losses.label_conditioned`; Zhang,
      Wu, Zhu, CVPR 2018, as its code computes it): a filter is to fire at one place, on the images of its own class;
    - ``"mutual_information"`` (:func:`~lightning_interp.methods.filters.maths.mutual_information.mutual_information`;
      the paper's Eq. 1): at one place, whatever the class;
    - ``"spatial_compactness"``
      (:func:`~lightning_interp.methods.filters.maths.spatial_compactness.spatial_compactness`; Varshneya et al., IJCAI
      2021): in one blob.

    Start from a network that has learnt its task: from scratch these losses cost much accuracy. Works with automatic
    optimisation, mixed precision, gradient accumulation and DDP (the label-conditioned loss with statistics of all
    processes, the others with each process' own). Which filter belongs to which class is kept in checkpoints.

    Scalars, means over the epoch: ``<name>/weight`` and, by layer, ``<name>/<layer>/loss`` (before weighting),
    ``dead`` (filters that fired on no image of a batch), ``mean_peak``; of the label-conditioned loss also
    ``negative_share``, ``reassigned``, ``fewest_filters`` and ``most_filters`` of a class.

    Warns once when peaks grow to four times those at the first step with any, or half the filters cease to fire: the
    weight is then too high, and accuracy is about to go. And where a layer has more classes than filters. What is wrong
    with maps or labels on one process only is raised on all of them.

    Args:
        layers: Paths of layers that give maps after a ReLU, and by which everything passes: of a residual network a
            whole stage, not a branch of it.
        num_classes: Classes of the labels; for the label-conditioned loss.
        loss: Which loss.
        weight: Weight of the sum over filters and layers, or how it grows over the epochs.
        start_epoch: First epoch with a weight, where that is a number; before it, the classes' statistics are taken.
        labels: Where the batch has the labels, ``(B,)`` whole numbers from 0 or ``(B, K)`` memberships of 0 and 1, of
            any type: a position, a key, or a function of the batch.
        template: Slope of the label-conditioned loss' templates, or beta itself, larger for smaller parts
            (:func:`~lightning_interp.methods.filters.maths.filter_templates.templates_at`).
        centre: See :func:`~lightning_interp.methods.filters.maths.filter_templates.map_centres`.
        name: First part of every tag.

    Raises:
        LayerError: If a layer is unknown; at the first training step if it does not run once, or gives no maps, or
            values below 0.
        ProbeError: With manual optimisation or sharded weights; with :class:`LabelConditionedLoss` do it by hand. On
            every process, if maps or labels are wrong on any of several.
        DatasetError: If the loss is unknown.
        ValueError: If ``num_classes`` is missing or below 1, or the template or centre unknown; at a step whose labels
            do not fit; on loading the statistics of another number of classes.
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
        check_centre(centre)
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if loss == "label_conditioned" and num_classes is None:
            raise ValueError("the label-conditioned loss needs num_classes, the number of classes of the labels")
        self.layers, self.num_classes, self.loss, self.labels = layers, num_classes, loss, labels
        self.weight = as_ramp(weight) if isinstance(weight, Ramp) else Ramp(weight, start_epoch)
        self.template: Template = template
        self.centre: Centre = centre
        self.name = name
        self._maps: dict[str, list[Tensor]] | None = None
        self._names: tuple[str, ...] = ()
        self._handles: list[Any] = []
        self.reset()

    def reset(self) -> None:
        """Forget all statistics and assignments: a new training begins."""
        self.losses: dict[str, LabelConditionedLoss] = {}
        self._start: dict[str, tuple[Tensor, Tensor]] = {}
        self._steps, self._warned = 0, False

    @property
    def state_key(self) -> str:
        """Two callbacks of different names keep their states apart."""
        return f"{type(self).__name__}{{'name': {self.name!r}}}"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot work, and begin anew unless the trainer goes on; a checkpoint is loaded after this."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            resolve_layers(pl_module, self.layers)
            if trainer.global_step == 0 and trainer.current_epoch == 0:
                self.reset()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wrap the training step and hook the layers, before a compiled module runs for the first time."""
        super().on_fit_start(trainer, pl_module)
        layers = resolve_layers(pl_module, self.layers)
        self._names = tuple(layers)
        # Of a checkpoint, which may have been loaded to another device and of other layers.
        self.losses = {name: loss.to(pl_module.device) for name, loss in self.losses.items() if name in layers}
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
        layers = self._read(seen, batch, pl_module.device)
        weight = self.weight.at(trainer.current_epoch)
        total, scalars, size = None, {"weight": weight}, 1
        for name, (maps, member) in layers.items():
            found = self._of(name, maps, member)
            scalars |= {f"{name}/{key}": value for key, value in self._told(name, found).items()}
            total = found.loss if total is None else total + found.loss
            size = len(maps)
        self._log(trainer, pl_module, scalars, size)
        self._steps += 1
        return add_to_loss(output, weight * total) if weight and total is not None else output

    def _read(
        self, seen: Mapping[str, list[Any]], batch: Any, device: torch.device
    ) -> dict[str, tuple[Tensor, Tensor | None]]:
        """Maps and memberships of each layer; all that can be wrong with them on one process only is found here."""
        layers, error = {}, None
        try:
            for name in self._names:
                maps = self._checked(name, seen.get(name, []))
                layers[name] = maps, self._member(batch, maps)
        except Exception as caught:
            error = caught
        # Before the first sum over processes: the others would wait in it for one that failed.
        agree_in_training(error, device)
        return layers

    def _checked(self, name: str, runs: list[Any]) -> Tensor:
        """The maps of the layer's only run."""
        if len(runs) != 1:
            raise LayerError(f"layer '{name}' ran {len(runs)} times with gradients in training_step, expected once")
        (maps,) = runs
        if not isinstance(maps, Tensor) or maps.ndim != 4 or not maps.is_floating_point():
            raise LayerError(f"layer '{name}' gives no float maps (B, F, H, W); name a submodule that does")
        check_maps(maps)
        if self._steps == 0 and bool((maps < 0).any()):
            raise LayerError(
                f"layer '{name}' gives values below 0; name the ReLU after it, or a block that ends in one"
            )
        return maps

    def _member(self, batch: Any, maps: Tensor) -> Tensor | None:
        """The images' classes, for the loss that needs them."""
        if self.loss != "label_conditioned":
            return None
        assert self.num_classes is not None  # refused in __init__
        return memberships(_labels(batch, self.labels), self.num_classes, len(maps)).to(maps.device)

    def _of(self, name: str, maps: Tensor, member: Tensor | None) -> FilterLoss:
        """Loss and diagnostics of a layer."""
        if member is None:
            with torch.no_grad():
                peaks = maps.float().amax((2, 3))
            nothing = peaks.new_zeros(())
            return FilterLoss(_FREE[self.loss](maps), nothing, peaks.amax(0) == 0, peaks.mean(), nothing)
        if name not in self.losses:
            filters, classes = maps.shape[1], member.shape[1]
            if filters < classes:
                rank_zero_warn(
                    f"{self.name}: layer '{name}' has {filters} filters for {classes} classes: {classes - filters} of "
                    "the classes have none; name a layer with more filters"
                )
            self.losses[name] = self._make(filters, classes).to(maps.device)
        loss = self.losses[name]
        found: FilterLoss = loss(maps, member)
        if not loss.assignment.decided:
            loss.assignment.reassign()
        return found

    def _make(self, num_filters: int, num_classes: int) -> LabelConditionedLoss:
        return LabelConditionedLoss(num_filters, num_classes, self.template, self.centre)

    def _told(self, name: str, found: FilterLoss) -> dict[str, Any]:
        """Scalars of a layer, after a look at whether its activations inflate."""
        peak, dead = found.mean_peak.detach(), found.dead.float().mean()
        # Without a look, which makes an accelerator wait: the start is the first step with peaks to compare with.
        start, dead_then = (value.to(peak) for value in self._start.get(name, (peak, dead)))
        usable = start.isfinite() & (start > 0)
        start, dead_then = start.where(usable, peak), dead_then.where(usable, dead)
        self._start[name] = start, dead_then
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
        """Go on with them."""
        self.reset()
        self._start, self._warned = dict(state_dict["start"]), state_dict["warned"]
        for name, state in state_dict["losses"].items() if self.loss == "label_conditioned" else ():
            classes, filters = state["assignment.mean_peak"].shape
            if classes != self.num_classes:
                raise ValueError(
                    f"{self.name}: the checkpoint's statistics of '{name}' are of {classes} classes, not of "
                    f"{self.num_classes}; give num_classes={classes}"
                )
            self.losses[name] = self._make(filters, classes)
            self.losses[name].load_state_dict(state)


def _labels(batch: Any, place: int | str | Callable[[Any], Tensor]) -> Tensor:
    try:
        labels: Tensor = place(batch) if callable(place) else batch[place]
    except (KeyError, IndexError, TypeError) as error:
        if callable(place):
            raise
        raise ValueError(
            f"filters: labels={place!r} is not in the batch, a {type(batch).__name__} ({error}); say with labels= "
            "where the labels are: a position, a key, or a function of the batch"
        ) from error
    return labels
