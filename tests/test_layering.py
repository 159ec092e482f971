"""Who may import what: the rules that keep the engine free of Lightning and figures free of models."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lightning_interp"
BASE = {"errors", "options", "schedule", "_extras"}
# By first name under the package, what a module may import of the package beside its own folder and the base.
MAY_IMPORT = {
    **{name: set() for name in BASE},
    "functional": set(),
    "metrics": {"functional"},
    "data": {"functional"},
    "probing": {"metrics", "functional", "data"},
    "results": {"functional", "data"},
    "bias_results": set(),
    "checks": {"bias_results", "functional", "data", "probing"},
    "bias_pictures": {"bias_results", "checks", "functional"},
    "bias": {"bias_pictures", "bias_results", "checks", "functional", "data", "probing"},
    "losses": {"functional"},
    "part_results": {"functional"},
    # Its methods look up what they do when they are called.
    "graph_results": {"functional", "graphs", "logging", "graph_engine", "data"},
    "graphs": {"graph_results", "functional"},
    "graph_study": {"graph_engine", "graph_results", "graphs", "probing", "functional", "data"},
    "graph_engine": {"graph_study", "graph_results", "graphs", "probing", "functional", "data"},
    "graph_synthesis": {"graph_engine", "graph_results", "graphs", "probing"},
    "modules": {"functional"},
    "part_sweep": {"parts", "probing", "metrics", "functional", "data"},
    "parts": {"part_sweep", "part_results", "probing", "functional", "data"},
    "notices": {"results"},
    "sweep": {"dissect", "results", "probing", "metrics", "functional", "data"},
    "dissect": {"sweep", "results", "notices", "probing", "functional", "data"},
    "viz": {"results", "bias_results", "part_results", "graph_results", "graphs", "functional", "data"},
    "logging": {
        *("results", "bias_results", "part_results", "graph_results", "graphs", "modules"),
        *("functional", "data", "viz", "report"),
    },
    "report": {"results", "bias_results", "graph_results", "graphs", "functional", "data", "viz", "logging"},
    "_lightning": set(),
    "callbacks": {
        *("_lightning", "bias", "bias_results", "checks", "dissect", "losses", "results", "probing", "functional"),
        *("parts", "part_results", "graph_engine", "graph_results", "graph_synthesis", "graphs"),
        *("data", "viz", "report", "logging"),
    },
    "cli": {
        *("_lightning", "callbacks", "cli_graph", "dissect", "results", "probing", "data"),
        *("viz", "report", "logging"),
    },
    "cli_graph": {"graph_results", "graphs", "data", "viz", "report", "logging"},
}
LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric"}
HEAVY = {"matplotlib", "jsonargparse", "safetensors", "networkx", "captum", "scipy", "sklearn", "h5py"}
# Third parties beyond torch, numpy and the standard library.
ONLY_IN = {
    "torchmetrics": {"metrics"},
    "PIL": {"data", "viz", "logging"},
    "torchvision": {"data"},
    "jinja2": {"report"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def part_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path):
    """``(module, name, runtime)`` of every import; those under ``if TYPE_CHECKING`` do not run."""
    tree = ast.parse(path.read_text())
    idle = {
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and isinstance(test.test, ast.Name) and test.test.id == "TYPE_CHECKING"
        for branch in test.body
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "", id(node) not in idle) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from ((node.module, alias.name, id(node) not in idle) for alias in node.names)


def calls(path):
    """Dotted names of everything that is called, with the call."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports(path):
    part = part_of(path)
    if path == PACKAGE / "__init__.py":
        return
    allowed = MAY_IMPORT[part] | BASE | {part}
    for module, name, runtime in imports(path):
        root, _, rest = module.partition(".")
        if root == "lightning_interp":
            target = rest.partition(".")[0] or name
            assert target in allowed, f"{part} imports {module}"
            if part in {"viz", "report", "logging"} and target == "data":
                assert module == "lightning_interp.data.probe", f"{part} imports {module}"
        if root in LIGHTNING:
            assert part == "_lightning" or not runtime, f"{path.name} imports {module} and is not _lightning"
            assert not any(n.startswith("_") for n in (*module.split("."), name)), f"{path.name}: private {module}"
        if root in HEAVY:
            assert not runtime, f"{path.name} imports {module}; use _extras.require inside a function"
        assert part in ONLY_IN.get(root, {part}), f"{part} imports {module}"
        assert "pyplot" not in f"{module}.{name}"


def test_functional_needs_torch_and_numpy_only():
    known = {"torch", "numpy", "lightning_interp"} | set(sys.stdlib_module_names)
    for path in (PACKAGE / "functional").glob("*.py"):
        assert {module.partition(".")[0] for module, _, _ in imports(path)} <= known


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_runs_code_from_data(path):
    for name, call in calls(path):
        assert name not in {"eval", "exec", "compile", "__import__", "os.system"}, f"{path.name}: {name}"
        assert not name.startswith(("pickle.", "marshal.", "shelve.", "subprocess.")), f"{path.name}: {name}"
        if name == "torch.load":
            safe = [k.value for k in call.keywords if k.arg == "weights_only"]
            assert [getattr(v, "value", None) for v in safe] == [True], f"{path.name}: torch.load"
        if name in {"np.load", "numpy.load"}:
            assert not any(k.arg == "allow_pickle" for k in call.keywords), f"{path.name}: {name}"
        assert "pyplot" not in name


@pytest.mark.parametrize("path", sorted((PACKAGE / "callbacks").glob("*.py")), ids=lambda p: p.name)
def test_callbacks_use_public_names_of_lightning(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            private = node.attr.startswith("_") and not node.attr.startswith("__")
            assert not (private and node.value.id in {"trainer", "pl_module", "module", "Trainer", "LightningModule"})


def test_every_module_is_in_the_table():
    assert {part_of(path) for path in MODULES} - {"__init__"} <= set(MAY_IMPORT)
