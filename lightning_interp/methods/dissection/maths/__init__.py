"""Scores of a dissection."""
