"""Probe sets in files on disk."""
