"""Small helpers for files."""

import pytest

from pubswap_jax import files


@pytest.mark.parametrize(
    "count, text", [(0, "0 B"), (999, "999 B"), (1536, "1.5 kB"), (2_500_000, "2.5 MB"), (7e13, "70.0 TB")]
)
def test_bytes_in_words(count, text):
    assert files.bytes_text(count) == text


def test_a_path_that_cannot_be_synced_is_an_error(tmp_path):
    files.sync_path(tmp_path)
    (tmp_path / "file").write_text("x")
    files.sync_path(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        files.sync_path(tmp_path / "missing")
