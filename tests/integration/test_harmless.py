"""Training is bit-identical with and without the callback, whatever else goes on."""

import os
import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch import nn

from lightning_interp import Every, NetworkDissection
from tests.helpers.harmless import (
    count_hooks,
    differences,
    digest,
    fit,
    global_flags,
    make_dissection,
    module_state,
    noisy_loader,
    random_state,
    seed_all,
)
from tests.helpers.lightning import make_module, make_trainer
from tests.helpers.probes import RandomProbe
from tests.helpers.quiet import LIGHTNING_NOISE

pytestmark = [pytest.mark.filterwarnings(text) for text in LIGHTNING_NOISE]


def frozen():
    """BatchNorm in eval mode and in part frozen, the first convolution frozen, the rest trained."""
    module = make_module()
    module.features[1].eval()
    module.features[1].weight.requires_grad_(False)
    module.features[0].requires_grad_(False)
    return module


class Counting(nn.Module):
    """A layer whose buffers change in eval mode too, one in place and one by another tensor."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x):
        self.seen += len(x)
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean((0, 2, 3))
        return x - self.mean[:, None, None]


def counting():
    module = make_module()
    module.features[3] = Counting()
    return module


class Stochastic(nn.Module):
    """Draws from all three random states in eval mode too."""

    def forward(self, x):
        return x + 0.1 * torch.randn_like(x) + 0.1 * random.random() + 0.1 * float(np.random.rand())


def stochastic():
    module = make_module()
    module.features[3] = Stochastic()
    return module


def diverged():
    """No unit of it is finite, so that no map is worth a look."""
    module = make_module()
    nn.init.constant_(module.features[0].weight, torch.nan)
    return module


def logging_in_forward():
    return make_module(log_in_forward=True)


def without_validation():
    return make_module(validation=False)


SCENARIOS = {
    "plain": {},
    "two persistent workers": {"workers": 2},
    "frozen in part": {"module": frozen},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "bf16-true": {"precision": "bf16-true"},
    # Half precision diverges here, which is said.
    "16-true": {"precision": "16-true", "warning": "gave NaN or infinite activations"},
    "64-true": {"precision": "64-true"},
    # Three of four batches: gradients are waiting whenever the probe runs.
    "accumulation": {"accumulate_grad_batches": 3, "val_check_interval": 0.5},
    "two validations an epoch": {"val_check_interval": 0.5},
    "validation every second epoch": {"check_val_every_n_epoch": 2, "max_epochs": 4, "probed": [None, 1, 3]},
    "validation every third epoch": {"check_val_every_n_epoch": 3, "max_epochs": 4, "probed": [None, 2]},
    "no validation batches": {"limit_val_batches": 0},
    "no validation step": {"module": without_validation},
    "no sanity check": {"num_sanity_val_steps": 0},
    "long sanity check": {"num_sanity_val_steps": -1},
    "end within an epoch": {"max_steps": 6, "max_epochs": -1, "probed": [None, 0]},
    "fast_dev_run": {"fast_dev_run": True, "probed": [0]},
    "barebones": {"barebones": True, "probed": []},
    "deterministic": {"deterministic": True},
    "TensorBoard": {"logger": True, "enable_checkpointing": True},
    "gradient clipping": {"gradient_clip_val": 0.1},
    "buffers that change in eval mode": {"module": counting},
    "random in eval mode": {"module": stochastic},
    "diverged": {"module": diverged, "warning": "gave NaN or infinite activations"},
    "forward that logs": {"module": logging_in_forward},
    "loader processes of the probe": {"dissection": {"num_workers": 2}},
    "second forward pass": {"dissection": {"byte_budget": 0}},
    "PNAS preset": {"dissection": {"preset": "pnas2020"}},
    "every layer": {"dissection": {"layers": ["features.*"]}},
    "auto": {"dissection": {"layers": ["auto"]}},
    "every second epoch": {"dissection": {"schedule": Every(2)}, "max_epochs": 4, "probed": [0, 2, 3]},
}


class Seeding(RandomProbe):
    """Index-stable by seeding everything, as some users' data sets are."""

    def image(self, index):
        seed_all(index)
        return super().image(index) + 0.01 * torch.rand(1)


class Augmenting(RandomProbe):
    """Draws from every global random state."""

    def image(self, index):
        return super().image(index) + 0.01 * torch.rand(1) * random.random() * float(np.random.rand())


@pytest.mark.parametrize("probe", [Seeding, Augmenting])
@pytest.mark.parametrize("logger", [False, True])
def test_probe_set_may_touch_the_random_state(tmp_path, probe, logger):
    without, _, _ = fit(tmp_path / "without", [], logger=logger)
    dissection = NetworkDissection(
        probe(14), layers=["features.4"], batch_size=6, quantile=0.05, gallery_rows=2, top_k=2
    )
    trace, _, _ = fit(tmp_path / "with", [dissection], logger=logger)
    assert not differences(without, trace)


