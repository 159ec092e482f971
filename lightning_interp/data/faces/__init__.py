"""Rendered faces: a probe set without files."""
