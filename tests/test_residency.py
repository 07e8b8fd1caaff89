"""Products from copies on huge pages are those from the mapping; copies are made once, when they are needed."""

from __future__ import annotations

import pickle
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import qformat
from qformat.codings.grammar import Dense
from qformat.residency import ALIGNMENT
from qformat.schemes import Scheme
from tests.test_store import AFFINE, made, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of coded and dense tensors, one without a byte."""
    tensors = {f"layers.{i}.weight": made(Scheme(coding=AFFINE), (40 + i, 64), seed=i) for i in range(5)}
    dense = made(Scheme(coding=Dense(dtype="float32")), (3, 7)), made(Scheme(coding=Dense(dtype="float16")), (0, 8))
    return write(tmp_path / "x.qf", {**tensors, "norm": dense[0], "nothing": dense[1]})


def quantized(model: qformat.Model) -> list[str]:
    return [name for name in model if model[name].coding == "affine"]


def test_products_do_not_depend_on_residency(path: Path) -> None:
    with qformat.open(path) as mapped, qformat.open(path, residency="hugepages") as copied:
        for name in quantized(mapped):
            x = np.random.default_rng(0).standard_normal(mapped[name].matrix_shape[1]).astype(np.float32)
            for mode in ("exact", "int8"):
                np.testing.assert_array_equal(mapped[name].matvec(x, mode), copied[name].matvec(x, mode))
            np.testing.assert_array_equal(mapped[name].decode(), copied[name].decode())


def test_a_copy_is_made_once_and_starts_on_a_cache_line(path: Path) -> None:
    with qformat.open(path) as mapped, qformat.open(path, residency="hugepages") as copied:
        for name in mapped:
            extent = copied[name].extent()
            assert extent.tobytes() == mapped[name].extent().tobytes()
            assert not extent.flags.writeable
            assert extent.size == 0 or not np.shares_memory(extent, mapped[name].extent())
            assert extent.size == 0 or extent.ctypes.data % ALIGNMENT == 0
            assert copied[name].extent() is extent


def test_copies_do_not_overlap(path: Path) -> None:
    with qformat.open(path, residency="hugepages") as model:
        extents = sorted((model[name].extent() for name in model), key=lambda extent: extent.ctypes.data)
        for one, following in pairwise(extents):
            assert one.ctypes.data + one.nbytes <= following.ctypes.data


def test_residency_travels_with_a_pickle(path: Path) -> None:
    with qformat.open(path, residency="hugepages") as model:
        assert pickle.loads(pickle.dumps(model)).residency == "hugepages"


def test_an_unknown_residency_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="residency is 'ram', expected one of mmap, hugepages"):
        qformat.open(path, residency="ram")  # type: ignore[arg-type]


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="a kernel without huge pages")
def test_a_mapping_asks_for_large_pages_once_a_large_extent_is_read(tmp_path: Path) -> None:
    dense = Scheme(coding=Dense(dtype="float32"))
    path = write(tmp_path / "x.qf", {"small": made(dense, (64, 64)), "large": made(dense, (1024, 1024))})

    def asked() -> bool:
        entries = re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())
        flags = [re.search(r"VmFlags:(.*)", entry) for entry in entries if entry.splitlines()[0].endswith(str(path))]
        return any(" hg" in found[1] for found in flags if found)

    with qformat.open(path) as model:
        model["small"].decode()
        assert not asked()
        model["large"].decode()
        assert asked()
