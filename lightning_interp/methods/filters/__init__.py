"""Losses that make filters respond to one part (Zhang, Wu and Zhu, CVPR 2018)."""
