"""Addresses: what is one, and errors that name it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from qformat.errors import IntegrityError, QFormatError, UnsupportedError
from qformat.remote import filesystem, is_remote, open_remote, reported


@pytest.mark.parametrize("path", ["https://x/y.qf", "hf://a/b/c.qf", "s3://bucket/key"])
def test_addresses(path: str) -> None:
    assert is_remote(path)


@pytest.mark.parametrize("path", ["x.qf", "/a/b", "://x", "c://x", "a b://x", "", "a/b://c"])
def test_names_of_files(path: str) -> None:
    assert not is_remote(path)


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (FileNotFoundError("gone"), FileNotFoundError),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), ConnectionRefusedError),
        (TimeoutError(), OSError),
        (ZeroDivisionError("odd"), QFormatError),
        (IntegrityError("bad"), IntegrityError),
    ],
)
def test_errors_name_the_address(raised: Exception, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught, reported("https://x/y"):
        raise raised
    if not isinstance(raised, QFormatError):
        assert "https://x/y" in str(caught.value)


def test_a_kind_that_nothing_reads() -> None:
    with pytest.raises(UnsupportedError, match="no reader"):
        filesystem("nosuch://x/y")


def test_a_directory_is_not_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "x.qf").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        open_remote(f"file://{tmp_path}/x.qf")
    assert caught.value.filename == f"file://{tmp_path}/x.qf"
