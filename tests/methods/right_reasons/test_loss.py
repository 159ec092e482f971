import math

import pytest
import torch
from torch import nn

from lightning_interp.losses import ContextRandomiser, Ramp, RightReasonsLoss, class_log_probs, right_reasons_penalty
from lightning_interp.methods.right_reasons.loss import outside_region


def mask(*rows):
    return torch.tensor([rows], dtype=torch.bool)


def leaf(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype).requires_grad_()


# --- the penalty


def test_binary_linear_model_by_hand():
    # s = 2 a + 3 b at a = 1, b = 0: s = 2. d(log p + log(1 - p))/ds = 1 - 2 p, so the gradient is (1 - 2 p)(2, 3).
    images = torch.tensor([[[[1.0, 0.0]]]], dtype=torch.float64, requires_grad=True)
    logits = (images * torch.tensor([2.0, 3.0])).sum((1, 2, 3))
    factor = (1 - 2 / (1 + math.exp(-2))) ** 2
    log_probs = class_log_probs(logits, "binary")
    for outside, expected in [((False, True), 9), ((True, False), 4), ((True, True), 13), ((False, False), 0)]:
        value = right_reasons_penalty(log_probs, images, mask(outside))
        assert value.item() == pytest.approx(expected * factor, rel=1e-12)


def test_multiclass_linear_model_by_hand():
    # d(sum_k log p_k)/ds_j = 1 - K p_j, so with logits W x the input's gradient is W^T (1 - K p).
    images, weights = leaf(4, 1, 2, 3), torch.randn(3, 6, dtype=torch.float64)
    logits = images.flatten(1) @ weights.T
    outside = torch.rand(4, 2, 3) < 0.5
    gradient = (1 - 3 * logits.softmax(1)) @ weights
    expected = (gradient.view(4, 2, 3)[outside] ** 2).sum() / 4
    value = right_reasons_penalty(class_log_probs(logits, "multiclass"), images, outside)
    torch.testing.assert_close(value, expected)


def test_multilabel_adds_up_the_labels_gradients():
    images, weights = leaf(2, 3, 2, 2), torch.randn(5, 12, dtype=torch.float64)
    logits = images.flatten(1) @ weights.T
    gradient = (1 - 2 * logits.sigmoid()) @ weights
    value = right_reasons_penalty(class_log_probs(logits, "multilabel"), images, torch.ones(2, 2, 2, dtype=torch.bool))
    torch.testing.assert_close(value, gradient.square().sum() / 2)


def test_a_network_that_knows_nothing_pays_nothing():
    images = leaf(2, 1, 2, 2)
    logits = (images - images.detach()).sum((1, 2, 3))
    log_probs = class_log_probs(logits, "binary")
    assert right_reasons_penalty(log_probs, images, torch.ones(2, 2, 2, dtype=torch.bool)) == 0


def test_the_mean_over_the_batch_is_that_of_its_images():
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)).double()
    images, outside = leaf(6, 2, 4, 4), torch.rand(6, 4, 4) < 0.5

    def penalty(at):
        x = images[at].detach().requires_grad_()
        return right_reasons_penalty(class_log_probs(net(x), "multiclass"), x, outside[at])

    whole = penalty(slice(None))
    torch.testing.assert_close(whole, torch.stack([penalty(slice(i, i + 1)) for i in range(6)]).mean())
    torch.testing.assert_close(whole, (2 * penalty(slice(0, 2)) + 4 * penalty(slice(2, 6))) / 6)


@pytest.mark.parametrize("task", ["binary", "multilabel", "multiclass"])
def test_gradients_with_respect_to_the_weights(task):
    """Against finite differences: what double backward gives is the slope of the penalty."""
    images, outside = leaf(3, 1, 3, 3), torch.rand(3, 3, 3) < 0.6
    outputs = 1 if task == "binary" else 3

    def penalty(kernel, head):
        hidden = torch.tanh(nn.functional.conv2d(images, kernel)).flatten(1)
        return right_reasons_penalty(class_log_probs(hidden @ head, task), images, outside)

    parts = leaf(2, 1, 2, 2), leaf(8, outputs)
    assert torch.autograd.gradcheck(penalty, parts)
    slopes = torch.autograd.grad(penalty(*parts), parts)
    assert all(slope.abs().max() > 1e-3 for slope in slopes)


