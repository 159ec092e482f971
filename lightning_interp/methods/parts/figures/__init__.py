"""Filters and parts to look at."""
