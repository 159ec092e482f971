"""Packages that are as if they were not installed."""

import sys


def hide(monkeypatch, roots):
    """Make imports of top-level packages fail for the length of a test."""

    class Nothing:
        def find_spec(self, name, path=None, target=None):
            root = name.partition(".")[0]
            if root in roots:
                raise ModuleNotFoundError(f"No module named {name!r}", name=root)

    for name in list(sys.modules):
        if name.partition(".")[0] in roots:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Nothing(), *sys.meta_path])
