"""Checkpoints whose names differ from the module's: transformers' own table of renamings and conversions, applied.

transformers keeps the experts of a layer as one three-dimensional parameter where checkpoints, and so files made of
them, have a matrix an expert. `QExperts` multiplies with these; for other modules such parameters are put together from
decoded weights.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import torch

from qformat.store import Model
from qformat.torch.arrays import dense
from qformat.torch.experts import Pieces, stacked


class Renamed:
    """What the tensors of a file are called in a transformers model that has not got its weights yet."""

    def __init__(self, model: Any, file: Model) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

        self._model, self._file = model, file
        self._plain: dict[str, list[str]] = defaultdict(list)
        self._parts: dict[str, list[tuple[str, str]]] = defaultdict(list)
        table = get_model_conversion_mapping(model)
        renamings = [entry for entry in table if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in table if isinstance(entry, WeightConverter)]
        self._converters = {pattern: entry for entry in converters for pattern in entry.source_patterns}
        wanted = model.state_dict()
        for name in sorted(file, key=_natural):
            new, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, wanted)
            if pattern is None:
                self._plain[new].append(name)
            else:
                self._parts[new].append((pattern, name))

    def names(self, name: str) -> list[str]:
        """What the file calls a parameter that it has under another name."""
        return self._plain.get(name, [])

    def pieces(self, name: str, shape: tuple[int, ...]) -> Pieces | None:
        """The matrices of a parameter (experts, …) of this shape; None unless all that transformers does with them is
        stacking, joining by their rows, and turning."""
        from transformers.core_model_loading import Concatenate, MergeModulelist, Transpose

        parts = self._parts.get(name)
        if not parts:
            return None
        converter = self._converters[parts[0][0]]
        by_pattern = [[self._file[part] for its, part in parts if its == own] for own in converter.source_patterns]
        match converter.operations:
            case [MergeModulelist(dim=0)] if len(by_pattern) == 1:
                pass
            case [MergeModulelist(dim=0), Concatenate(dim=1)]:
                pass
            case [Transpose() as turn] if len(parts) == 1 and len(shape) == 3 and {turn.dim0, turn.dim1} == {1, 2}:
                tensor = self._file[parts[0][1]]
                return stacked(tensor, not turn.check_dims or tensor.shape != shape)
            case _:
                return None
        if {len(its) for its in by_pattern} != {shape[0]}:
            return None
        return Pieces([list(its) for its in zip(*by_pattern, strict=True)])

    def assemble(self, name: str, dtype: torch.dtype | None) -> tuple[torch.Tensor, list[str]] | None:
        """A parameter made of several tensors, decoded, and the names of those; None if the file has none for it."""
        parts = self._parts.get(name)
        if not parts:
            return None
        found: dict[str, Any] = defaultdict(list)
        for pattern, part in parts:
            found[pattern].append(dense(self._file[part], dtype))
        converter = self._converters[parts[0][0]]
        for operation in converter.operations:
            found = operation.convert(
                dict(found),
                source_patterns=converter.source_patterns,
                target_patterns=converter.target_patterns,
                full_layer_name=name,
                model=self._model,
                config=self._model.config,
                missing_keys=None,
            )
        values = next((values for target, values in found.items() if target in name), None)
        values = values[0] if isinstance(values, list) else values
        return None if values is None else (values, [part for _, part in parts])


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Sorts expert 2 before expert 10."""
    return [(0, int(word)) if word.isdigit() else (1, word) for word in re.split(r"(\d+)", name)]
