"""Sizes that keep the package readable."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lightning_interp"
MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_sizes(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400, "a module has at most 400 lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            doc = node.body[0] if ast.get_docstring(node) is not None else None
            # A long docstring is documentation, not length.
            lines -= doc.end_lineno - doc.lineno + 1 if doc is not None else 0
            assert lines <= 60, f"{node.name} has {lines} lines"
