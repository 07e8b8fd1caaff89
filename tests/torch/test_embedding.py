"""QEmbedding against the decoded matrix."""

from __future__ import annotations

import copy
import pickle
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qformat.torch import QEmbedding
from tests.torch.test_linear import METHODS, weight, written


@given(
    method=st.sampled_from(METHODS),
    shape=st.tuples(st.integers(1, 90), st.sampled_from([1, 17, 64, 172])),
    size=st.sampled_from([(0,), (1,), (1, 1), (2, 40), (3, 2, 5)]),
    dtype=st.sampled_from([None, torch.float32, torch.float16, torch.bfloat16]),
    integer=st.sampled_from([torch.int64, torch.int32]),
    prepared=st.booleans(),
    seed=st.integers(0, 9),
)
def test_rows_are_those_of_the_decoded_matrix(
    method: tuple[str, dict[str, object]],
    shape: tuple[int, int],
    size: tuple[int, ...],
    dtype: torch.dtype | None,
    integer: torch.dtype,
    prepared: bool,
    seed: int,
) -> None:
    """Bit for bit, whatever the coding, in any order and with repetitions; `prepared` as the weight of a head is."""
    with tempfile.TemporaryDirectory() as folder:
        tensor = written(Path(folder) / "w.qf", method[0], weight(*shape, seed), **method[1])
        layer = QEmbedding(tensor, dtype)
        assert not prepared or tensor.product is tensor.prepared
        ids = torch.randint(shape[0], size, generator=torch.Generator().manual_seed(seed), dtype=integer)
        matrix = torch.from_numpy(tensor.decode()).to(dtype or torch.float32)
        found = layer(ids)
        assert found.dtype is (dtype or torch.float32)
        assert torch.equal(found, matrix[ids.long()])


def test_ids_out_of_range_are_refused(tmp_path: Path) -> None:
    tensor = written(tmp_path / "w.qf", "rtn", weight(10, 32), bits=8)
    layer = QEmbedding(tensor)
    for ids in ([0, -1], [0, 10], [-1], [10]):
        with pytest.raises(IndexError, match="ids"):
            layer(torch.tensor(ids))
    assert tensor.product is tensor.prepared
    with pytest.raises(IndexError, match="ids"):
        layer(torch.tensor([10]))


def test_copies_map_the_file_again(tmp_path: Path) -> None:
    layer = QEmbedding(written(tmp_path / "w.qf", "ls", weight(64, 256), bits=4, group_size=64), torch.bfloat16, 3)
    ids = torch.arange(5)
    sent = pickle.dumps(layer)
    assert len(sent) < 4000
    for other in (pickle.loads(sent), copy.deepcopy(layer)):
        assert other.padding_idx == 3
        assert torch.equal(other(ids), layer(ids))


def test_compiles_to_one_graph(tmp_path: Path) -> None:
    model = torch.nn.Sequential(QEmbedding(written(tmp_path / "w.qf", "rtn", weight(64, 32), bits=4)), torch.nn.ReLU())
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for ids in (torch.tensor([[3]]), torch.arange(40)):
            torch.testing.assert_close(compiled(ids), model(ids))
