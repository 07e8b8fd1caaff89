from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

def cpu_features() -> list[str]: ...
def environment(name: str) -> str | None: ...
def set_threads(count: int) -> None: ...
def threads() -> int: ...
def share_openmp() -> bool: ...
def add_sparse(
    row_pointers: NDArray[Any], columns: NDArray[Any], values: NDArray[Any], x: NDArray[Any], y: NDArray[Any]
) -> None: ...
def plain_read(extent: NDArray[Any], prefetch: bool) -> int: ...

class Panels:
    def __init__(
        self,
        codes: NDArray[Any],
        rows: int,
        inputs: int,
        group: int,
        bits: int,
        header_bytes: int,
        zeros_at: int,
        scales: int,
        zeros: int,
        zero_bits: int,
        offsets: bool,
        bias: float,
        scale_values: NDArray[Any] | None,
        zero_values: NDArray[Any] | None,
        table: NDArray[Any] | None,
    ) -> None: ...

def matvec(isa: str, matrix: Panels, x: NDArray[Any], dtype: int, mode: int, out: NDArray[Any]) -> None: ...
def matvecs(
    isa: str, matrices: Sequence[Panels], x: int, rows: int, dtype: int, mode: int, outs: Sequence[int]
) -> None: ...
def matvec_dense(
    isa: str, values: NDArray[Any], rows: int, inputs: int, dtype: int, x: NDArray[Any], out: NDArray[Any]
) -> None: ...
def decode(isa: str, matrix: Panels, first: int, last: int, dtype: int, out: NDArray[Any]) -> None: ...

class Additive:
    def __init__(
        self,
        codes: NDArray[Any],
        rows: int,
        groups: int,
        books: int,
        bits: int,
        width: int,
        books_by_entry: NDArray[Any],
        books_by_input: NDArray[Any] | None,
        pairs_by_input: NDArray[Any] | None,
        unit: float,
        normal: bool,
        scales: NDArray[Any] | None,
    ) -> None: ...

def matvec_additive(isa: str, matrix: Additive, x: NDArray[Any], exact: bool, out: NDArray[Any]) -> None: ...
def decode_additive(isa: str, matrix: Additive, first: int, last: int, dtype: int, out: NDArray[Any]) -> None: ...

class Strips:
    @property
    def height(self) -> int: ...

def matvec_strips(isa: str, matrix: Strips, x: NDArray[Any], out: NDArray[Any]) -> None: ...
def decode_strips(isa: str, matrix: Strips, first: int, last: int, dtype: int, out: NDArray[Any]) -> None: ...
def lattice(
    rows: int,
    inputs: int,
    codes: Sequence[NDArray[Any]],
    points: Sequence[NDArray[Any]],
    signs: Sequence[NDArray[Any] | None],
    levels: NDArray[Any],
    normal: bool,
) -> Strips: ...
def trellis(
    codes: NDArray[Any],
    rows: int,
    inputs: int,
    bits: int,
    vector: int,
    function: int,
    places: NDArray[Any],
    table: NDArray[Any],
    table_bits: int,
    normal: bool,
) -> Strips: ...
def split(parts: Sequence[Strips]) -> Strips: ...
def plain(
    rows: int,
    inputs: int,
    codes: NDArray[Any],
    skip: int,
    bits: int,
    bias: float,
    table: NDArray[Any] | None,
    spread: int,
    size: int,
    high: int,
    first: int,
    groups: NDArray[Any] | None,
    scales: NDArray[Any] | None,
    minus: NDArray[Any] | None,
    plus: NDArray[Any] | None,
    offset: float,
    normal: bool,
) -> Strips: ...
def sums(
    rows: int,
    inputs: int,
    codes: NDArray[Any],
    skip: int,
    bits: int,
    count: int,
    block_rows: int,
    wide: int,
    books: NDArray[Any],
    spread: int,
    size: int,
    high: int,
    first: int,
    groups: NDArray[Any] | None,
    scales: NDArray[Any] | None,
    normal: bool,
) -> Strips: ...
