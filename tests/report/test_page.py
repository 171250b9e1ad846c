"""The page: hostile cells stay text, both colour schemes have every colour."""

import re

from pubswap_jax.report import page


def test_cells_are_text():
    text = page.table(["<b>"], [["<script>", 3]]) + page.section("<i>", "") + page.figure("<u>", "")
    assert (
        "<script>" not in text
        and "&lt;script&gt;" in text
        and "&lt;b&gt;" in text
        and "&lt;i&gt;" in text
        and "&lt;u&gt;" in text
    )


def test_light_and_dark_define_the_same_colours_and_nothing_is_fetched():
    text = page.PAGE.format(title="t", body="b")
    light, dark = (set(re.findall(r"(--\w+):", block)) for block in re.findall(r":root \{(.*?)\}", text, re.S))
    assert light == dark and set(re.findall(r"var\((--\w+)\)", text)) <= light
    assert "http" not in text and "<script" not in text and "viewport" in text
