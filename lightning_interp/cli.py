"""The command ``lightning-interp``: train from a YAML file, or dissect a network after training.

A config names classes that are imported and called: a config is code, run only those you trust. Checkpoints are read
with ``weights_only=True`` and cannot run anything.
"""

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_interp._extras import require
from lightning_interp._lightning import LightningDataModule, LightningModule, Trainer, cli_package
from lightning_interp.callbacks.base import ProbeCallback
from lightning_interp.errors import InterpError, unknown
from lightning_interp.methods.dissection.callback import NetworkDissection
from lightning_interp.methods.dissection.console import aligned, unit_lines
from lightning_interp.methods.dissection.files import save_result
from lightning_interp.methods.dissection.page import write_report
from lightning_interp.methods.dissection.result import DissectionResult
from lightning_interp.methods.graph.callback import PAGE, ExplanatoryGraph
from lightning_interp.methods.graph.cli import run_graph
from lightning_interp.probing.checkpoint import load_checkpoint
from lightning_interp.results.base import Result

if TYPE_CHECKING:
    from pytorch_lightning.cli import LightningCLI

_ABOUT = (
    "What a network has learnt, with PyTorch Lightning. Train with 'fit --config CONFIG', then run every probing "
    "callback of the config once with 'probe --config CONFIG --ckpt FILE', 'dissect' for Network Dissection with its "
    "tables, or 'graph' for an explanatory graph; 'graph --help' tells what can be done with a saved one. A config is "
    "code: it names classes that are imported and called, so run only those you trust."
)


