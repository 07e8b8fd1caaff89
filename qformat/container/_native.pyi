import numpy as np
from numpy.typing import NDArray

def is_unchanged(descriptor: int, device: int, inode: int, size: int, modified_ns: int) -> bool: ...
def protect(start: int, length: int) -> int: ...
def allow_writing(start: int, length: int) -> None: ...
def unprotect(number: int) -> None: ...
def check_names(pool: NDArray[np.uint8], starts: NDArray[np.uint64], restart: int) -> tuple[int, int, int]: ...
def check_records(
    words: NDArray[np.uint64],
    first: int,
    dtypes: NDArray[np.bool_],
    limits: tuple[int, int, int, int, int, float],
    starts: NDArray[np.uint64],
    rows: NDArray[np.int32],
    own: NDArray[np.bool_],
    extents: NDArray[np.uint64],
    attached: int,
) -> tuple[int, int]: ...
def check_extents(
    own: NDArray[np.bool_],
    extents: NDArray[np.uint64],
    chunks: NDArray[np.uint64],
    begin: int,
    end: int,
    chunk: int,
    codecs: int,
    large: int,
    page: int,
    alignment: int,
) -> bool: ...
