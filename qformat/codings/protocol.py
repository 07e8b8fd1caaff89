"""What a coding module has: the names that `qformat.codings` calls, and the types they share."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from qformat.codings.grammar import Coding, Grouping
from qformat.codings.groups import Span
from qformat.codings.parts import Arrays, Role, Window

Shape = tuple[int, int]


class Child(NamedTuple):
    """A nested coding: of the array of numbers that each group of weights shares, or of a run of columns."""

    coding: Coding
    group: Grouping | Span


class Spread(Protocol):
    """Decodes the child called `name` and spreads it over the weights of the window (a run of columns: its own)."""

    def __call__(self, name: str, /) -> NDArray[np.float32]: ...


class Module(Protocol):
    """One coding. `shape` is always the coded matrix (N, K)."""

    def validate(self, coding: Any, field: str) -> None:
        """Parameters make sense whatever the shape; InvalidFileError or UnsupportedError naming `field`."""

    def children(self, coding: Any, shape: Shape) -> dict[str, Child]:
        """Nested codings by name."""

    def roles(self, coding: Any, shape: Shape) -> dict[str, Role]:
        """The arrays of the coding itself, without its children's; `codes` last."""

    def decode(self, coding: Any, shape: Shape, arrays: Arrays, window: Window, spread: Spread) -> NDArray[np.float32]:
        """The definition: float32 weights of a non-empty rectangle."""

    def check(self, coding: Any, shape: Shape, arrays: Arrays) -> None:
        """Arrays of the coding itself hold allowed values; InvalidFileError naming the role."""
