"""What every method makes is in the grammar: the specification's own decoder makes of it the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import decoder
import numpy as np
import pytest

from qformat import linear, schemes
from qformat.converters.methods import METHODS, quantize


def _cases() -> Iterator[Any]:
    """Each method at its defaults, at every number of bits that it has, and with double quantization if it has it."""
    for name, method in METHODS.items():
        yield pytest.param(name, {}, id=name)
        for bits in range(1, 9):
            if "bits" in method.options and method.options["bits"].accepts(bits):
                yield pytest.param(name, {"bits": bits}, id=f"{name}-{bits}")
        if "double_quant" in method.options:
            yield pytest.param(name, {"double_quant": True}, id=f"{name}-double")


@pytest.mark.parametrize(("name", "options"), list(_cases()))
def test_a_method(name: str, options: dict[str, Any]) -> None:
    weight = np.random.default_rng(0).standard_normal((19, 192)).astype(np.float32)
    made = quantize(name, weight, **options)
    stored = linear.pack(made.scheme, weight.shape, made.arrays, made.parameters)
    expected = linear.decode(made.scheme, weight.shape, made.arrays, parameters=made.parameters)
    parameters = (*made.parameters, *[0] * (4 - len(made.parameters)))
    found = decoder.decode(schemes.dump(made.scheme), weight.shape, parameters, stored.tobytes())
    assert np.array_equal(found, expected)
