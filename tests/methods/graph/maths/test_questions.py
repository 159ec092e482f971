"""Questions: the five answers, the gain by hand, and a part learnt by asking."""

import math

import pytest
import torch

from lightning_interp.errors import DatasetError
from lightning_interp.methods.graph.maths.and_or import Label, Latent, learn_part, locate
from lightning_interp.methods.graph.maths.questions import (
    Answer,
    Guess,
    Reply,
    SimulatedAnnotator,
    ask,
    iou,
    potential_gain,
)
from tests.methods.graph.maths.test_and_or import SIZE, distance, label, planted

BOX = (10.0, 10.0, 30.0, 30.0)
FAR = (60.0, 60.0, 80.0, 80.0)


@pytest.mark.parametrize(
    ("image", "guess", "known", "answer", "shown"),
    [
        (0, Guess((12.0, 10.0, 32.0, 30.0), 1), {0, 1}, Answer.RIGHT, Label((12.0, 10.0, 32.0, 30.0), 1)),
        (0, Guess(FAR, 1), {0, 1}, Answer.MOVED, Label(BOX, 1)),
        (0, Guess(BOX, 0), {0, 1}, Answer.OTHER_TEMPLATE, Label(BOX, 1)),
        (0, Guess(BOX, 0), {0}, Answer.NEW_TEMPLATE, Label(BOX, 1)),
        (0, None, set(), Answer.NEW_TEMPLATE, Label(BOX, 1)),
        (7, Guess(BOX, 0), {0}, Answer.ABSENT, None),
    ],
)
def test_the_five_answers(image, guess, known, answer, shown):
    reply = SimulatedAnnotator({0: BOX}, {0: 1})(image, guess, frozenset(known))
    assert (reply.answer, reply.label) == (answer, shown)


def test_overlap_by_hand():
    boxes = torch.tensor([BOX, BOX, BOX])
    others = torch.tensor([BOX, FAR, (20.0, 10.0, 40.0, 30.0)])
    assert iou(boxes, others).tolist() == pytest.approx([1.0, 0.0, 200 / 600])


def test_gain_by_hand():
    """Image 0 is explained; 1 resembles 2, 3 nothing; 1 has more to gain than 2."""
    scores = torch.tensor([0.8, 0.2, 0.6, 0.3], dtype=torch.float64)
    alike = torch.eye(4, dtype=torch.float64)
    alike[1, 2] = alike[2, 1] = 0.5
    gain = potential_gain(scores, alike, torch.tensor([False, True, True, True]), 0.8)
    assert gain.tolist() == pytest.approx([-math.inf, 0.6 * 1.5 / 4, 0.2 * 1.5 / 4, 0.5 / 4])


def annotator(centre, look, absent=()):
    rows = [i for i in range(len(centre)) if i not in absent]
    return SimulatedAnnotator({i: label(centre[i]).box for i in rows}, {i: int(look[i]) for i in rows})


def test_a_part_of_two_looks_is_learnt_by_questions():
    latent, centre, look = planted(images=40, looks=2)
    steps = ask(latent, annotator(centre, look), SIZE, 12)
    assert len({step.image for step in steps}) == 12
    assert steps[0].answer is Answer.NEW_TEMPLATE
    assert sum(step.answer is Answer.NEW_TEMPLATE for step in steps) == 2
    assert Answer.RIGHT in {step.answer for step in steps}
    drawn = [step.answer not in (Answer.RIGHT, Answer.ABSENT) for step in steps]
    assert [step.boxes for step in steps] == [sum(drawn[: i + 1]) for i in range(12)]
    assert distance(locate(steps[-1].part, latent), centre, 0) < 4


def test_an_image_without_the_part_is_set_aside():
    latent, centre, look = planted(images=12)
    steps = ask(latent, annotator(centre, look, absent=range(11)), SIZE, 12, torch.Generator().manual_seed(0))
    assert sum(step.answer is Answer.ABSENT for step in steps) == 11
    assert steps[-1].boxes == 1
    seen = next(i for i, step in enumerate(steps) if step.image == 11)
    assert all((step.part is None) == (i < seen) for i, step in enumerate(steps))


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_images_that_were_set_aside_teach_nothing(seed):
    """The part is in the first six of twelve images; what is learnt is what those six teach."""
    latent, centre, _ = planted(images=12)
    labels = {i: label(centre[i]) for i in range(6)}

    def draws(image, guess, known):
        return Reply(Answer.MOVED, labels[image]) if image in labels else Reply(Answer.ABSENT, None)

    generator = None if seed is None else torch.Generator().manual_seed(seed)
    part = ask(latent, draws, SIZE, 12, generator)[-1].part.templates[0]
    expected = learn_part(Latent(latent.points[:6], latent.scores[:6]), labels, SIZE).templates[0]
    for name in ("pattern", "offset", "variance", "size"):
        torch.testing.assert_close(getattr(part, name), getattr(expected, name))


@pytest.mark.parametrize("seed", range(3))
def test_an_image_that_was_set_aside_has_no_say_in_what_is_asked_next(seed):
    latent, centre, look = planted(images=12)
    scores = torch.rand(latent.scores.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 4
    latent = latent._replace(scores=scores)
    first = ask(latent, annotator(centre, look), SIZE, 1)[0].image
    steps = ask(latent, annotator(centre, look, absent=[first]), SIZE, 12)
    rest = [row for row in range(12) if row != first]
    alone = ask(Latent(*(each[rest] for each in latent)), annotator(centre[rest], look[rest]), SIZE, 11)
    assert steps[0].answer is Answer.ABSENT
    assert [step.image for step in steps[1:]] == [rest[step.image] for step in alone]


def test_random_asking_follows_its_seed():
    latent, centre, look = planted(images=20)
    one, same, other = (
        [step.image for step in ask(latent, annotator(centre, look), SIZE, 5, torch.Generator().manual_seed(seed))]
        for seed in (3, 3, 4)
    )
    assert one == same != other


def test_no_more_questions_than_images():
    latent, centre, look = planted(images=4)
    with pytest.raises(DatasetError, match="5 questions about 4 images"):
        ask(latent, annotator(centre, look), SIZE, 5)
