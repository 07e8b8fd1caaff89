"""Checking a file wholly: first its bytes, then that every number means something."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from qformat import store
from qformat.errors import QFormatError, UnsupportedError
from qformat.store import Model
from qformat.tensor import Tensor


def verify(
    path: store.Path,
    *,
    names: Sequence[str] | None = None,
    workers: int | None = None,
    progress: Callable[..., None] | None = None,
) -> None:
    """Check a file wholly: every hash, then that every number means something.

    Tensors that need a newer version are verified as bytes only.

    Raises:
        QFormatError: of the class of the first fault, naming every bad tensor; the single errors are its notes.
    """
    with store.open(path) as model:
        found = faults(model, names=names, workers=workers, progress=progress)
    if len(found) == 1:
        raise found[0]
    if found:
        places = ", ".join(dict.fromkeys(str(fault.tensor or fault.field) for fault in found))
        error = type(found[0])(f"{len(found)} faults: {places}", file=os.fspath(path), tensor=found[0].tensor)
        for fault in found:
            error.add_note(str(fault))
        raise error


def faults(
    model: Model,
    *,
    names: Sequence[str] | None = None,
    workers: int | None = None,
    progress: Callable[..., None] | None = None,
) -> list[QFormatError]:
    """What `verify` raises, as a list: a fault for each bad tensor, and those of what lies between them."""
    found: list[QFormatError] = list(model.container.verify(names, workers=workers, progress=progress))
    bad = {fault.tensor for fault in found}
    listed = [name for name in (model if names is None else names) if name not in bad]
    own = [name for name in listed if model.container.record(name).target is None]
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        found += [fault for fault in pool.map(lambda name: _fault(model[name]), own) if fault is not None]
    return found


def _fault(tensor: Tensor) -> QFormatError | None:
    """What is wrong with the numbers of a tensor."""
    try:
        tensor.check()
    except UnsupportedError:
        return None
    except QFormatError as error:
        return error
    return None
