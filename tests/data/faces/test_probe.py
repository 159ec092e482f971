import json
import pickle
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import max_pool2d
from torch.utils.data import DataLoader

from lightning_interp.data.faces.concepts import FACE_CONCEPTS, INDOOR, NUMBER, colour_labels
from lightning_interp.data.faces.probe import RenderedFaces
from lightning_interp.data.faces.records import ATTRIBUTES, FaceRecords, draw_faces
from lightning_interp.data.faces.render import Rendering, render
from lightning_interp.errors import DatasetError

# Category and name of the concept that shows each attribute.
REGION = {
    "lipstick": ("part", "lip"),
    "makeup": ("part", "eyelid"),
    "blond": ("object", "hair"),
    "smile": ("part", "mouth"),
    "glasses": ("object", "glasses"),
    "hat": ("object", "hat"),
}


@pytest.fixture(scope="module")
def drawn() -> Rendering:
    return render(draw_faces(500, 0, {}))


def with_values(records: FaceRecords, **values: float) -> FaceRecords:
    """The faces with parameters replaced, each by one number for all."""
    return replace(
        records,
        values=dict(records.values)
        | {name: torch.full_like(records.values[name], value) for name, value in values.items()},
    )


def evenly_lit(records: FaceRecords) -> FaceRecords:
    return with_values(records, gain=1, light_x=0, light_y=0, warmth=0, noise=0)


def mask(rendering: Rendering, category: str, name: str) -> torch.Tensor:
    return (rendering.planes[category] == NUMBER[name]).any(1)


def region(rendering: Rendering, attribute: str) -> torch.Tensor:
    if attribute == "outdoors":
        return ~mask(rendering, "object", "person")
    return mask(rendering, *REGION[attribute])


def dilated(pixels: torch.Tensor) -> torch.Tensor:
    return max_pool2d(pixels[:, None].float(), 3, stride=1, padding=1)[:, 0] > 0


def eroded(pixels: torch.Tensor) -> torch.Tensor:
    return ~dilated(~pixels)


def colours(rendering: Rendering, pixels: torch.Tensor) -> dict[tuple[int, ...], int]:
    """How often each colour occurs in those pixels."""
    found, counts = rendering.images.permute(0, 2, 3, 1)[pixels].unique(dim=0, return_counts=True)
    return {tuple(colour.tolist()): int(count) for colour, count in zip(found, counts, strict=True)}


def same(a: Rendering, b: Rendering, rows: slice = slice(None)) -> bool:
    return (
        torch.equal(a.images[rows], b.images)
        and torch.equal(a.landmarks[rows], b.landmarks)
        and torch.equal(a.scenes[rows], b.scenes)
        and all(torch.equal(a.planes[category][rows], b.planes[category]) for category in a.planes)
    )


def test_a_face_depends_on_neither_number_nor_batch(drawn):
    fewer = draw_faces(37, 0, {})
    assert same(drawn, render(fewer), slice(0, 37))
    for index in (0, 5, 36):
        assert same(drawn, render(fewer[index]), slice(index, index + 1))
    assert same(drawn, render(fewer[torch.tensor([35, 4, 20])]), torch.tensor([35, 4, 20]))
    assert not torch.equal(drawn.images[:37], render(draw_faces(37, 1, {})).images)


def test_the_set_gives_what_render_gives_in_any_order(drawn):
    probe = RenderedFaces(300)
    for index in (299, 0, 256):
        item = probe[index]
        assert torch.equal(item.image, drawn.images[index])
        assert item.labels.image == {"scene": (int(drawn.scenes[index]),)}
        assert all(torch.equal(item.labels.planes[c].byte(), drawn.planes[c][index]) for c in drawn.planes)
        assert torch.equal(item.facts["landmarks"], drawn.landmarks[index])
        assert item.facts["attributes"] == {n: int(probe.record(index).values[n]) for n in ATTRIBUTES}


