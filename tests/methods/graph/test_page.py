"""The page about a graph: what it holds, what it leaves out, and that names stay text."""

import base64
import json
import re
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_interp.methods.graph import page as graph_page
from lightning_interp.methods.graph.page import write_graph_page
from tests.helpers.graphs import IMAGE_SIZE, LAYERS, toy_graph
from tests.helpers.results import HOSTILE
from tests.methods.dissection.test_page import Page

GRAPH = toy_graph()


def picture(index):
    """Blue says which image it is, red where its left half is."""
    made = np.zeros((*IMAGE_SIZE, 3), dtype=np.uint8)
    made[:, : IMAGE_SIZE[1] // 2, 0], made[..., 2] = 200, 20 * index
    return made


def data_of(page):
    return json.loads(re.search(r'id="graph">(.*?)</script>', page.source, re.S)[1])


def pictures_of(page):
    uris = [attributes["href"] for attributes in page.all("image")]
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in uris)
    return [np.asarray(Image.open(BytesIO(base64.b64decode(uri.partition(",")[2])))) for uri in uris]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    scores = {"instability": {"patterns": 0.25, "centre": "none"}, "correlation": {"frozen": 0.0}}
    return Page(
        write_graph_page(GRAPH.prune([f"{LAYERS[1]}/3/1"]), picture, tmp_path_factory.mktemp("a") / "p.html", scores)
    )


def test_the_numbers_are_those_of_the_graph(page):
    data = data_of(page)
    assert data["size"] == list(IMAGE_SIZE)
    assert data["side"] == 20
    for each, layer in zip(data["layers"], GRAPH.layers, strict=True):
        assert each["name"] == layer.layer
        assert each["filter"] == layer.filter.tolist()
        assert each["order"] == sorted(range(len(layer)), key=lambda row: -layer.score[row])
        np.testing.assert_allclose(np.stack([each["x"], each["y"]], 1), layer.position, atol=0.0501)
        for row, (parents, weights) in enumerate(zip(each["parents"], each["weight"], strict=True)):
            there = layer.parents[row] >= 0
            assert parents == layer.parents[row][there].tolist()
            np.testing.assert_allclose(weights, 1000 * layer.weight[row][there], atol=0.501)
    assert [each["pruned"] for each in data["layers"]] == [[], [4], []]


def test_sights_point_to_pictures_as_they_were_inferred(page):
    pictures, found = pictures_of(page), GRAPH.learnt_from
    for each, name in zip(data_of(page)["layers"], LAYERS, strict=True):
        for pattern, sights in enumerate(each["sights"]):
            rows = found[name].score[:, pattern].argsort(descending=True).tolist()
            rows = [row for row in rows if found[name].score[row, pattern] > 0]
            assert len(sights) == len(rows)
            for (which, x, y), row in zip(sights, rows, strict=True):
                assert (x, y) == pytest.approx(found[name].point[row, pattern].tolist(), abs=0.0501)
                shown = pictures[which]
                assert abs(float(shown[..., 2].mean()) - 20 * int(found.images[row])) < 6
                red_on_the_left = shown[:, :30, 0].mean() > shown[:, -30:, 0].mean()
                assert red_on_the_left != bool(found.mirrored[row])


def test_scores_beside_controls(page):
    assert (
        "patterns centre frozen instability 0.250 none \N{EN DASH} correlation \N{EN DASH} \N{EN DASH} 0.000"
        in page.text
    )
    assert "18 part patterns in 3 layers, 26 edges · 6 images · epoch 3 · category bird · learnt in 1.5 s" in page.text


def test_without_scores_there_is_no_table(tmp_path):
    page = Page(write_graph_page(GRAPH, picture, tmp_path / "p.html"))
    assert "beside their controls" not in page.text
    assert not page.all("table")


def test_the_page_works_offline(page):
    outside = re.sub(r"http://www\.w3\.org/2000/svg", "", page.source)
    assert not re.search(r"https?:|[\"'(]//[a-z]|@import", outside)
    assert not page.all("link")
    assert all("src" not in script for script in page.all("script"))


