"""Who may import what: a package for each method, over a small core that knows none."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lightning_interp"
# The floors of the house, from the ground up; a module imports its own floor and those below. Rooms of one floor do not
# know each other.
FLOORS = (
    {"errors"},
    {"schedule", "_extras", "_moved", "_lightning"},
    {"functional"},
    {"data"},
    {"results", "probing", "drawing"},
    {"logging"},
    {"callbacks"},
    {"methods"},
    {"__init__", "losses", "metrics", "cli"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric"}
HEAVY = {"matplotlib", "jsonargparse", "safetensors", "networkx", "captum", "scipy", "sklearn", "h5py"}
# Third parties beyond torch, numpy and the standard library; of a method, only the rooms named.
ONLY_IN = {
    "torchmetrics": {"probing", "metrics", "methods"},
    "PIL": {"data", "drawing", "results", "logging", "methods"},
    "torchvision": {"data"},
    "jinja2": {"drawing", "methods"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def part_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def module_of(path):
    parts = ("lightning_interp", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


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
def test_imports_go_down(path):
    """Rules 1 and 2: no core knows a method, no method another, and nothing looks upstairs."""
    part, wing = part_of(path), path.relative_to(PACKAGE).parts[:2]
    for module, name, _ in imports(path):
        root, _, rest = module.partition(".")
        if root != "lightning_interp":
            continue
        target = rest.partition(".")[0] or name
        if target not in FLOOR:  # A public name, which only what lies on the top floor asks for.
            target = "__init__"
        assert target == part or FLOOR[target] < FLOOR[part], f"{module_of(path)} imports {module}"
        if part == target == "methods":
            assert tuple(rest.split(".")[:2]) == wing, f"{module_of(path)} imports another method, {module}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_libraries(path):
    """Rules 4 and 5: Lightning in one place, heavy libraries when they are used."""
    part = part_of(path)
    for module, name, runtime in imports(path):
        root = module.partition(".")[0]
        if module == "lightning_interp._lightning":
            assert part in {"callbacks", "cli"} or path.name == "callback.py", f"{module_of(path)} imports Lightning"
        if root in LIGHTNING:
            assert part == "_lightning" or not runtime, f"{path.name} imports {module} and is not _lightning"
            assert not any(n.startswith("_") for n in (*module.split("."), name)), f"{path.name}: private {module}"
        if root in HEAVY:
            assert not runtime, f"{path.name} imports {module}; use _extras.require inside a function"
        assert part in ONLY_IN.get(root, {part}), f"{part} imports {module}"
        assert "pyplot" not in f"{module}.{name}"


def test_functional_needs_torch_and_numpy_only():
    known = {"torch", "numpy", "lightning_interp"} | set(sys.stdlib_module_names)
    for path in (PACKAGE / "functional").rglob("*.py"):
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


@pytest.mark.parametrize(
    "path", [p for p in MODULES if part_of(p) == "callbacks" or p.name == "callback.py"], ids=module_of
)
def test_callbacks_use_public_names_of_lightning(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            private = node.attr.startswith("_") and not node.attr.startswith("__")
            assert not (private and node.value.id in {"trainer", "pl_module", "module", "Trainer", "LightningModule"})


def test_every_module_is_on_a_floor():
    assert {part_of(path) for path in MODULES} <= set(FLOOR)
