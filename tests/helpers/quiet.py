"""Warnings of Lightning, and of what it imports, that small trainings cannot avoid."""

LIGHTNING_NOISE = (
    # Barebones says so whenever the module logs.
    r"ignore:You are trying to `self.log\(\)` but `Trainer\(barebones=True\)`",
    # Our loaders are tiny; processes for them would cost more than they bring.
    r"ignore:The '\w+' does not have many workers",
    # A BatchNorm kept in eval mode is what some tests are about.
    r"ignore:Found \d+ module\(s\) in eval mode",
    # So is a module that cannot validate.
    r"ignore:You passed in a `val_dataloader` but have no `validation_step`",
    # Lightning 2.6 calls a function that newer torch versions deprecate.
    r"ignore:.*isinstance\(treespec, LeafSpec\)",
)
