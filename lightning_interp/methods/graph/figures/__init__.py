"""Explanatory graphs to look at."""
