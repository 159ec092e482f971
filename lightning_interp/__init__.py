"""Watch what a CNN learns while PyTorch Lightning trains it."""

__version__ = "0.1.0"