class InterpTrainer(Trainer):
    """Lightning's Trainer with three more verbs, so that one config serves training and what comes after it."""

    def probe(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        ckpt: str | None = None,
        output: str = "interp",
        only: str | None = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Probe a network after training, once, as each probing callback of the config would.

        Writes what each found to OUTPUT/NAME, and prints the few figures that a person watches, with their levels of
        chance. Computes in the precision of the checkpoint.

        Args:
            model: The network.
            datamodule: Ignored: the images are those of the callbacks' probe sets.
            ckpt: Checkpoint of Lightning, or a file that holds a state dict; none for the network as the config
                builds it. Read with weights_only=True.
            output: Folder to write to.
            only: Name of one callback (its ``name``); all by default.
            ckpt_path: Ignored; ``fit`` writes it into the configs that it saves.
            weights_only: Ignored; likewise.
        """
        found = [c for c in self.callbacks if isinstance(c, ProbeCallback)]  # type: ignore[attr-defined]
        if not found:
            raise InterpError("no probing callback among trainer.callbacks, so nothing says what to probe")
        names = [callback.name for callback in found]
        if only is not None and only not in names:
            raise unknown(only, names, "callback", InterpError)
        meta = {"epoch": None, "global_step": None} | (load_checkpoint(model, Path(ckpt)) if ckpt else {})
        model.to(self.strategy.root_device)
        for callback in found:
            if only in (None, callback.name):
                progress = partial(show_progress, what=callback.name)
                result = callback.once(model, Path(output) / callback.name, progress, meta)
                print(f"{figures(callback.name, result)}\nFiles: {Path(output) / callback.name}\n")

    def dissect(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        ckpt: str | None = None,
        output: str = "interp",
        layers: list[str] | None = None,
        rows: int = 10,
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Dissect a network after training, as the config's NetworkDissection callbacks would.

        Writes ``dissection.json``, a table and arrays by layer, and ``report.html`` to OUTPUT/NAME for each callback
        of that NAME; prints the best units, and counts beside those by chance. Computes in the precision of the
        checkpoint.

        Args:
            model: The network.
            datamodule: Ignored: the images are those of the callback's probe set.
            ckpt: Checkpoint of Lightning, or a file that holds a state dict; none for the network as the config
                builds it. Read with weights_only=True.
            output: Folder to write to.
            layers: Layers in place of the callback's.
            rows: Units to print a layer.
            ckpt_path: Ignored; ``fit`` writes it into the configs that it saves.
            weights_only: Ignored; likewise.
        """
        callbacks = [c for c in self.callbacks if isinstance(c, NetworkDissection)]  # type: ignore[attr-defined]
        if not callbacks:
            raise InterpError("no NetworkDissection among trainer.callbacks, so nothing says what to probe")
        meta = load_checkpoint(model, Path(ckpt)) if ckpt else {}
        model.to(self.strategy.root_device)
        for callback in callbacks:
            dissector, folder = callback.dissector, Path(output) / callback.name
            if layers:
                dissector.layers = layers
            result = dissector(model, progress=show_progress, meta=meta | {"name": callback.name})
            assert result is not None  # only should_stop stops it
            save_result(result, folder)
            page = write_report(result, dissector.probe, folder)
            print(f"{summary(result, rows)}\n\nReport: {page}")

    def graph(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        ckpt: str | None = None,
        output: str = "interp",
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Learn explanatory graphs after training, as the config's ExplanatoryGraph callbacks would.

        Writes the graph and the page to browse it to OUTPUT/NAME for each callback of that NAME. Without a config,
        'graph VERB FOLDER' is about a graph that was saved: 'graph --help'.

        Args:
            model: The network.
            datamodule: Ignored: the images are those of the callback's probe set.
            ckpt: As for ``dissect``.
            output: Folder to write to.
            ckpt_path: Ignored; ``fit`` writes it into the configs that it saves.
            weights_only: Ignored; likewise.
        """
        callbacks = [c for c in self.callbacks if isinstance(c, ExplanatoryGraph)]  # type: ignore[attr-defined]
        if not callbacks:
            raise InterpError("no ExplanatoryGraph among trainer.callbacks, so nothing says what to learn from")
        meta = load_checkpoint(model, Path(ckpt)) if ckpt else {}
        model.to(self.strategy.root_device)
        for callback in callbacks:
            folder = Path(output) / callback.name
            graph = callback.learner(model, meta=meta | {"name": callback.name})
            assert graph is not None  # only should_stop stops it
            callback.save(graph, folder)
            print(f"{sum(map(len, graph.layers))} patterns in {graph.seconds:.1f} s: {folder / PAGE}")


def show_progress(done: int, total: int, what: str = "dissecting") -> None:
    """One line that counts up, on the error stream so that tables can be piped."""
    print(f"\r{what}: {done} of {total} images", end="\n" if done == total else "", file=sys.stderr, flush=True)


def figures(name: str, result: Result) -> str:
    """The headline of a result, one figure a line."""
    rows = [("figure", "value"), *((key, f"{value:.4g}") for key, value in result.headline().items())]
    return f"\n{name}: {result!r}\n{aligned(rows)}"


def summary(result: DissectionResult, rows: int) -> str:
    """The best units of every layer, and what the probe cost."""
    tables = [f"\n{name}: {unit_lines(layer, rows)}" for name, layer in result.layers.items()]
    return "\n".join([*tables, f"\n{result.num_images} images in {result.seconds:.1f} s"])


def command_line() -> "Callable[..., LightningCLI]":
    """LightningCLI with the verbs ``probe``, ``dissect`` and ``graph``; its arguments but for the trainer's class.

    Raises:
        MissingExtraError: If jsonargparse is not installed.
    """
    require("jsonargparse")

    class InterpCLI(cli_package().LightningCLI):  # type: ignore[misc]  # the class depends on the package in use
        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            loaders = {"model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders"}
            return {name: loaders for name in ("fit", "validate", "test", "probe", "dissect", "graph")}

    return InterpCLI


def main(args: Sequence[str] | None = None) -> int:
    """Run the command.

    Classes in configs may lie in the folder it is run from. Lightning's classes are those of ``pytorch_lightning``,
    unless ``lightning.pytorch`` was imported before this module.

    Args:
        args: The command line; that of the process by default.

    Returns:
        The exit code: 0, or 2 after an error of this package, told in one line.
    """
    sys.path.append(os.getcwd())
    given = list(sys.argv[1:] if args is None else args)
    try:
        # A saved graph needs no config, and no jsonargparse.
        if given[:1] == ["graph"] and not any(each.partition("=")[0] in ("--config", "-c") for each in given):
            run_graph(given[1:])
            return 0
        command_line()(
            trainer_class=InterpTrainer,
            args=None if args is None else given,
            parser_kwargs={"prog": "lightning-interp", "description": _ABOUT},
            save_config_kwargs={"overwrite": True},
        )
    except InterpError as error:
        print(f"lightning-interp: error: {error}", file=sys.stderr)
        return 2
    return 0
