"""Location instability and part interpretability of filters."""
