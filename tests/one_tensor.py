"""A file of one weight."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import qformat
from qformat import container, linear, schemes
from qformat.schemes import Scheme


def saved(
    path: Path, scheme: Scheme, shape: tuple[int, ...], arrays: Mapping[str, Any], parameters: tuple[int, ...] = ()
) -> qformat.Tensor:
    """The weight of source shape `shape`, written as "w" and opened again."""
    data = linear.pack(scheme, linear.matrix_shape(shape, scheme.transposed), dict(arrays), parameters)
    with container.create(path) as writer:
        writer.tensor(
            "w",
            scheme=schemes.dump(scheme),
            dtype="float32",
            shape=shape,
            length=len(data),
            data=[data],
            parameters=parameters,
        )
        writer.finish({})
    return qformat.open(path)["w"]
