"""The losses, and the templates that they compare maps with."""