def test_workers_render_the_same_faces():
    probe = RenderedFaces(12, size=32)
    here = torch.stack([probe.image(i) for i in range(12)])
    fresh = pickle.loads(pickle.dumps(probe))
    loader = DataLoader(fresh, batch_size=None, num_workers=2)
    assert torch.equal(torch.stack([item.image for item in loader]), here)


def test_pickle_leaves_the_pictures_out():
    probe = RenderedFaces(64, size=32)
    before = len(pickle.dumps(probe))
    probe.image(0)
    assert len(pickle.dumps(probe)) == before


def test_global_generators_are_left_alone():
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    RenderedFaces(3, size=32).image(0)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


@pytest.mark.parametrize("size", [32, 77])
@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_do_changes_its_own_region_only(attribute, size):
    records = draw_faces(32, 3, {})
    off, on = (render(records, {attribute: value}, size=size) for value in (0, 1))
    changed = (off.images != on.images).any(1)
    allowed = dilated(region(off, attribute) | region(on, attribute))
    assert not (changed & ~allowed).any()
    visible = region(on, attribute).flatten(1).any(1)
    assert visible.float().mean() > 0.95
    assert changed.flatten(1).any(1)[visible].all()


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_do_leaves_every_other_number_of_the_record(attribute):
    records = draw_faces(20, 3, {})
    changed = records.do({attribute: 1})
    assert changed.values[attribute].tolist() == [1] * 20
    for name, value in records.values.items():
        assert name == attribute or torch.equal(changed.values[name], value)
    assert same(render(changed, size=32), render(records, {attribute: 1}, size=32))


@pytest.mark.parametrize("attribute", ["lipstick", "makeup", "blond"])
def test_a_tint_keeps_every_label_but_colour(attribute):
    records = draw_faces(32, 3, {})
    off, on = (render(records, {attribute: value}) for value in (0, 1))
    for category in ("object", "part", "material", "texture"):
        assert torch.equal(off.planes[category], on.planes[category])


@pytest.mark.parametrize("rho", [-1.0, -0.4, 0.0, 0.9, 1.0])
def test_correlation_is_the_one_asked_for(rho):
    num = 40_000
    records = draw_faces(num, 7, {"makeup": rho})
    attributes = dict(zip(ATTRIBUTES, records.attributes.T.bool(), strict=True))
    equal = (attributes["makeup"] == attributes["lipstick"]).float().mean().item()
    assert equal == pytest.approx((1 + rho) / 2, abs=4 * 0.5 / num**0.5)
    for name, values in attributes.items():
        assert values.float().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / num**0.5)
        if name not in ("makeup", "lipstick"):
            agreement = (values == attributes["lipstick"]).float().mean().item()
            assert agreement == pytest.approx(0.5, abs=4 * 0.5 / num**0.5)


def test_correlation_changes_the_named_attribute_only():
    plain, biased = draw_faces(1000, 7, {}), draw_faces(1000, 7, {"makeup": 0.9})
    for name, value in plain.values.items():
        assert torch.equal(value, biased.values[name]) == (name != "makeup")


def test_lips_have_the_lipstick_s_colour_where_the_lip_mask_is():
    records = with_values(evenly_lit(draw_faces(20, 0, {})), lipstick_hue=0, lipstick_strength=1)
    on = render(records, {"lipstick": 1, "smile": 0}, size=128)
    found = colours(on, eroded(mask(on, "part", "lip")))
    # The palette's first colour on the lower lip, 12 % darker on the upper one.
    assert set(sorted(found, key=found.__getitem__)[-2:]) == {(205, 20, 40), (180, 18, 35)}
    outside = colours(on, ~dilated(mask(on, "part", "lip")))
    assert (205, 20, 40) not in outside
    off = render(records, {"lipstick": 0, "smile": 0}, size=128)
    assert (205, 20, 40) not in colours(off, torch.ones_like(mask(off, "part", "lip")))


