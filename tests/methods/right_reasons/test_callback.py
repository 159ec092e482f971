"""The callback in real trainings: a planted shortcut is repaired, and nothing else about training changes."""

import pytest
import torch
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interp.data.group_sampler import GroupBalancedSampler
from lightning_interp.errors import LayerError, ProbeError
from lightning_interp.losses import ContextRandomiser, Ramp, RightReasonsLoss
from lightning_interp.methods.right_reasons.callback import RightReasons
from tests.helpers.harmless import count_hooks, differences, make_recorder, seed_all
from tests.helpers.lightning import make_trainer
from tests.helpers.quiet import LIGHTNING_NOISE
from tests.helpers.ranks import run_ranks, values

pytestmark = [pytest.mark.filterwarnings(text) for text in LIGHTNING_NOISE]
pytestmark += [pytest.mark.filterwarnings(r"ignore:Checkpoint directory .* exists and is not empty")]

SIZE = 8


def cues(num, rho, seed):
    """Images with a weak cue of the label in the upper half, the region, and a strong one below it.

    The lower cue equals the label for a share (1 + rho) / 2 of the images.
    """
    generator = torch.Generator().manual_seed(seed)
    y = torch.rand(num, generator=generator) < 0.5
    c = torch.where(torch.rand(num, generator=generator) < (1 + rho) / 2, y, ~y)
    images = 0.5 * torch.randn(num, 1, SIZE, SIZE, generator=generator)
    images[:, :, 2, 2:6] += 0.7 * (2 * y.float() - 1)[:, None, None]
    images[:, :, 6, 2:6] += 1.5 * (2 * c.float() - 1)[:, None, None]
    return images, y.float(), upper(num)


def upper(num):
    region = torch.zeros(num, SIZE, SIZE, dtype=torch.bool)
    region[:, : SIZE // 2] = True
    return region


class Net(LightningModule):
    """Takes (image, label, region) batches; ``kind`` says what its training step looks like."""

    def __init__(self, kind="tensor", dropout=0.0):
        super().__init__()
        torch.manual_seed(1)
        self.kind, self.losses = kind, []
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(4 * SIZE**2, 1)
        )

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = (batch["x"], batch["y"]) if self.kind == "batch is a dict" else batch[:2]
        with torch.no_grad():
            self(x)
        logits = self.net(x) if self.kind == "calls net" else self(x)
        loss = nn.functional.binary_cross_entropy_with_logits(logits[:, 0], y)
        self.losses.append(loss.item())
        return {"loss": loss, "extra": 1} if self.kind == "returns a dict" else loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def loader(num=256, rho=1.0, batch_size=32, shuffle=True):
    return DataLoader(TensorDataset(*cues(num, rho, seed=0)), batch_size=batch_size, shuffle=shuffle)


def train(path, callbacks=(), module=None, data=None, **options):
    module = module or Net()
    seed_all()
    trainer = make_trainer(path, callbacks=list(callbacks), **options)
    trainer.fit(module, data or loader())
    return module, trainer


def accuracy(module, rho):
    images, y, _ = cues(1000, rho, seed=1)
    with torch.no_grad():
        return ((module.eval()(images)[:, 0] > 0) == y.bool()).float().mean().item()


def same_weights(one, other, **tolerance):
    for name, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, **tolerance or {"rtol": 0, "atol": 0})


# --- what it is for


REPAIRS = {
    "penalty": {"weight": 3.0},
    "penalty that sets in later": {"weight": Ramp(3.0, start_epoch=1, epochs=2)},
    "swap": {"randomiser": ContextRandomiser("swap", 1.0)},
    "fill": {"randomiser": ContextRandomiser("fill", 1.0)},
    "both": {"weight": 1.0, "randomiser": ContextRandomiser("swap", 0.5)},
}


@pytest.fixture(scope="module")
def biased(tmp_path_factory):
    return train(tmp_path_factory.mktemp("biased"), max_epochs=12)[0]


