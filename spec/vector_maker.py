"""What conformance vectors are made with: JSON of codings in short, and tensors with random, valid arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qformat import container, linear, schemes
from qformat.dtypes import TABLE as DTYPES
from qformat.dtypes import numpy_dtype

Arrays = dict[str, NDArray[Any]]


def dense(dtype: str) -> dict[str, Any]:
    return {"coding": "dense", "dtype": dtype}


def block(columns: int | None, rows: int | None = 1) -> dict[str, Any]:
    return {"group": "block", "rows": rows, "columns": columns}


def affine(bits: int, group: dict[str, Any] | None = None, **rest: Any) -> dict[str, Any]:
    return {"coding": "affine", "bits": bits, "group": group or block(None), "scales": dense("float16"), **rest}


def lookup(bits: int, table: str, group: dict[str, Any] | None = None, **rest: Any) -> dict[str, Any]:
    return {
        "coding": "lookup",
        "bits": bits,
        "table": table,
        "group": group or block(None),
        "scales": dense("float32"),
        **rest,
    }


class Maker:
    """One file in the making: tensors with random arrays, all from one seed that its name gives."""

    def __init__(self, name: str, writer: container.Writer) -> None:
        self.rng = np.random.default_rng(list(name.encode()))
        self.writer = writer

    def add(
        self,
        name: str,
        coding: dict[str, Any],
        shape: tuple[int, ...],
        parameters: tuple[int, ...] = (),
        compression: str | None = None,
        dtype: str = "bfloat16",
        arrays: Arrays | None = None,
        **rest: Any,
    ) -> None:
        """A tensor of a scheme with this coding; arrays that are not given are random."""
        scheme = schemes.parse({"coding": coding, **rest})
        matrix = linear.matrix_shape(shape, scheme.transposed)
        filled = {**self.arrays(scheme, matrix, parameters), **(arrays or {})}
        stored = linear.pack(scheme, matrix, filled, parameters)
        self.raw(name, schemes.dump(scheme), shape, stored, parameters, compression, dtype)

    def raw(
        self,
        name: str,
        scheme: dict[str, Any],
        shape: tuple[int, ...],
        stored: NDArray[np.uint8],
        parameters: tuple[int, ...] = (),
        compression: str | None = None,
        dtype: str = "bfloat16",
    ) -> None:
        """A tensor of these bytes, whatever they are."""
        self.writer.tensor(
            name,
            scheme=scheme,
            dtype=dtype,
            shape=shape,
            length=len(stored),
            data=[stored],
            parameters=parameters,
            compression=compression,
            itemsize=DTYPES[dtype].bits // 8,
        )

    def arrays(self, scheme: schemes.Scheme, shape: tuple[int, int], parameters: tuple[int, ...]) -> Arrays:
        """Valid arrays for every role."""
        rng, found, roles = self.rng, {}, linear.roles(scheme, shape, parameters)
        document = schemes.dump(scheme)
        for name, role in roles.items():
            leaf = name.rsplit(".", 1)[-1]
            dtype = numpy_dtype(role.dtype)
            if role.bits is not None:
                low = -(2 ** (role.bits - 1)) if role.signed else 0
                found[name] = rng.integers(low, low + 2**role.bits, role.shape).astype(dtype)
            elif leaf == "groups":
                node: Any = document["coding"]
                for step in name.split(".")[:-1]:
                    node = node[int(step) if isinstance(node, list | tuple) else step]
                found[name] = rng.integers(0, node["group"]["count"], role.shape).astype(dtype)
            elif leaf == "indices":
                found[name] = rng.permutation(role.shape[0]).astype(dtype)
            elif leaf == "pairs":
                rounds = [rng.permutation(role.shape[1] * 2).reshape(role.shape[1:]) for _ in range(role.shape[0])]
                found[name] = np.array(rounds, dtype).reshape(role.shape)
            elif leaf == "signs":
                found[name] = rng.choice([-1, 1], role.shape).astype(dtype)
            elif leaf == "row_pointers":
                count = roles[name.replace("row_pointers", "columns")].shape[0]
                rows, side = role.shape[0] - 1, shape[1]
                places = np.sort(rng.choice(rows * side, count, replace=False))
                found[name] = np.searchsorted(places, np.arange(rows + 1) * side).astype(dtype)
                found[name.replace("row_pointers", "columns")] = (places % side).astype(np.uint32)
            elif leaf == "columns":
                if name not in found:
                    found[name] = np.sort(rng.choice(shape[1], role.shape[0], replace=False)).astype(dtype)
            elif dtype.kind in "iub":
                found[name] = rng.integers(0, 2 if dtype.kind == "b" else 100, role.shape).astype(dtype)
            elif role.dtype == "float8_e8m0fnu":
                found[name] = (2.0 ** rng.integers(-9, 3, role.shape)).astype(dtype)
            else:
                found[name] = rng.standard_normal(role.shape).astype(dtype)
        return found
