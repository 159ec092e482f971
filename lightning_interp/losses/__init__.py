"""What makes a training's network better: right reasons, contexts that do not go with the label, filters of parts."""

from lightning_interp.functional.reduction import Reduction
from lightning_interp.methods.filters.assignment import FilterAssignment
from lightning_interp.methods.filters.class_specific_gate import ClassSpecificGate
from lightning_interp.methods.filters.interpretable_mask import InterpretableMask, insert_mask
from lightning_interp.methods.filters.loss import LabelConditionedLoss
from lightning_interp.methods.filters.maths.filter_losses import FilterLoss, label_conditioned
from lightning_interp.methods.filters.maths.group_correlation import group_correlation
from lightning_interp.methods.filters.maths.mutual_information import mutual_information
from lightning_interp.methods.filters.maths.spatial_compactness import spatial_compactness
from lightning_interp.methods.right_reasons.context import ContextRandomiser
from lightning_interp.methods.right_reasons.loss import RightReasonsLoss, class_log_probs, right_reasons_penalty
from lightning_interp.schedule import Ramp

__all__ = [
    "ClassSpecificGate",
    "ContextRandomiser",
    "FilterAssignment",
    "FilterLoss",
    "InterpretableMask",
    "LabelConditionedLoss",
    "Ramp",
    "Reduction",
    "RightReasonsLoss",
    "class_log_probs",
    "group_correlation",
    "insert_mask",
    "label_conditioned",
    "mutual_information",
    "right_reasons_penalty",
    "spatial_compactness",
]
