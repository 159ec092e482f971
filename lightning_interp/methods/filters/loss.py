"""The label-conditioned filter loss with its own assignment of filters to classes."""

from torch import Tensor, nn

from lightning_interp.functional.reduction import LOCAL, Reduction, training_reduction
from lightning_interp.methods.filters.assignment import FilterAssignment
from lightning_interp.methods.filters.maths.filter_losses import FilterLoss, label_conditioned
from lightning_interp.methods.filters.maths.filter_templates import Centre, Template, check_centre, check_template
from lightning_interp.methods.filters.maths.memberships import memberships


class LabelConditionedLoss(nn.Module):
    """The label-conditioned loss of one layer, to be added to a loss by hand.

    See :func:`~lightning_interp.methods.filters.maths.filter_losses.label_conditioned`.

    In a training step, with automatic or manual optimisation::

        maps = self.backbone(images).relu()
        loss = cross_entropy(self.head(maps), y) + 1e-2 * self.filter_loss(maps, y).loss

    and, once an epoch, ``self.filter_loss.assignment.reassign()``. In training it first adds the batch to the
    statistics of the assignment, whose shares of the classes weigh positive against negative images.

    In data-parallel training the statistics are those of all processes, each of which must come here equally often.
    They are then the same everywhere, so that DDP changes nothing where it copies the buffers of a submodule from rank
    zero (``broadcast_buffers``).

    Args:
        num_filters: F, channels of the layer.
        num_classes: K; 1 for images of one class against all others, with labels ``(B, 1)`` bool.
        template: See :func:`~lightning_interp.methods.filters.maths.filter_templates.templates_at`.
        centre: See :func:`~lightning_interp.methods.filters.maths.filter_templates.map_centres`.

    Raises:
        ValueError: If the template or the centre is unknown.
    """

    def __init__(
        self, num_filters: int, num_classes: int, template: Template = "code", centre: Centre = "argmax"
    ) -> None:
        super().__init__()
        check_template(template)
        check_centre(centre)
        self.assignment = FilterAssignment(num_filters, num_classes)
        self.template: Template = template
        self.centre: Centre = centre

    def forward(self, x: Tensor, labels: Tensor, reduction: Reduction | None = None) -> FilterLoss:
        """Loss, without weight, and diagnostics.

        Args:
            x: ``(B, F, H, W)`` float of at least 0: after a ReLU.
            labels: See :func:`~lightning_interp.methods.filters.maths.memberships.memberships`.
            reduction: None for all processes in training, and this one alone in eval, where some may have no batch.

        Raises:
            ValueError: If maps or labels do not fit.
        """
        assignment = self.assignment
        member = memberships(labels, assignment.num_classes, len(x))
        if reduction is None:
            reduction = training_reduction() if self.training else LOCAL
        assignment.update(x, member, reduction)
        # With one label the released code weighs both sides alike.
        density = assignment.density if assignment.num_classes > 1 else None
        return label_conditioned(x, member, assignment.assignment, density, self.template, self.centre, reduction)
