"""Write the conformance vectors: small files with what they decode to, or with the error that they must give.

    python spec/make_vectors.py        (with qformat installed)

`vectors/valid/NAME.qf` has `NAME.npz` beside it: tensor → expected float32 weights (complex64 for complex).
`vectors/invalid/NAME.qf` has `NAME.json`: the class of the error that verifying the file raises, its tensor and field.

Vectors are promises: what exists is never written again, so a run adds what is new and touches nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from forged_vectors import forged
from invalid_vectors import damages, faults, later
from numpy.typing import NDArray
from valid_vectors import VALID
from vector_maker import Maker, affine, block, dense

from qformat import container
from qformat.errors import QFormatError
from qformat.store import open as open_model
from qformat.verification import verify

FOLDER = Path(__file__).parent / "vectors"


def _write_valid(name: str, make: Callable[[Maker], None], target: Path) -> None:
    with container.create(target) as writer:
        make(Maker(name, writer))
        writer.finish({"general.name": name})
    if name == "edited-metadata":
        container.edit_metadata(target, {"general.author": "nobody"})
        container.edit_metadata(target, {"general.author": "somebody", "general.name": None})
    verify(target)
    with open_model(target) as model:
        small = {key: tensor for key, tensor in model.items() if key != "large"}
        kind = {"complex64": "complex64"}
        expected = {key: tensor.decode(kind.get(tensor.dtype, "float32")) for key, tensor in small.items()}
    np.savez_compressed(target.with_suffix(".npz"), **expected)


def _write_shards(folder: Path) -> None:
    """A set of two shards behind a manifest."""
    if (folder / "sharded.qf").exists():
        return
    shards = [folder / f"sharded-{number:05}-of-00002.qf" for number in (1, 2)]
    expected: dict[str, NDArray[Any]] = {}
    for number, shard in enumerate(shards):
        with container.create(shard) as writer:
            Maker(shard.name, writer).add(f"layer.{number}", affine(4, block(16), layout="panel"), (5, 32))
            writer.finish({})
        with open_model(shard) as model:
            own = {key: tensor.decode() for key, tensor in model.items()}
        expected |= own
        np.savez_compressed(shard.with_suffix(".npz"), **own)
    container.write_manifest(folder / "sharded.qf", shards, {"general.name": "sharded"}, {"config.json": b"{}"})
    np.savez_compressed(folder / "sharded.npz", **expected)


def _record_fault(name: str, target: Path, field: bool = True) -> None:
    """Verify and decode the file, and write down what that raises."""
    try:
        verify(target)
        with open_model(target) as model:
            for tensor in model.values():
                tensor.decode()
    except QFormatError as error:
        found = {"error": type(error).__name__, "tensor": error.tensor, "field": error.field if field else None}
        target.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
        return
    target.unlink()
    raise AssertionError(f"{name} is valid")


def main() -> None:
    """Write every vector that is not there yet."""
    good_folder, bad_folder = FOLDER / "valid", FOLDER / "invalid"
    for folder in (good_folder, bad_folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, make in VALID.items():
        if not (good_folder / f"{name}.qf").exists():
            _write_valid(name, make, good_folder / f"{name}.qf")
    _write_shards(good_folder)
    for name, make in [*faults(), *later()]:
        target = bad_folder / f"{name}.qf"
        if not target.exists():
            with container.create(target) as writer:
                maker = Maker(name, writer)
                make(maker)
                maker.add("good", dense("float16"), (2, 3))
                writer.finish({})
            _record_fault(name, target)
    good = (good_folder / "edited-metadata.qf").read_bytes()
    for name, raw in [*damages(good), *forged()]:
        target = bad_folder / f"{name}.qf"
        if not target.exists():
            target.write_bytes(raw)
            _record_fault(name, target, field=False)


if __name__ == "__main__":
    main()