@pytest.mark.parametrize("repair", REPAIRS)
def test_a_planted_shortcut_is_repaired(tmp_path, biased, repair):
    """Region and context tell the label alike in training; only the repaired network goes by the region."""
    callback = RightReasons(2, "binary", **REPAIRS[repair])
    repaired, _ = train(tmp_path, [callback], max_epochs=12)
    assert accuracy(biased, 1.0) > 0.99
    assert accuracy(biased, 0.0) < 0.6
    assert accuracy(repaired, 0.0) > (0.8 if repair == "fill" else 0.95)
    assert accuracy(repaired, 1.0) > 0.95


# --- what it must not do


@pytest.mark.filterwarnings("ignore:right_reasons. nothing to do")
@pytest.mark.parametrize("kind", ["tensor", "returns a dict", "calls net"])
def test_with_weight_0_training_is_bit_identical(tmp_path, kind):
    layer = "net" if kind == "calls net" else ""
    traces = []
    for callbacks in ([], [RightReasons(2, "binary", layer=layer)]):
        recorder, module = make_recorder(), Net(kind, dropout=0.2)
        train(tmp_path, [*callbacks, recorder], module, max_epochs=2)
        traces.append([{k: v for k, v in entry.items() if k != "metrics"} for entry in recorder.trace])
        for entry in traces[-1]:
            entry["attributes"] = [name for name in entry["attributes"] if name != "training_step"]
        traces[-1].append({"when": "after", "losses": module.losses, "own": "training_step" in vars(module)})
    assert not differences(*traces)


class Failing(Callback):
    def __init__(self, error):
        self.error = error

    def on_train_batch_end(self, *args):
        raise self.error


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("end", ["normal", RuntimeError("boom"), KeyboardInterrupt()], ids=repr)
def test_the_module_gets_its_training_step_back(tmp_path, end, own):
    module = Net()
    if own:
        module.training_step = lambda batch, batch_idx: Net.training_step(module, batch, batch_idx)
    step = module.training_step
    callbacks = [RightReasons(2, "binary", weight=1.0)] + ([Failing(end)] if end != "normal" else [])
    if end == "normal":
        train(tmp_path, callbacks, module, max_epochs=1)
    else:
        with pytest.raises((RuntimeError, SystemExit)):
            train(tmp_path, callbacks, module, max_epochs=1)
    assert ("training_step" in vars(module)) == own
    assert module.training_step == step
    assert count_hooks(module) == 0


def test_randomising_leaves_the_global_random_numbers_alone(tmp_path):
    """Dropout and shuffling draw the same with it: with p = 0 in force, every weight is the same."""
    plain, _ = train(tmp_path, module=Net(dropout=0.2), max_epochs=2)
    idle = RightReasons(2, "binary", randomiser=ContextRandomiser("swap", 0.0))
    same_weights(plain, train(tmp_path, [idle], Net(dropout=0.2), max_epochs=2)[0])


# --- that it adds what it says


def by_hand(batches, weight):
    """Plain SGD steps on loss and penalty, without Lightning."""
    module, loss = Net(), RightReasonsLoss(weight, "binary")
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for x, y, region in batches:
        x = x.clone().requires_grad_()
        logits = module.net(x)
        cross_entropy = nn.functional.binary_cross_entropy_with_logits(logits[:, 0], y)
        optimizer.zero_grad()
        (cross_entropy + loss(logits, x, region)).backward()
        optimizer.step()
    return module


class SGDNet(Net):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("kind", ["tensor", "returns a dict", "calls net"])
def test_adds_the_penalty_to_the_loss(tmp_path, kind):
    callback = RightReasons(2, "binary", weight=5.0, layer="net" if kind == "calls net" else "")
    module, trainer = train(tmp_path, [callback], SGDNet(kind), loader(shuffle=False), max_epochs=1)
    same_weights(by_hand(loader(shuffle=False), 5.0), module, rtol=1e-5, atol=1e-7)
    assert trainer.callback_metrics["right_reasons/weight"] == 5
    assert trainer.callback_metrics["right_reasons/no_region"] == 0
    assert not torch.allclose(by_hand(loader(shuffle=False), 0.0).net[0].weight, module.net[0].weight, atol=1e-4)


