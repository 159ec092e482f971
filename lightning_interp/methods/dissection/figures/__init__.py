"""Dissections to look at."""
