"""Reliance, relations, groups, slices and localisation, from sums."""