def test_plain_cloth_is_of_one_colour_inside_its_mask_and_soft_at_its_edge():
    records = with_values(evenly_lit(draw_faces(20, 0, {})), shirt_colour=3, shirt_texture=0)
    rendering = render(records)
    shirt = mask(rendering, "object", "shirt")
    assert set(colours(rendering, eroded(shirt))) == {(245, 205, 60)}
    assert not (rendering.planes["texture"][:, 0][shirt]).any()
    assert len(colours(rendering, shirt & ~eroded(shirt))) > 20


def test_texture_labels_follow_the_record(drawn):
    texture = draw_faces(500, 0, {}).values["shirt_texture"]
    names = ("striped", "dotted", "chequered", "grid", "zigzagged")
    shirt = mask(drawn, "object", "shirt")
    for number, name in enumerate(names, 1):
        labelled = drawn.planes["texture"][texture == number, 0][shirt[texture == number]]
        assert set(labelled.tolist()) == {NUMBER[name]}


def test_scene_follows_the_record(drawn):
    outdoors = draw_faces(500, 0, {}).values["outdoors"].bool()
    indoor = torch.isin(drawn.scenes, torch.tensor([NUMBER[name] for name in INDOOR]))
    assert torch.equal(indoor, ~outdoors)


def test_every_concept_is_frequent_and_no_label_is_unknown(drawn):
    seen = torch.zeros(500, len(FACE_CONCEPTS) + 1, dtype=torch.bool)
    for plane in (*drawn.planes.values(), drawn.scenes.view(-1, 1, 1, 1)):
        labels = plane.flatten(1).long()
        assert labels.max() <= len(FACE_CONCEPTS)
        seen |= torch.zeros_like(seen).scatter(1, labels, True)
    share = seen[:, 1:].float().mean(0)
    assert {c.name: s for c, s in zip(FACE_CONCEPTS, share.tolist(), strict=True) if s < 0.01} == {}


def test_planes_agree_with_each_other(drawn):
    person, face = mask(drawn, "object", "person"), mask(drawn, "object", "face")
    for name in ("face", "hair", "hat", "glasses", "shirt"):
        assert person[mask(drawn, "object", name)].all()
    for name in ("eye", "eyelid", "eyebrow", "nose", "mouth", "ear"):
        assert face[mask(drawn, "part", name)].all()
    assert torch.equal(mask(drawn, "object", "hair"), mask(drawn, "material", "hair"))
    assert torch.equal(drawn.planes["color"][:, 0], colour_labels(drawn.images))
    assert (drawn.planes["color"] > 0).all()


def test_number_of_threads_is_given_back():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        rendering = render(draw_faces(2, 0, {}))
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        assert same(rendering, render(draw_faces(2, 0, {})))
    finally:
        torch.set_num_threads(threads)


def test_pictures_drawn_in_inference_mode_are_ordinary_tensors():
    probe = RenderedFaces(2, size=32)
    with torch.inference_mode():
        item = probe[0]
    assert not item.image.is_inference()
    assert not probe.facts(1)["landmarks"].is_inference()


def test_attributes_that_are_off_are_not_labelled(drawn):
    values = draw_faces(500, 0, {}).values
    for name in ("glasses", "hat"):
        assert torch.equal(mask(drawn, "object", name).flatten(1).any(1), values[name].bool())


@pytest.mark.parametrize("size", [64, 96])
def test_landmarks_lie_on_their_parts(size):
    rendering = render(draw_faces(200, 2, {}), size=size)
    x, y = rendering.landmarks.round().long().unbind(2)
    face = torch.arange(200)
    eye, nose, mouth = (mask(rendering, "part", name) for name in ("eye", "nose", "mouth"))
    assert eye[face, y[:, 0], x[:, 0]].all()
    assert eye[face, y[:, 1], x[:, 1]].all()
    assert dilated(nose)[face, y[:, 2], x[:, 2]].float().mean() > 0.98
    for corner in (3, 4):
        assert dilated(mouth)[face, y[:, corner], x[:, corner]].all()
        # Half a mouth further out there is no mouth.
        outer = x[:, corner] + (x[:, corner] - x[:, 7 - corner]) // 2
        assert not mouth[face, y[:, corner], outer].any()
    assert (rendering.landmarks[:, 0, 0] < rendering.landmarks[:, 1, 0]).all()


