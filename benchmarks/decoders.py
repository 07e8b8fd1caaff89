"""What decodes: ours and the peers, timed by the bytes that they write, beside a plain write."""

from __future__ import annotations

from functools import partial
from typing import Any

import machine
import ml_dtypes
import numpy as np
from machine import Bytes
from subjects import NF4, STRIPS, FromFile, Shape, Subject, additive, affine, copies

# Memory that is written in rotation: more than the caches hold.
WRITTEN = 256 << 20

CODINGS = {"affine 4 g128": affine(4, 128), "nf4 g64": NF4, "additive 2x8 g8": additive(2, 8, 8), **STRIPS}


class _Writes(Subject):
    """A decoder: its bytes are those that it writes."""

    scratch: Bytes

    def plain(self, threads: int, other_way: bool) -> float:
        return machine.plain_write(self.scratch, threads, streaming=other_way)


class Decode(FromFile, _Writes):
    """`Tensor.decode("bfloat16")`: into an array that every call makes, on pages that nobody has touched."""

    def __init__(self, name: str, shape: Shape, size: int) -> None:
        super().__init__(CODINGS[name], shape, size)
        self.nbytes, self.scratch = 2 * shape[0] * shape[1], machine.huge(WRITTEN)
        self._use([partial(t.decode, "bfloat16") for t in self.tensors])


class DecodeInto(FromFile, _Writes):
    """`Tensor.decode(out=…)`: into memory that is there, as a layer does that decodes tile by tile."""

    def __init__(self, name: str, shape: Shape, size: int) -> None:
        super().__init__(CODINGS[name], shape, size)
        self.nbytes, self.scratch = 2 * shape[0] * shape[1], machine.huge(WRITTEN)
        slots = self.scratch[: WRITTEN // self.nbytes * self.nbytes].reshape(-1, self.nbytes)
        outs: list[Any] = [slot.view(ml_dtypes.bfloat16).reshape(shape) for slot in slots]
        self._use([partial(t.decode, "bfloat16", out=outs[i % len(outs)]) for i, t in enumerate(self.tensors)])


class Gguf(_Writes):
    """gguf-py, which decodes to float32 with NumPy, on one thread whatever it is told."""

    def __init__(self, kind: str, shape: Shape, size: int) -> None:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

        number = GGMLQuantizationType[kind]
        length, stored = GGML_QUANT_SIZES[number]
        codes = np.random.default_rng(0).integers(0, 128, (shape[0], shape[1] // length * stored), np.uint8)
        self.count, self.nbytes, self.scratch = (
            copies(codes.nbytes, size),
            4 * codes.size // stored * length,
            machine.huge(WRITTEN),
        )
        self._calls = [partial(quants.dequantize, codes.copy(), number) for _ in range(self.count)]

    def set_threads(self, threads: int) -> None:
        """It has one."""

    def call(self, i: int) -> object:
        with np.errstate(all="ignore"):  # random scales
            return self._calls[i]()


class BitsAndBytes(_Writes):
    """bitsandbytes' NF4 to bfloat16."""

    def __init__(self, shape: Shape, size: int) -> None:
        import torch
        from bitsandbytes import functional

        torch.set_grad_enabled(False)
        codes, how = functional.quantize_4bit(torch.randn(shape, dtype=torch.bfloat16), blocksize=64, quant_type="nf4")
        self.count, self.nbytes, self.scratch = (
            copies(codes.nbytes, size),
            2 * shape[0] * shape[1],
            machine.huge(WRITTEN),
        )
        self._calls = [partial(functional.dequantize_4bit, codes.clone(), how) for _ in range(self.count)]

    def set_threads(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)

    def call(self, i: int) -> object:
        return self._calls[i]()


DECODERS = {
    **{f"decode {name}": ("ours", partial(Decode, name)) for name in CODINGS},
    **{f"decode {name}, into memory": ("ours", partial(DecodeInto, name)) for name in CODINGS},
    **{f"gguf-py {kind}": ("gguf", partial(Gguf, kind)) for kind in ("Q4_0", "Q4_K", "IQ2_XXS")},
    "bitsandbytes nf4 to bf16": ("bitsandbytes", BitsAndBytes),
}

OURS_DECODING = [name for name in DECODERS if name.startswith("decode")]