@pytest.fixture(autouse=True)
def _flags_of_the_trainer():
    """``Trainer(deterministic=True)`` sets flags of the whole process and leaves them."""
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def patiently(scenario):
    """Barebones refuses the options of the helper that it switches off itself."""
    names = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "log_every_n_steps")
    return dict.fromkeys(names) if scenario.get("barebones") else {}


@pytest.mark.parametrize("name", SCENARIOS)
def test_training_is_bit_identical(tmp_path, name):
    scenario = SCENARIOS[name] | patiently(SCENARIOS[name])
    probed, options = scenario.pop("probed", [None, 0, 1]), scenario.pop("dissection", {})
    warning = scenario.pop("warning", None)
    without, _, _ = fit(tmp_path / "without", [], **scenario)
    dissection = make_dissection(**options)
    seen = ProbedEpochs(dissection)
    with pytest.warns(UserWarning, match=warning) if warning else nullcontext():
        trace, module, _ = fit(tmp_path / "with", [dissection, seen], **scenario)
    assert not differences(without, trace)
    assert seen.epochs == probed
    assert count_hooks(module) == 0


@pytest.mark.parametrize("before", [True, False])
def test_averaged_training_is_bit_identical(tmp_path, before):
    """The averaging swaps its weights into the module for the validation, and the probe runs next to the swap."""
    averaged = []

    def averaging():
        averaged.append(EMAWeightAveraging(decay=0.5))
        return averaged[-1]

    dissection = make_dissection()
    without, _, _ = fit(tmp_path / "without", [averaging()])
    callbacks = [dissection, averaging()] if before else [averaging(), dissection]
    with nullcontext() if before else pytest.warns(UserWarning, match="probes the raw weights"):
        trace, _, _ = fit(tmp_path / "with", callbacks)
    assert not differences(without, trace)
    one, two = (callback._average_model.state_dict() for callback in averaged)
    assert digest(one) == digest(two)
    assert [entry["epoch"] for entry in dissection.history] == [-1, 0, 1]


class ProbedEpochs(Callback):
    """Notes the epochs of the results that a dissection has made."""

    def __init__(self, dissection):
        self.dissection, self.epochs, self.last = dissection, [], None

    def look(self, *args, **kwargs):
        result = self.dissection.result
        if result is not self.last:
            self.last = result
            self.epochs.append(result.meta["epoch"])

    on_train_start = on_validation_epoch_end = on_train_epoch_end = look


def test_two_trainings_without_a_callback_are_equal_and_others_are_not(tmp_path):
    one, _, _ = fit(tmp_path / "1", [])
    two, _, _ = fit(tmp_path / "2", [])
    other, _, _ = fit(tmp_path / "3", [], gradient_clip_val=0.01)
    assert not differences(one, two)
    assert {key for _, _, key in differences(one, other)} >= {"weights", "optimizers", "losses"}


def leave_hook(module):
    module.features.register_forward_hook(lambda *args: None)


def grow_gradients(module):
    module(torch.zeros(2, 3, 24, 24)).sum().backward()


def forward_in_train_mode(module):
    module.features.train()(torch.zeros(2, 3, 24, 24))


LEAKS = {
    "loader without a generator": (lambda module: next(iter(noisy_loader(shuffle=False))), "random"),
    "forward in train mode": (forward_in_train_mode, "buffers"),
    "eval mode left": (lambda module: module.eval(), "training"),
    "gradients grown": (grow_gradients, "grads"),
    "requires_grad switched": (lambda module: module.head.requires_grad_(False), "requires_grad"),
    "hook left": (leave_hook, "hooks"),
    "numpy's random state": (lambda module: np.random.rand(), "random"),
    "python's random state": (lambda module: random.random(), "random"),
    "attribute left": (lambda module: module.__dict__.update(log=None), "attributes"),
    "threads": (lambda module: torch.set_num_threads(3), "threads"),
}


@pytest.mark.parametrize("name", LEAKS)
def test_the_comparison_sees_a_leak(tmp_path, name):
    leak, key = LEAKS[name]
    threads = torch.get_num_threads()

    class Leaky(Callback):
        def on_train_epoch_end(self, trainer, module):
            with torch.enable_grad():
                leak(module)

    try:
        without, _, _ = fit(tmp_path / "without", [], max_epochs=1)
        trace, _, _ = fit(tmp_path / "with", [Leaky()], max_epochs=1)
    finally:
        torch.set_num_threads(threads)
    assert key in {key for _, _, key in differences(without, trace)}


