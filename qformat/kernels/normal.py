"""Whether weights can be rounded to bfloat16 by an instruction that takes subnormal numbers for zeros."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def are_normal(values: NDArray[np.float32]) -> bool:
    """Whether sums of these numbers, and products of sums with others like them, are zero or normal in float32.

    A sum is a multiple of the last place of the smallest of its terms.
    """
    sizes = np.abs(values)
    return bool(((sizes == 0) | ((sizes > 2.0**-40) & (sizes < 2.0**50))).all())