def test_log_probs_of_each_task():
    logits = torch.tensor([[0.0, math.log(3.0)]])
    assert class_log_probs(logits, "multilabel").exp()[0].tolist() == pytest.approx([0.5, 0.75, 0.5, 0.25])
    assert class_log_probs(logits, "multiclass").exp()[0].tolist() == pytest.approx([0.25, 0.75])
    assert class_log_probs(logits[:, 1], "binary").exp()[0].tolist() == pytest.approx([0.75, 0.25])
    assert torch.equal(class_log_probs(logits[:, 1:], "binary"), class_log_probs(logits[:, 1], "binary"))
    sure = class_log_probs(torch.tensor([-40.0, 40.0], dtype=torch.float16), "binary")
    assert sure.dtype == torch.float32
    assert sure.diagonal().tolist() == [-40, -40]


@pytest.mark.parametrize(
    ("shape", "task"),
    [
        ((4, 2), "binary"),
        ((4,), "multiclass"),
        ((4, 1), "multiclass"),
        ((4, 2, 3), "multilabel"),
        ((4, 2), "regression"),
    ],
)
def test_logits_that_do_not_fit_the_task(shape, task):
    with pytest.raises(ValueError, match="task"):
        class_log_probs(torch.zeros(shape), task)


def test_bad_images_and_masks():
    images, outside = leaf(2, 1, 3, 3), torch.ones(2, 3, 3, dtype=torch.bool)
    log_probs = class_log_probs(images.sum((1, 2, 3)), "binary")
    with pytest.raises(ValueError, match="requires_grad_"):
        right_reasons_penalty(log_probs, images.detach(), outside)
    for bad in (outside.float(), outside[:1], outside[:, :2]):
        with pytest.raises(ValueError, match="masks must be bool"):
            right_reasons_penalty(log_probs, images, bad)


# --- the loss module and its weight


def test_an_empty_region_is_passed_over():
    region = torch.tensor([[[True, False]], [[False, False]]])
    assert outside_region(region).tolist() == [[[False, True]], [[False, False]]]
    images = leaf(2, 1, 1, 2)
    logits = images.sum((1, 2, 3))
    loss = RightReasonsLoss(3.0, "binary")
    first = (1 - 2 * logits[0].sigmoid()) ** 2
    torch.testing.assert_close(loss(logits, images, region), 3 * first / 2)


def test_the_weight_follows_the_epoch():
    assert [Ramp(6.0, 2, 3).at(epoch) for epoch in range(7)] == [0, 0, 2, 4, 6, 6, 6]
    assert [Ramp(0.7).at(epoch) for epoch in (0, 99)] == [0.7, 0.7]
    assert [Ramp(6.0, 1, 2, decay=True).at(epoch) for epoch in range(6)] == [0, 3, 6, 3, 2, 1.5]
    assert [Ramp(6.0, decay=True).at(epoch) for epoch in range(3)] == [6, 3, 2]
    images = leaf(2, 1, 2, 2)
    logits, region = images.sum((1, 2, 3)), torch.eye(2, dtype=torch.bool).expand(2, 2, 2)
    loss = RightReasonsLoss(Ramp(6.0, 2, 3), "binary")
    penalty = loss.penalty(logits, images, region)
    for epoch, weight in [(1, 0.0), (2, 2.0), (9, 6.0)]:
        torch.testing.assert_close(loss(logits, images, region, epoch), weight * penalty)
    assert not loss(logits, images, region, 1).requires_grad


@pytest.mark.parametrize("options", [(-1.0,), (math.nan,), (1.0, -1), (1.0, 0, 0)])
def test_bad_ramps(options):
    with pytest.raises(ValueError, match="at least"):
        Ramp(*options)


# --- the augmentation


