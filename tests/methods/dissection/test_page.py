import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from lightning_interp.data.probe import Concept
from lightning_interp.methods.dissection.page import write_report
from tests.helpers.results import HOSTILE, DiscProbe, counted_layer, planted_layer, result_of

PROBE = DiscProbe()


class Page(HTMLParser):
    """Every start tag with its attributes, and the visible text."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags, self.texts = [], []
        self.feed(self.source)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag, cls=None):
        return [a for t, a in self.tags if t == tag and (cls is None or cls in a.get("class", "").split())]


def test_the_page_by_hand(tmp_path):
    # IoU 50/150 and 4/196 by one unit each; the best by chance is 20/180.
    layer = counted_layer([[50, 0, 0, 0], [0, 4, 0, 0]], [[20, 0, 0, 0], [0, 0, 0, 0]])
    page = Page(write_report(result_of(layer), PROBE, tmp_path))
    assert "1 of 2 units detect 1 concept (by chance 1 and 1)" in page.text
    cards = page.all("article")
    assert [(c["data-unit"], c["data-concept"], "data-trusted" in c) for c in cards] == [
        ("0", "disc", True),
        ("1", "stripe", False),
    ]
    assert float(cards[0]["data-iou"]) == 50 / 150
    assert "IoU 0.333 by chance 0.111" in page.text
    assert "10 probe images · epoch 3 · global step 120" in page.text
    assert "quantile 0.005" in page.text
    assert "Over training" not in page.text


def test_images_lie_beside_the_page_and_units_that_are_not_scored_have_none(tmp_path):
    layer = planted_layer(PROBE, "layer/4")
    page = Page(write_report(result_of(layer), PROBE, tmp_path))
    sources = [image["src"] for image in page.all("img")]
    assert len(sources) == 6
    for source in sources:
        with Image.open(tmp_path / source) as strip:
            assert strip.size == (4 * 132 - 4, 128)
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.jpg")}
    assert written == set(sources)
    assert "not scored: constant" in page.text


def test_several_results_give_a_history(tmp_path):
    found = [counted_layer([[n, 0, 0, 0], [m, 0, 0, 0]], [[0] * 4] * 2) for n, m in [(0, 0), (50, 0), (50, 50)]]
    results = [result_of(layer, epoch=epoch) for epoch, layer in enumerate(found)]
    history = [(f"epoch {i}", result.scalars()) for i, result in enumerate(results)]
    page = Page(write_report(results[-1], PROBE, tmp_path, history))
    assert "Over training" in page.text
    circles = [(c["cx"], c["cy"]) for c in page.all("circle")]
    # Detectors 0, 1, 2, then unique concepts 0, 1, 1, then none by chance.
    assert circles[:3] == [("0.0%", "100.0%"), ("50.0%", "50.0%"), ("100.0%", "0.0%")]
    assert circles[3:6] == [("0.0%", "100.0%"), ("50.0%", "50.0%"), ("100.0%", "50.0%")]
    assert {y for _, y in circles[6:]} == {"100.0%"}
    assert "detectors: now 2" in page.text


def test_the_page_works_offline(tmp_path):
    page = Page(write_report(result_of(planted_layer(PROBE)), PROBE, tmp_path))
    assert not re.search(r"https?:|//[a-z]", page.source)
    assert not page.all("link")
    assert all("src" not in script for script in page.all("script"))


def test_hostile_names_stay_text(tmp_path):
    names = [*HOSTILE, "javascript:alert(1)", "{{ 7 * 7 }}"]
    concepts = [Concept(i + 1, name, f"{i}{name}") for i, name in enumerate(names)]
    counts = np.eye(len(names), dtype=int) * 50
    layer = counted_layer(counts, np.zeros_like(counts), concepts, name=HOSTILE[2])
    result = replace(result_of(layer), settings={HOSTILE[1]: {HOSTILE[2]: HOSTILE[1]}}, meta={HOSTILE[1]: HOSTILE[2]})
    page = Page(write_report(result, PROBE, tmp_path))
    harmless = Page(write_report(result_of(counted_layer([[50, 0, 0, 0]], [[0] * 4])), PROBE, tmp_path / "b"))
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in harmless.tags}
    assert len(page.all("script")) == 1
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report_images", "b"}
