"""Everything that training is, step by step, so that two trainings can be told apart by a single bit."""

import hashlib
import importlib
import random

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from lightning_interp import NetworkDissection
from tests.helpers.lightning import make_module, make_trainer
from tests.helpers.probes import RandomProbe


def digest(thing):
    """Hash of the bytes of anything made of tensors, arrays, containers and plain values."""
    sha = hashlib.sha256()
    _feed(sha, thing)
    return sha.hexdigest()[:12]


def _feed(sha, thing):
    if isinstance(thing, torch.Tensor):
        sha.update(f"{thing.dtype}{tuple(thing.shape)}{thing.device}".encode())
        sha.update(thing.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(thing, np.ndarray):
        sha.update(f"{thing.dtype}{thing.shape}".encode() + thing.tobytes())
    elif isinstance(thing, dict):
        for key, value in thing.items():
            sha.update(repr(key).encode())
            _feed(sha, value)
    elif isinstance(thing, list | tuple):
        sha.update(f"{type(thing).__name__}{len(thing)}".encode())
        for value in thing:
            _feed(sha, value)
    else:
        sha.update(repr(thing).encode())


def count_hooks(module):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    on_modules = sum(len(getattr(part, kind)) for part in module.modules() for kind in kinds)
    return on_modules + sum(len(p._backward_hooks or ()) for p in module.parameters())


def random_state():
    return digest([random.getstate(), np.random.get_state(), torch.get_rng_state()])


def global_flags():
    return {
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "autocast cache": torch.is_autocast_cache_enabled(),
        "autocast dtype": torch.get_autocast_dtype("cpu"),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "matmul": torch.get_float32_matmul_precision(),
    }


def module_state(module):
    return {
        "weights": digest(dict(module.named_parameters())),
        "buffers": digest(dict(module.named_buffers())),
        "grads": digest({name: p.grad for name, p in module.named_parameters()}),
        "training": {name: part.training for name, part in module.named_modules()},
        "requires_grad": {name: p.requires_grad for name, p in module.named_parameters()},
        "hooks": count_hooks(module),
        "attributes": sorted(module.__dict__),
    }


def make_recorder(package="pytorch_lightning"):
    """A callback that notes all of the above at every step; list it after the callback under test."""
    pl = importlib.import_module(package)

    class Recorder(pl.Callback):
        def __init__(self):
            self.trace = []

        def note(self, when, trainer, module, batch=None):
            own = {k: v for k, v in trainer.callback_metrics.items() if "/" not in k}  # those of callbacks have one
            entry = {"when": when, "step": trainer.global_step, "batch": digest(batch), "random": random_state()}
            entry |= {"metrics": digest(own), "optimizers": digest([o.state_dict() for o in trainer.optimizers])}
            self.trace.append(entry | global_flags() | module_state(module))

        def on_train_start(self, trainer, module):
            self.note("train start", trainer, module)

        def on_train_batch_start(self, trainer, module, batch, index):
            self.note("batch start", trainer, module, batch)

        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            self.note("batch end", trainer, module, batch)

        def on_validation_batch_start(self, trainer, module, batch, index, loader=0):
            self.note("validation batch", trainer, module, batch)

        def on_validation_epoch_end(self, trainer, module):
            self.note("validation epoch end", trainer, module)

        def on_train_epoch_end(self, trainer, module):
            self.note("train epoch end", trainer, module)

        def on_train_end(self, trainer, module):
            self.note("train end", trainer, module)

    return Recorder()


class NoisyImages(Dataset):
    """Images with an augmentation out of each of the three random states."""

    def __init__(self, num=24):
        self.images = torch.rand(num, 3, 24, 24, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        noise = 0.1 * torch.rand(3, 24, 24) + 0.1 * random.random() + 0.1 * float(np.random.rand())
        return self.images[index] + noise, index % 2, index


def noisy_loader(workers=0, shuffle=True):
    """Seeded from the global random state, as loaders are by default."""
    return DataLoader(NoisyImages(), batch_size=6, shuffle=shuffle, num_workers=workers, persistent_workers=workers > 0)


def make_dissection(layers=("features.4",), images=14, **options):
    options = {"batch_size": 6, "quantile": 0.05, "gallery_rows": 2, "top_k": 2} | options
    return NetworkDissection(RandomProbe(images), layers=list(layers), **options)


def seed_all(seed=0):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def fit(path, callbacks, *, module=None, workers=0, package="pytorch_lightning", **options):
    """Train from a fixed start; returns everything that happened, the module and the trainer."""
    module = (module or make_module)()
    recorder = make_recorder(package)
    seed_all()
    trainer = make_trainer(path, package, callbacks=[*callbacks, recorder], **options)
    trainer.fit(module, noisy_loader(workers), noisy_loader(workers, shuffle=False))
    recorder.trace.append(
        {"when": "after fit", "losses": digest(module.losses), "random": random_state()} | global_flags()
    )
    recorder.trace[-1] |= module_state(module)
    return recorder.trace, module, trainer


def differences(trace, other):
    """Where two trainings part: (position, when, name) of every unequal entry."""
    if len(trace) != len(other):
        return [("length", len(trace), len(other))]
    pairs = enumerate(zip(trace, other, strict=True))
    return [(i, a["when"], key) for i, (a, b) in pairs for key in a | b if a.get(key) != b.get(key)]