def batch(n=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(n, 3, 6, 6, generator=generator)
    return images, torch.rand(n, 6, 6, generator=generator) < 0.5


@pytest.mark.parametrize("how", ["swap", "fill"])
def test_pixels_outside_the_context_keep_every_bit(how):
    images, context = batch()
    before = images.clone()
    new = ContextRandomiser(how, 1.0)(images, context)
    keep = ~context[:, None].expand_as(images)
    assert torch.equal(new[keep], images[keep])
    assert (new[~keep] != images[~keep]).float().mean() > 0.9
    assert torch.equal(images, before)


def test_filled_by_the_mean_of_the_rest():
    images = torch.tensor([[[[9.0, 1.0, 3.0]]]])
    new = ContextRandomiser("fill", 1.0)(images, mask((True, False, False)))
    assert new.flatten().tolist() == [2, 1, 3]


def test_swapped_along_one_cycle():
    """Everyone's context comes from another image, and every image gives once."""
    images = torch.arange(7.0)[:, None, None, None].expand(7, 1, 2, 2)
    context = torch.tensor([[True, False], [False, False]]).expand(7, 2, 2)
    new = ContextRandomiser("swap", 1.0)(images, context)
    donors = new[:, 0, 0, 0].int().tolist()
    assert sorted(donors) == list(range(7))
    at, steps = donors[0], 1
    while at != 0:
        at, steps = donors[at], steps + 1
    assert steps == 7


def test_of_a_donor_only_its_context_arrives():
    images = torch.tensor([[[[0.0, 0.0, 0.0, 0.0]]], [[[1.0, 3.0, 7.0, 100.0]]]])
    context = torch.tensor([[[True, True, True, True]], [[True, True, False, False]]])
    new = ContextRandomiser("swap", 1.0)(images, context)
    # 7 and 100 are not context of the donor: their place gets the mean of 1 and 3.
    assert new.flatten(1).tolist() == [[1, 3, 2, 2], [0, 0, 7, 100]]


@pytest.mark.parametrize("how", ["swap", "fill"])
def test_nothing_of_the_own_context_is_left(how):
    images, context = batch()
    # Each image's context moves by a step of its own, so that what moved tells where it came from.
    steps = 10.0 * torch.arange(1, 9)
    moved = torch.where(context[:, None], images + steps[:, None, None, None], images)
    one, other = (ContextRandomiser(how, 1.0)(x, context, 0, torch.Generator().manual_seed(3)) for x in (images, moved))
    changes = [change[:, inside].round().unique().tolist() for change, inside in zip(other - one, context, strict=True)]
    if how == "fill":
        assert changes == [[0]] * 8
    else:
        assert sorted(changes) == [[step] for step in steps.tolist()]
        assert all(change != [step] for change, step in zip(changes, steps.tolist(), strict=True))


def test_images_without_context_neither_give_nor_take():
    images, context = batch(4)
    context[2:] = False
    new = ContextRandomiser("swap", 1.0)(images, context)
    assert torch.equal(new[2:], images[2:])
    both = context[0] & context[1]
    assert torch.equal(new[0][:, both], images[1][:, both])
    context[1] = False
    assert torch.equal(ContextRandomiser("swap", 1.0)(images, context), images)
    assert torch.equal(ContextRandomiser("swap", 1.0)(images[:1], context[:1]), images[:1])


def test_probability_and_randomness():
    images, context = batch(4000)
    context[:] = True
    randomiser = ContextRandomiser("fill", Ramp(0.4, 1, 2))
    for epoch, p in [(0, 0.0), (1, 0.2), (5, 0.4)]:
        new = randomiser(images, context, epoch, torch.Generator().manual_seed(0))
        assert (new != images).flatten(1).any(1).float().mean().item() == pytest.approx(p, abs=0.03)
    state = torch.get_rng_state()
    one, same, other = (randomiser(images, context, 1, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_bad_randomisers():
    with pytest.raises(ValueError, match="unknown how='mix'"):
        ContextRandomiser("mix")
    for p in (-0.1, 1.5, Ramp(2.0)):
        with pytest.raises(ValueError, match=r"p must be in|at least 0"):
            ContextRandomiser(p=p)
    with pytest.raises(ValueError, match="masks must be bool"):
        ContextRandomiser()(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4))


def test_an_unknown_task_is_refused_on_construction():
    with pytest.raises(ValueError, match="unknown task 'multi-label'; there are binary, multilabel, multiclass"):
        RightReasonsLoss(1.0, "multi-label")
