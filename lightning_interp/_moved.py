"""Import paths of version 0.1 that are elsewhere now: they still work, with a warning that names the new place."""

import importlib
import sys
import warnings
from types import ModuleType
from typing import Any

_PACKAGE = "lightning_interp"

# By old module, the new one; a package of old modules has an empty place of its own.
MODULES = {
    "bias": "methods.bias.engine",
    "bias_results": "methods.bias.result",
    "callbacks.context_bias": "methods.bias.callback",
    "callbacks.dissection": "methods.dissection.callback",
    "callbacks.explanatory_graph": "methods.graph.callback",
    "callbacks.interpretable_filters": "methods.filters.callback",
    "callbacks.location": "methods.parts.callback",
    "callbacks.part_interpretability": "methods.parts.callback",
    "callbacks.right_reasons": "methods.right_reasons.callback",
    "checks": "methods.bias.checks",
    "checks.asked": "methods.bias.checks.asked",
    "data.correlated": "data.faces.correlated",
    "data.files": "data.readers.files",
    "data.folder": "data.readers.folder",
    "data.part_landmarks": "data.landmarks",
    "data.part_photos": "data.readers.part_photos",
    "data.part_regions": "data.regions",
    "data.part_tables": "data.landmarks",
    "data.recolour": "data.faces.make_up",
    "data.render": "data.faces.render",
    "data.sampler": "data.loading",
    "dissect": "methods.dissection.engine",
    "functional.dissection": "functional.pixels",
    "functional.filter_losses": "methods.filters.maths.filter_losses",
    "functional.filter_templates": "methods.filters.maths.filter_templates",
    "functional.groups": "methods.bias.maths.groups",
    "functional.location_scores": "functional.location",
    "functional.memberships": "methods.filters.maths.memberships",
    "functional.mutual_information": "methods.filters.maths.mutual_information",
    "functional.relations": "methods.bias.maths.relations",
    "functional.reliance": "methods.bias.maths.reliance",
    "functional.scores": "methods.dissection.maths.scores",
    "functional.spatial_compactness": "methods.filters.maths.spatial_compactness",
    "graph_engine": "methods.graph.engine",
    "graph_results": "methods.graph.result",
    "graphs": "",
    "graphs.and_or": "methods.graph.maths.and_or",
    "graphs.and_or_scores": "methods.graph.maths.and_or_scores",
    "graphs.assignment": "methods.graph.maths.assignment",
    "graphs.baselines": "methods.graph.maths.baselines",
    "graphs.editing": "methods.graph.maths.editing",
    "graphs.evaluation": "methods.graph.maths.evaluation",
    "graphs.export": "methods.graph.maths.export",
    "graphs.mixture": "methods.graph.maths.mixture",
    "graphs.options": "methods.graph.options",
    "graphs.questions": "methods.graph.maths.questions",
    "logging.bias_files": "methods.bias.files",
    "logging.decoder_files": "methods.graph.decoder_files",
    "logging.files": "results.files",
    "logging.graph_files": "methods.graph.files",
    "logging.part_files": "methods.parts.files",
    "losses.context": "methods.right_reasons.context",
    "losses.ramp": "schedule",
    "losses.right_reasons": "methods.right_reasons.loss",
    "modules": "methods.graph.up_convolution",
    "options": "methods.dissection.options",
    "part_results": "methods.parts.result",
    "parts": "methods.parts.engine",
    "probing.attribution": "probing.evidence.attribution",
    "probing.describe": "probing.layers",
    "probing.lrp": "probing.evidence.rules",
    "probing.occlusion_fields": "methods.fields.engine",
    "report": "",
    "report.console": "methods.dissection.console",
    "report.graph_page": "methods.graph.page",
    "report.html": "methods.dissection.page",
    "report.table": "methods.dissection.table",
    "viz": "",
    "viz.gallery": "methods.dissection.figures.gallery",
    "viz.graph_overview": "methods.graph.figures.overview",
    "viz.graph_synthesis": "methods.graph.figures.synthesis",
    "viz.graph_table": "methods.graph.figures.table",
    "viz.overlay": "drawing.pictures",
    "viz.part_table": "methods.parts.figures.table",
    "viz.receptive_fields": "methods.fields.figures",
    "viz.units": "methods.dissection.figures.units",
}

# By old module and name, the new module, where a module was taken apart or is now a package of other things.
NAMES = {
    "graph_results": dict.fromkeys(("Inference", "LayerPatterns", "PatternLayer"), "methods.graph.patterns"),
    "logging.files": {"load_result": "methods.dissection.files", "save_result": "methods.dissection.files"},
    "results": dict.fromkeys(
        ("DissectionResult", "LayerDissection", "Tallies", "TopImages"), "methods.dissection.result"
    ),
    "callbacks": {"NetworkDissection": "methods.dissection.callback"},
}


def moved(module: str, name: str) -> Any:
    """What ``lightning_interp.<module>.<name>`` of version 0.1 is now; warns of the new place.

    Raises:
        AttributeError: If there was no such name.
    """
    if name.startswith("__"):  # Whoever looks for these wants no module to be loaded.
        raise AttributeError(f"module '{_PACKAGE}.{module}' has no attribute {name!r}")
    new = NAMES.get(module, {}).get(name) or MODULES.get(module)
    found = getattr(importlib.import_module(f"{_PACKAGE}.{new}"), name, None) if new else None
    if found is None:
        raise AttributeError(f"module '{_PACKAGE}.{module}' has no attribute {name!r}")
    warnings.warn(
        f"{_PACKAGE}.{module}.{name} has moved to {_PACKAGE}.{new}.{name}; the old path will go in version 0.3",
        DeprecationWarning,
        stacklevel=3,
    )
    return found


class _Moved(ModuleType):
    """An old module: empty, but for what it looks up."""

    def __getattr__(self, name: str) -> Any:
        return moved(self.__name__.partition(".")[2], name)


def keep_old_paths() -> None:
    """Let every old module be imported; nothing is loaded until one is used."""
    for module, new in MODULES.items():
        old = _Moved(f"{_PACKAGE}.{module}", f"Moved to ``{_PACKAGE}.{new}``." if new else "Nothing is left here.")
        # Old packages too can be asked for the modules in them.
        old.__path__ = []
        sys.modules.setdefault(old.__name__, old)
