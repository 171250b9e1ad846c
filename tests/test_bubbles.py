"""The picture counts what the index lists hold."""

import xml.etree.ElementTree

import numpy as np
import pytest

from pubswap_jax.bubbles import counts, draw, quantise, save
from pubswap_jax.data import Problem
from pubswap_jax.partition import Split

PROBLEMS = [Problem(str(i), "?", "1", topic) for i, topic in enumerate(["few", *["many"] * 8, "few"])]
SPLIT = Split([1], [[0, 2, 3], [4, 5, 6, 7, 8, 9]], {"test": [], "public": []})


def test_counts():
    names, table = counts(SPLIT, PROBLEMS)
    assert names == ["many", "few"] and table.tolist() == [[1, 2, 5], [0, 1, 1]]


def test_quantise():
    areas = quantise(np.array([0, 1, 26, 100]), steps=4)
    assert areas.tolist() == [0, 0.25, 0.5, 1]
    assert quantise(np.zeros((2, 2), int)).tolist() == [[0, 0], [0, 0]]


def test_png_and_svg_show_every_count(tmp_path):
    pytest.importorskip("matplotlib")
    paths = save(draw(SPLIT, PROBLEMS, "Two clients"), tmp_path / "bubbles")
    png, svg = ((tmp_path / f"bubbles.{kind}").read_bytes() for kind in ("png", "svg"))
    assert paths == [str(tmp_path / "bubbles.png"), str(tmp_path / "bubbles.svg")] and png.startswith(b"\x89PNG")
    texts = [node.text for node in xml.etree.ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert {"many", "few", "public", "Two clients"} <= {text for text in texts if text}
    assert [texts.count(str(count)) for count in (1, 2, 5)] == [3 + 2, 1, 1]  # clients and totals are named by numbers, too
    save(draw(SPLIT, PROBLEMS, "Two clients"), tmp_path / "again")
    assert (tmp_path / "again.svg").read_bytes() == svg and (tmp_path / "again.png").read_bytes() == png
