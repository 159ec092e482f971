"""Terms that are added to the loss of a training step."""

import itertools

import pytest
import torch

from lightning_interp.callbacks.loss_term import LossTerm, add_to_loss
from lightning_interp.errors import ProbeError
from tests.helpers.lightning import loader, make_module, make_trainer
from tests.helpers.quiet import LIGHTNING_NOISE

pytestmark = [pytest.mark.filterwarnings(text) for text in LIGHTNING_NOISE]


class Plus(LossTerm):
    """Adds a constant, and notes which losses it was given."""

    title, by_hand = "plus", "Plus"

    def __init__(self, amount):
        self.amount, self.given = amount, []

    def around(self, trainer, pl_module, step, batch):
        output = step()
        self.given.append(output.item())
        return add_to_loss(output, torch.tensor(self.amount))


def fit(tmp_path, callbacks, module=None, **options):
    trainer = make_trainer(tmp_path, callbacks=callbacks, max_epochs=1, **options)
    trainer.fit(module or make_module(), loader(), loader(shuffle=False))


def test_terms_share_one_wrapper_in_the_order_of_the_list(tmp_path):
    first, second, module = Plus(10.0), Plus(100.0), make_module()
    fit(tmp_path, [first, second], module)
    assert first.given
    assert second.given == pytest.approx([loss + 10 for loss in first.given])
    assert "training_step" not in vars(module)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_step_comes_back_whichever_term_ends_first(tmp_path, order):
    module, terms = make_module(), [Plus(1.0), Plus(2.0), Plus(4.0)]
    step, trainer = module.training_step, make_trainer(tmp_path)
    for term in terms:
        term.on_fit_start(trainer, module)
    for left, at in enumerate(reversed(order)):
        assert module.training_step != step
        assert len(module.training_step.terms) == 3 - left
        terms[at].teardown(trainer, module, "fit")
        # Twice is once: Lightning tears down after an exception that was told already.
        terms[at].on_exception(trainer, module, RuntimeError())
    assert module.training_step == step
    assert "training_step" not in vars(module)


def test_another_fit_wraps_anew(tmp_path):
    module, term = make_module(), Plus(1.0)
    for _ in range(2):
        fit(tmp_path, [term], module)
    assert "training_step" not in vars(module)


def test_manual_optimisation_is_told_what_to_call(tmp_path):
    module = make_module()
    module.automatic_optimization = False
    with pytest.raises(
        ProbeError, match=r"plus: with manual optimisation, training_step returns no loss .* call Plus of"
    ):
        Plus(1.0).setup(make_trainer(tmp_path), module, "fit")
    Plus(1.0).setup(make_trainer(tmp_path), module, "validate")


def test_the_loss_of_a_mapping_is_added_to_and_the_rest_kept():
    output = {"loss": torch.tensor(1.0), "other": 3}
    assert add_to_loss(output, torch.tensor(2.0)) == {"loss": torch.tensor(3.0), "other": 3}
    assert output["loss"] == 1
    assert add_to_loss(torch.tensor(1.0), torch.tensor(2.0)) == 3
