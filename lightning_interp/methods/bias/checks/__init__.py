"""The context-bias checks: each sums up batches of the probe set, then makes scores of its sums."""

from lightning_interp.methods.bias.checks.attribution import Attribution
from lightning_interp.methods.bias.checks.base import Check
from lightning_interp.methods.bias.checks.exact import Exact
from lightning_interp.methods.bias.checks.groups import Groups
from lightning_interp.methods.bias.checks.occlusion import Occlusion
from lightning_interp.methods.bias.checks.relations import AttributeRelations
from lightning_interp.methods.bias.checks.sensitivity import Background, InputGradient, Noise
from lightning_interp.methods.bias.checks.slices import Slices
from lightning_interp.methods.bias.checks.swap import Swap

_ALL = (Groups, Occlusion, Swap, Exact, Attribution, AttributeRelations, Noise, Background, InputGradient, Slices)

CHECKS: dict[str, type[Check]] = {check.name: check for check in _ALL}
"""By name, every check."""

DEFAULT_CHECKS = ("groups", "occlusion", "swap", "exact", "attribution", "relations")
"""Those that run unless others are asked for."""

__all__ = ["CHECKS", "DEFAULT_CHECKS", "Check"]