def test_logs_the_penalty_before_weighting(tmp_path):
    callback = RightReasons(2, "binary", weight=Ramp(4.0, start_epoch=1))
    _, trainer = train(tmp_path, [callback], SGDNet(), loader(32, shuffle=False), max_epochs=1)
    assert trainer.callback_metrics["right_reasons/weight"] == 0
    assert "right_reasons/penalty" not in trainer.callback_metrics
    callback = RightReasons(2, "binary", weight=4.0)
    _, trainer = train(tmp_path, [callback], SGDNet(), loader(32, shuffle=False), max_epochs=1)
    x, _, region = next(iter(loader(32, shuffle=False)))
    x.requires_grad_()
    expected = RightReasonsLoss(1.0, "binary")(Net()(x), x, region)
    assert trainer.callback_metrics["right_reasons/penalty"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_accumulated_batches_are_one_large_batch(tmp_path):
    data = loader(64, batch_size=16, shuffle=False)
    module, _ = train(
        tmp_path, [RightReasons(2, "binary", weight=5.0)], SGDNet(), data, max_epochs=1, accumulate_grad_batches=2
    )
    same_weights(by_hand(loader(64, batch_size=32, shuffle=False), 5.0), module, rtol=1e-5, atol=1e-7)


def test_mixed_precision(tmp_path):
    def penalty(precision):
        callback = RightReasons(2, "binary", weight=5.0)
        module, trainer = train(tmp_path, [callback], max_epochs=2, precision=precision)
        return trainer.callback_metrics["right_reasons/penalty"].item(), module.net[0].weight.detach()

    half, full = penalty("bf16-mixed"), penalty("32-true")
    assert half[0] == pytest.approx(full[0], rel=0.1)
    torch.testing.assert_close(half[1], full[1], rtol=0, atol=0.02)
    assert not torch.equal(half[1], full[1])


def masks(batch):
    return upper(len(batch["x"]))


class Dicts(TensorDataset):
    def __getitem__(self, index):
        return dict(zip(("x", "y", "region", "context"), super().__getitem__(index), strict=True))


def test_batches_may_be_dicts_and_masks_computed(tmp_path):
    images, y, region = cues(64, 1.0, seed=0)
    data = DataLoader(Dicts(images, y, region, ~region), batch_size=32)
    options = {"weight": 2.0, "randomiser": ContextRandomiser("swap", 1.0)}
    results = [
        train(tmp_path, [RightReasons(where, "binary", **options, **more)], Net("batch is a dict"), data)[0]
        for where, more in [("region", {}), (masks, {}), ("region", {"context": "context"})]
    ]
    same_weights(results[0], results[1])
    same_weights(results[0], results[2])
    no_context = {"context": lambda batch: torch.zeros_like(batch["region"])}
    other, _ = train(
        tmp_path, [RightReasons("region", "binary", **options, **no_context)], Net("batch is a dict"), data
    )
    assert not torch.equal(other.net[0].weight, results[0].net[0].weight)


def test_images_without_a_region_are_counted_and_cost_nothing(tmp_path):
    images, y, region = cues(32, 1.0, seed=0)
    region[:8] = False
    data = DataLoader(TensorDataset(images, y, region), batch_size=32)
    _, trainer = train(tmp_path, [RightReasons(2, "binary", weight=1.0)], SGDNet(), data, max_epochs=1)
    assert trainer.callback_metrics["right_reasons/no_region"] == 0.25
    x = images[8:].clone().requires_grad_()
    expected = 24 / 32 * RightReasonsLoss(1.0, "binary")(Net()(x), x, region[8:])
    assert trainer.callback_metrics["right_reasons/penalty"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_resumed_training_is_the_same(tmp_path):
    """Swaps, the ramp and the sampler's draws go on as if nothing had happened, with no state of their own."""

    def run(folder, epochs, resume=None):
        dataset = TensorDataset(*cues(64, 0.5, seed=0))
        groups = torch.stack([dataset.tensors[1].long(), dataset.tensors[0][:, 0, 6, 2:6].mean(1).gt(0).long()], 1)
        data = DataLoader(dataset, batch_size=16, sampler=GroupBalancedSampler(groups))
        repair = RightReasons(
            2, "binary", weight=Ramp(3.0, 1, 3), randomiser=ContextRandomiser("swap", Ramp(0.8, 0, 4))
        )
        saving = ModelCheckpoint(folder, save_last=True, save_top_k=0)
        trainer = make_trainer(folder, callbacks=[repair, saving], max_epochs=epochs, enable_checkpointing=True)
        seed_all()
        module = Net()
        trainer.fit(module, data, ckpt_path=resume)
        return module

    whole = run(tmp_path / "whole", 4)
    run(tmp_path / "part", 2)
    same_weights(whole, run(tmp_path / "part", 4, tmp_path / "part" / "last.ckpt"))


def on_ranks(rank, world, folder):
    dataset = TensorDataset(*cues(64, 1.0, seed=0))
    sampler = GroupBalancedSampler(dataset.tensors[1].long())
    data = DataLoader(dataset, batch_size=8, sampler=sampler)
    callback = RightReasons(2, "binary", weight=5.0)
    module, trainer = train(folder, [callback], SGDNet(), data, max_epochs=2, strategy="ddp", devices=world)
    assert trainer.train_dataloader.sampler is sampler
    assert sampler.epoch == 1
    return module.state_dict(), {name: value.item() for name, value in trainer.callback_metrics.items()}


@pytest.mark.ddp
def test_two_processes_are_one_with_batches_twice_as_large(tmp_path):
    outcomes = values(run_ranks(on_ranks, 2, tmp_path))
    dataset = TensorDataset(*cues(64, 1.0, seed=0))
    # Every process takes every second draw, so that the two batches of 8 are one batch of 16.
    sampler = GroupBalancedSampler(dataset.tensors[1].long())
    data = DataLoader(dataset, batch_size=16, sampler=sampler)
    alone, trainer = train(tmp_path, [RightReasons(2, "binary", weight=5.0)], SGDNet(), data, max_epochs=2)
    for weights, scalars in outcomes:
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(weights[name], value, rtol=1e-5, atol=1e-6)
        expected = {name: value.item() for name, value in trainer.callback_metrics.items()}
        assert scalars == pytest.approx(expected, rel=1e-5)


# --- what it refuses


class Manual(Net):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class CallsTwice(Net):
    def training_step(self, batch, batch_idx):
        self(batch[0])
        return super().training_step(batch, batch_idx)


class Skips(Net):
    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)


@pytest.mark.parametrize(
    ("module", "options", "error", "text"),
    [
        (Manual(), {}, ProbeError, "RightReasonsLoss"),
        (Net(), {"layer": "head"}, LayerError, "head"),
        (Net("calls net"), {"weight": Ramp(1.0, start_epoch=9)}, LayerError, "0 times"),
        (CallsTwice(), {}, LayerError, "2 times"),
        (Net(), {"region": 3}, ValueError, "region=3 is not in the batch, a list"),
        (Net(), {"region": "mouth"}, ValueError, "region='mouth' is not in the batch"),
        (Net(), {"region": 1}, ValueError, "masks must be bool"),
        (Net(), {"region": lambda batch: batch[2][:, :4]}, ValueError, "masks must be bool"),
        (Net(), {"region": lambda batch: None}, ValueError, "bool tensor"),
        (Net(), {"task": "multiclass", "weight": 1.0}, ValueError, "task='multiclass'"),
    ],
)
def test_refuses(tmp_path, module, options, error, text):
    callback = RightReasons(**{"region": 2, "task": "binary", "weight": 1.0} | options)
    with pytest.raises(error, match=text):
        train(tmp_path, [callback], module, max_epochs=1)
    assert "training_step" not in vars(module)


class Two(Net):
    """Gives two columns, or a dict with the one; its step knows."""

    def forward(self, x):
        logits = self.net(x)
        return {"logits": logits} if self.kind == "gives a dict" else torch.cat([logits, logits], 1)

    def training_step(self, batch, batch_idx):
        output = self(batch[0])
        logits = output["logits"] if self.kind == "gives a dict" else output
        return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], batch[1])


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("gives a dict", "the logits are a dict, not a tensor; pick them out of what 'forward' gives with logits="),
        ("tensor", r"right_reasons: logits of shape \(32, 2\) do not fit task='binary'; pick others with logits="),
    ],
)
def test_logits_are_checked_before_the_weight_sets_in(tmp_path, kind, text):
    later = {"weight": Ramp(1.0, start_epoch=3)}
    with pytest.raises(ValueError, match=text):
        train(tmp_path, [RightReasons(2, "binary", **later)], Two(kind), max_epochs=1)
    # Without a penalty nobody asks for logits.
    randomiser = ContextRandomiser("swap", 0.5)
    train(tmp_path, [RightReasons(2, "binary", randomiser=randomiser)], Two(kind), max_epochs=1)
    pick = {"logits": lambda out: out["logits"] if kind == "gives a dict" else out[:, 0]}
    train(tmp_path, [RightReasons(2, "binary", **later, **pick)], Two(kind), max_epochs=1)


