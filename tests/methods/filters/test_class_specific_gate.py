import pytest
import torch

from lightning_interp.methods.filters.class_specific_gate import ClassSpecificGate


def gate(*rows, density=0.2):
    module = ClassSpecificGate(len(rows[0]), len(rows), density)
    module.gate.data.copy_(torch.tensor(rows))
    return module


def test_each_image_goes_through_the_gates_of_its_class():
    module = gate([1.0, 0.0, 0.5], [0.0, 0.25, 1.0])
    x = torch.arange(1, 13.0).view(2, 3, 1, 2)
    assert module(x, torch.tensor([1, 0])).flatten(1).tolist() == [[0, 0, 0.75, 1, 5, 6], [7, 8, 0, 0, 5.5, 6]]
    assert module(x.half(), torch.tensor([1, 0])).dtype == torch.float16


def test_gates_start_half_open_and_too_many_open_ones_are_penalised():
    module = ClassSpecificGate(4, 5)
    assert (module.gate == 0.5).all()
    assert module.penalty().item() == pytest.approx(10 - 0.2 * 20)
    module.penalty().backward()
    assert (module.gate.grad == 1).all()
    shut = gate([0.3, 0.3, 0.0, 0.0, 0.0], density=0.2)
    assert shut.penalty() == 0


def test_projection_opens_a_gate_of_each_filter_and_clips():
    module = gate([0.2, 4.0, -1.0, 0.0], [0.4, -1.0, -2.0, 0.0])
    module.project()
    assert module.gate.tolist() == [[0.5, 1, 0, 0], [1, 0, 0, 0]]
    assert module.gate.requires_grad


def test_training_with_the_penalty_gives_filters_to_classes():
    """Features that tell the class, one filter each: the gates of the others shut, its own stays open."""
    torch.manual_seed(0)
    module, head, labels = ClassSpecificGate(3, 3), torch.nn.Linear(3, 3), torch.arange(30) % 3
    x = (3 * torch.nn.functional.one_hot(labels) + torch.rand(30, 3)).float()[..., None, None]
    optimizer = torch.optim.SGD([*module.parameters(), *head.parameters()], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        logits = head(module(x, labels).mean((2, 3)))
        (torch.nn.functional.cross_entropy(logits, labels) + 0.1 * module.penalty()).backward()
        optimizer.step()
        module.project()
    assert torch.equal(module.gate.argmax(0), torch.arange(3))
    assert (module.gate.detach() - torch.eye(3)).abs().max() < 0.2


@pytest.mark.parametrize("density", [-0.1, 1.1])
def test_bad_density(density):
    with pytest.raises(ValueError, match="density"):
        ClassSpecificGate(2, 2, density)
