"""The page: hostile cells stay text, both colour schemes have every colour."""

import re

import pytest

from pubswap_jax import page


def test_cells_are_text():
    text = page.table(["<b>"], [["<script>", 3]]) + page.section("<i>", "")
    assert "<script>" not in text and "&lt;script&gt;" in text and "&lt;b&gt;" in text and "&lt;i&gt;" in text


@pytest.mark.parametrize(
    "count, text", [(0, "0 B"), (999, "999 B"), (1536, "1.5 kB"), (2_500_000, "2.5 MB"), (7e13, "70.0 TB")]
)
def test_bytes_in_words(count, text):
    assert page.bytes_text(count) == text


def test_light_and_dark_define_the_same_colours_and_nothing_is_fetched():
    text = page.PAGE.format(title="t", body="b")
    light, dark = (set(re.findall(r"(--\w+):", block)) for block in re.findall(r":root \{(.*?)\}", text, re.S))
    assert light == dark and set(re.findall(r"var\((--\w+)\)", text)) <= light
    assert "http" not in text and "<script" not in text and "viewport" in text