def test_refuses_a_second_one(tmp_path):
    with pytest.raises(ProbeError, match="only one"):
        train(tmp_path, [RightReasons(2, "binary", weight=1.0), RightReasons(2, "binary", weight=1.0)])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"context": 2, "randomiser": ContextRandomiser("swap", 1.0)}, "context=2 is the region, which must stay"),
        ({"context": 1, "weight": 1.0}, "context=1 is for a randomiser=, and there is none"),
    ],
)
def test_context_has_to_be_one(options, text):
    with pytest.raises(ValueError, match=text):
        RightReasons(2, "binary", **options)


def test_a_penalty_needs_images_with_a_gradient(tmp_path):
    class Bytes(SGDNet):
        def forward(self, x):
            return super().forward(x.float())

        def training_step(self, batch, batch_idx):
            return super().training_step([(batch[0] * 255).byte(), *batch[1:]], batch_idx)

    with pytest.raises(ValueError, match=r"right_reasons: images are torch.uint8; a gradient penalty needs floating"):
        train(tmp_path, [RightReasons(2, "binary", weight=1.0)], Bytes(), max_epochs=1)


@pytest.mark.parametrize("options", [{}, {"weight": Ramp(0.0)}])
def test_says_that_it_has_nothing_to_do(tmp_path, options):
    with pytest.warns(UserWarning, match="right_reasons: nothing to do: the weight is 0; give weight=, or a random"):
        train(tmp_path, [RightReasons(2, "binary", **options)], max_epochs=1)


@pytest.mark.filterwarnings(r"ignore:`training_step` returned `None`")
def test_a_skipped_step_stays_skipped(tmp_path):
    before = Net()
    module, _ = train(tmp_path, [RightReasons(2, "binary", weight=1.0)], Skips(), max_epochs=1)
    same_weights(before, module)


def test_logits_may_be_picked(tmp_path):
    """A network of several outputs; only the picked one is held to the region."""
    images, y, region = cues(32, 1.0, seed=0)
    seen = []

    def pick(output):
        seen.append(output.shape)
        return output[:, 0]

    data = DataLoader(TensorDataset(images, y, region), batch_size=32)
    picked, _ = train(tmp_path, [RightReasons(2, "binary", weight=5.0, logits=pick)], SGDNet(), data, max_epochs=1)
    assert seen == [(32, 1)]
    same_weights(train(tmp_path, [RightReasons(2, "binary", weight=5.0)], SGDNet(), data, max_epochs=1)[0], picked)
