"""What repairs a biased training: the right-reasons penalty, and contexts that no longer go with the label."""

from lightning_interp.losses.context import ContextRandomiser
from lightning_interp.losses.ramp import Ramp
from lightning_interp.losses.right_reasons import RightReasonsLoss, class_log_probs, right_reasons_penalty

__all__ = ["ContextRandomiser", "Ramp", "RightReasonsLoss", "class_log_probs", "right_reasons_penalty"]