def test_what_is_left_out_is_said(tmp_path, monkeypatch):
    whole = Page(write_graph_page(GRAPH, picture, tmp_path / "p.html"))
    assert "left out" not in whole.text
    sizes = [len(base64.b64decode(a["href"].partition(",")[2])) for a in whole.all("image")]
    monkeypatch.setattr(graph_page, "_BYTES", sum(sizes[:2]) + sizes[2] // 2)
    page = Page(write_graph_page(GRAPH, picture, tmp_path / "q.html"))
    assert "out of the 2 of 6 images" in page.text
    assert len(page.all("image")) == 2
    sights = [sight for layer in data_of(page)["layers"] for each in layer["sights"] for sight in each]
    assert {which for which, *_ in sights} == {0, 1}


def test_without_pictures_it_says_so(tmp_path):
    bare = Page(write_graph_page(GRAPH, None, tmp_path / "p.html"))
    assert "written without pictures" in bare.text
    lost = Page(write_graph_page(toy_graph(learnt=False), picture, tmp_path / "q.html"))
    assert "kept without the places" in lost.text
    for page in (bare, lost):
        assert not page.all("image")
        assert not any(each for layer in data_of(page)["layers"] for each in layer["sights"])


def test_numbers_that_json_lacks(tmp_path):
    layer = replace(GRAPH.layers[0], width=torch.full_like(GRAPH.layers[0].width, torch.inf))
    page = Page(write_graph_page(replace(GRAPH, layers=(layer, *GRAPH.layers[1:])), None, tmp_path / "p.html"))
    assert data_of(page)["layers"][0]["width"] == [None] * 4


def test_hostile_names_stay_text(tmp_path):
    harmless = Page(write_graph_page(toy_graph(layers=1), picture, tmp_path / "a.html", {"a": {"b": "c"}}))
    for text in (*HOSTILE, "</script><script>alert(1)</script>", "{{ 7 * 7 }}", "<!--<script>"):
        graph = toy_graph(layers=1)
        found = replace(graph.learnt_from, layers={text: graph.learnt_from.layers[LAYERS[0]]})
        layers = (replace(graph.layers[0], layer=text),)
        hostile = replace(graph, layers=layers, learnt_from=found, settings={text: text}, meta={text: text})
        page = Page(write_graph_page(hostile, picture, tmp_path / "b.html", {text: {text: text}}))
        assert [tag for tag, _ in page.tags if tag != "meta"] == [tag for tag, _ in harmless.tags if tag != "meta"]
        assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
        assert data_of(page)["layers"][0]["name"] == text


def test_fifteen_thousand_patterns_stay_below_eight_megabytes(tmp_path):
    def wide(layer, count, above):
        generator = torch.Generator().manual_seed(0)
        rows = torch.randint(len(layer), (count,), generator=generator)
        arrays = {f: getattr(layer, f)[rows] for f in ("filter", "position", "width", "spread", "score", "sway")}
        parents = torch.randint(max(above, 1), (count, 15), generator=generator)
        weight = torch.full((count, 15), 1 / 15, dtype=torch.float64)
        return rows, replace(layer, parents=parents if above else parents.fill_(-1), weight=weight, **arrays)

    layers, found = [], {}
    for each, count in zip(GRAPH.layers, (2000, 5000, 8000), strict=True):
        rows, layer = wide(each, count, len(layers[-1]) if layers else 0)
        seen = GRAPH.learnt_from[each.layer]
        layers.append(layer)
        found[each.layer] = replace(
            seen, point=seen.point[:, rows], score=seen.score[:, rows], expected=seen.expected[:, rows]
        )
    graph = replace(GRAPH, layers=tuple(layers), learnt_from=replace(GRAPH.learnt_from, layers=found))
    path = write_graph_page(graph, picture, tmp_path / "p.html")
    # The pictures of this graph weigh nothing; as many as fit add a third more than their bytes.
    assert path.stat().st_size + graph_page._BYTES * 4 / 3 < 8e6