def test_value_logged_in_forward_is_the_users(tmp_path):
    options = {"module": logging_in_forward, "max_epochs": 1}
    _, _, without = fit(tmp_path / "1", [], **options)
    _, module, trainer = fit(tmp_path / "2", [make_dissection()], **options)
    assert without.callback_metrics["inside"] == trainer.callback_metrics["inside"]
    assert "log" not in module.__dict__


class Graphs:
    """A compiler that only counts the graphs it is given."""

    def __init__(self):
        self.count = 0

    def __call__(self, graph, inputs):
        self.count += 1
        return graph.forward


@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_compiled_submodule_fires_and_is_not_compiled_again(tmp_path, how):
    graphs = {}

    def compiled(key):
        torch.compiler.reset()
        module, graphs[key] = make_module(), Graphs()
        # Its stages stand on their own, so that a hook inside a graph would be passed over.
        if how == "wrapped":
            module.features = torch.compile(module.features, backend=graphs[key])
        else:
            module.features.compile(backend=graphs[key])
        return module

    # The sanity check compiles for the very shape and mode that the probe has.
    options = {"num_sanity_val_steps": 1, "max_epochs": 3}
    without, _, _ = fit(tmp_path / "1", [], module=lambda: compiled("without"), **options)
    dissection = make_dissection(layers=["features.0", "features.4"])
    trace, module, _ = fit(tmp_path / "2", [dissection], module=lambda: compiled("with"), **options)
    assert not differences(without, trace)
    assert graphs["without"].count > 0
    assert graphs["with"].count == graphs["without"].count
    assert [entry["epoch"] for entry in dissection.history] == [-1, 0, 1, 2]
    assert list(dissection.result.layers) == ["features.0", "features.4"]
    assert np.isfinite(dissection.result["features.4"].thresholds).all()
    assert count_hooks(module) == 0


class Failing(nn.Module):
    """Raises at a chosen forward in eval mode, after having drawn random numbers."""

    def __init__(self, error):
        super().__init__()
        self.error, self.armed = error, False

    def forward(self, x):
        if self.armed:
            torch.rand(3), random.random(), np.random.rand()
            raise self.error("as planned")
        return x


def state(module):
    return global_flags() | module_state(module) | {"random": random_state()}


def watch(dissection, hook):
    """Arm the network at one hook of the dissection; the states before the hook and after it are noted."""
    seen, original = {}, getattr(dissection, hook)

    def call(trainer, module):
        module.features[3].armed = True
        seen["before"] = state(module)
        try:
            original(trainer, module)
        finally:
            seen["after"] = state(module)

    setattr(dissection, hook, call)
    return seen


@pytest.mark.parametrize("hook", ["on_validation_epoch_end", "on_train_epoch_end", "on_train_start", "on_fit_start"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failing_probe_leaves_no_trace(tmp_path, hook, error):
    module, dissection = make_module(), make_dissection()
    module.features[3] = Failing(error)
    module.features[1].eval()
    seen = watch(dissection, hook)
    options = {"limit_val_batches": 0} if hook == "on_train_epoch_end" else {"num_sanity_val_steps": 0}
    trainer = make_trainer(tmp_path, callbacks=[dissection], max_epochs=1, **options)
    seed_all()
    # Lightning ends the process after an interrupt.
    with pytest.raises(SystemExit if error is KeyboardInterrupt else ValueError):
        trainer.fit(module, noisy_loader(), noisy_loader(shuffle=False))
    assert seen["after"] == seen["before"]
    assert seen["after"]["hooks"] == 0


class Modes(nn.Identity):
    """Notes in which mode it runs."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled(), self.training))
        return x


def test_probe_of_a_validation_alone_is_out_of_inference_mode(tmp_path):
    """What a layer keeps of a forward in inference mode would be of no use to a training."""
    module = make_module()
    module.features[3] = modes = Modes()
    make_trainer(tmp_path, callbacks=[make_dissection()]).validate(module, noisy_loader(shuffle=False), verbose=False)
    description, *rest = modes.seen
    validation, probe = rest[:4], rest[4:]
    assert set(validation) == {(True, False, False)}
    assert {description, *probe} == {(False, False, False)}
    assert len(probe) == 3


def test_validation_alone_runs_in_inference_mode_and_leaves_no_trace(tmp_path):
    module = counting()
    module.features[1].eval()
    seen = {}

    class Look(Callback):
        def __init__(self, when):
            self.when = when

        def on_validation_epoch_end(self, trainer, module):
            seen[self.when] = state(module)

    dissection = make_dissection()
    trainer = make_trainer(tmp_path, callbacks=[Look("before"), dissection, Look("after")])
    trainer.validate(module, noisy_loader(shuffle=False), verbose=False)
    assert seen["before"]["inference"]
    assert seen["before"] == seen["after"]
    # Nothing made in inference mode may be kept: a training would refuse it.
    assert dissection.history == []
    trainer.fit(module, noisy_loader(), noisy_loader(shuffle=False))
