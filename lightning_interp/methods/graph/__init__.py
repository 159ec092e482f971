"""Explanatory graphs (Zhang et al., AAAI 2018): part patterns of filters, and which say where others are."""