def test_landmarks_of_a_known_face():
    records = with_values(
        draw_faces(1, 0, {}),
        roll=0, yaw=0, centre_x=0.5, centre_y=0.5, scale=0.25, eye_gap=0.4, eye_y=-0.1, nose_y=0.3,
        mouth_y=0.6, mouth_width=0.3, mouth_curve=0, smile=0,
    )  # fmt: skip
    expected = [[25.1, 29.9], [37.9, 29.9], [31.5, 36.3], [26.7, 41.1], [36.3, 41.1]]
    assert torch.allclose(render(records).landmarks[0], torch.tensor(expected), atol=1e-4)


@pytest.mark.parametrize("size", [32, 224])
def test_other_sizes(size):
    probe = RenderedFaces(3, size=size)
    assert probe.image(2).shape == (3, size, size)
    assert {plane.shape[-2:] for plane in probe.labels(2).planes.values()} == {(size, size)}
    assert probe.mask_size == (size, size)


def test_classification_view():
    probe = RenderedFaces(5, size=32)
    view = probe.classification(("smile", "lipstick"))
    image, target = view[3]
    assert len(view) == 5
    assert target.tolist() == [float(probe.records.values[n][3]) for n in ("smile", "lipstick")]
    expected = (probe.image(3).double() / 255 - 0.5) / 0.25
    assert torch.allclose(image.double(), expected, atol=1e-5)
    probe.normalize = None
    assert torch.equal(view[3][0], probe.image(3).float() / 255)


def test_description_is_json_and_tells_sets_apart():
    sets = [
        RenderedFaces(4, size=32),
        RenderedFaces(4, size=32, seed=1),
        RenderedFaces(4, size=64),
        RenderedFaces(4, size=32, correlations={"makeup": 0.5}),
    ]
    assert len({json.dumps(probe.describe()) for probe in sets}) == 4
    assert len({probe.fingerprint() for probe in sets}) == 4
    assert RenderedFaces(4, size=32).fingerprint() == sets[0].fingerprint()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RenderedFaces(4, correlations={"make_up": 0.5}), "did you mean 'makeup'"),
        (lambda: RenderedFaces(4, correlations={"moustache": 0.5}), "there are lipstick, makeup"),
        (lambda: RenderedFaces(4, correlations={"makeup": 1.5}), r"\[-1, 1\]"),
        (lambda: RenderedFaces(4, correlations={"makeup": float("nan")}), r"\[-1, 1\]"),
        (lambda: RenderedFaces(4, correlations={"lipstick": 0.5}), "other attributes"),
        (lambda: RenderedFaces(4, size=31), "size 31"),
        (lambda: RenderedFaces(0), "num_images"),
        (lambda: RenderedFaces(4, seed=-1), "seed"),
        (lambda: RenderedFaces(4).classification(("smiel",)), "did you mean 'smile'"),
        (lambda: render(draw_faces(1, 0, {}), {"lipstik": 1}), "did you mean 'lipstick'"),
        (lambda: render(draw_faces(1, 0, {}), {"lipstick": 2}), "0 or 1"),
        (lambda: render(draw_faces(1, 0, {}), size=8), "size 8"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(DatasetError, match=message):
        build()


def test_index_outside_the_set():
    probe = RenderedFaces(3, size=32)
    for ask in (probe.image, probe.labels, probe.facts, probe.__getitem__):
        with pytest.raises(IndexError, match="outside"):
            ask(3)
