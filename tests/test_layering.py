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
    {"schedule", "_extras", "_moved", "_options", "_lightning"},
    {"functional"},
    {"data"},
    {"results", "probing", "drawing"},
    {"logging"},
    {"callbacks"},
    {"methods"},
    {"__init__", "losses", "cli"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric"}
HEAVY = {"matplotlib", "jsonargparse", "safetensors", "networkx", "captum", "scipy", "sklearn", "h5py"}
# Third parties beyond torch, numpy and the standard library; of a method, only the rooms named.
ONLY_IN = {
    "torchmetrics": {"probing"},
    "PIL": {"data", "drawing", "results", "logging", "methods"},
    "torchvision": {"data"},
    "jinja2": {"drawing", "methods"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))
# Rule 3, the rooms of a wing: what each may know of the others, directly or by way of a room that is not named here.
DATA = {"patterns", "options", "maths"}
SHOWING = {"files", "figures", "page", "cli"}
ROOMS = {
    "patterns": set(),
    "options": {"patterns"},
    "maths": DATA,
    "result": DATA,
    "study": DATA | {"result"},
    "engine": DATA | {"result", "study"},
    **dict.fromkeys(SHOWING, DATA | SHOWING | {"result"}),
}


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


def arrows():
    """By module, the modules that it imports when it is imported itself, or for its types."""
    names = {module_of(path): path for path in MODULES}
    found = {}
    for name, path in names.items():
        tree = ast.parse(path.read_text())
        functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
        late = {id(node) for function in functions for node in ast.walk(function)}
        early = [node for node in ast.walk(tree) if id(node) not in late]
        targets = {alias.name for node in early if isinstance(node, ast.Import) for alias in node.names}
        for node in early:
            if isinstance(node, ast.ImportFrom):
                dotted = [f"{node.module}.{alias.name}" for alias in node.names]
                targets |= {whole if whole in names else node.module for whole in dotted}
        found[name] = targets & set(names)
    return found


def between(rooms):
    """The arrows between rooms, of which ``rooms`` names that of a module; None for modules that do not matter."""
    found = {}
    for module, targets in arrows().items():
        if (room := rooms(module)) is not None:
            found.setdefault(room, set()).update({rooms(target) for target in targets} - {room, None})
    return found


def reached(graph, start):
    """Everything that one comes to from ``start``, itself only where there is a circle."""
    seen, left = set(), [start]
    while left:
        new = graph.get(left.pop(), set()) - seen
        seen |= new
        left += new
    return seen


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


def test_there_is_no_circle():
    """Imports for types are imports here; late ones, inside functions, are not."""
    graph = arrows()
    assert [module for module in graph if module in reached(graph, module)] == []


def test_rooms_and_arrows():
    """No circle between rooms either: parts of the core, and the package of each method. Printed under -s."""

    def room(module):
        parts = module.split(".")[1:] or ["__init__"]
        return "/".join(parts[:2] if parts[0] == "methods" and len(parts) > 1 else parts[:1])

    graph = between(room)
    for number, floor in enumerate(FLOORS):
        for name in sorted(name for name in graph if name.partition("/")[0] in floor):
            print(f"{number}  {name:22s} -> {', '.join(sorted(graph[name]))}")
    print(f"{len(graph)} rooms, {sum(map(len, graph.values()))} arrows, {len(MODULES)} modules")
    assert [name for name in graph if name in reached(graph, name)] == []


@pytest.mark.parametrize("wing", sorted(path.parent.name for path in (PACKAGE / "methods").glob("*/__init__.py")))
def test_order_inside_a_wing(wing):
    """Rule 3; the callback knows every room, and none knows it."""
    start = f"lightning_interp.methods.{wing}."
    graph = between(lambda module: module.removeprefix(start).split(".")[0] if module.startswith(start) else None)
    for name in sorted(graph):
        print(f"{wing}/{name:22s} -> {', '.join(sorted(graph[name]))}")
    for name, allowed in ROOMS.items():
        wrong = reached(graph, name) & {*ROOMS, "callback"} - allowed - {name}
        assert not wrong, f"{wing}: {name} knows {', '.join(sorted(wrong))}"
    assert not any("callback" in known for known in graph.values())
