"""The kernels compile for GPUs that this machine need not have; the interpreter would accept more than the compiler."""

from __future__ import annotations

import os
import subprocess
import sys

# In a process of its own: whether triton interprets is decided when a kernel is defined.
CODE = """
import warnings
warnings.simplefilter("ignore")
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
import triton
from qformat.kernels.triton import additive, affine, lookup

POINTERS = {"body": "u8", "x": "bf16", "books": "fp16", "table": "fp32", "scales": "fp32", "scale_values": "fp32",
            "shift_values": "fp32"}

def build(kernel, out, **constants):
    signature = {}
    for name in kernel.arg_names:
        kind = "*" + POINTERS[name] if name in POINTERS else {"out": "*" + out, "bias": "fp32"}.get(name, "i32")
        signature[name] = "constexpr" if name in constants else kind
    used = {name: value for name, value in constants.items() if name in kernel.arg_names}
    built = triton.compile(ASTSource(kernel, signature, used), target=GPUTarget("cuda", 90, 32))
    assert built.asm["cubin"]
    print(kernel.__name__, out)

panels = dict(GROUP=64, W1=0, W2=0, EVEN=True, ALIGNED=True, SCALES=1, SCALES_AT=0, SCALE_BITS=0, SHIFTS=4,
              SHIFTS_AT=32, SHIFT_BITS=4, OFFSETS=False, UNITS=32, COVERED=128, C1=1, C2=1)
four = dict(panels, W0=4, C0=8, HEADER=40, GROUP_BYTES=552)
three = dict(panels, W0=2, W1=1, C0=4, C1=2, HEADER=38, GROUP_BYTES=422, SHIFT_BITS=3, ALIGNED=False)
codes = dict(BOOKS=2, BITS=8, HIGH=1, WIDE=8, PADDED=8, GROUPS=4, ROWS=64, SCALE_ROWS=1, SCALE_COLUMNS=4096,
             PANELS=True, P0=8, P1=0, P2=0, P3=0)
build(affine._matvec, "fp32", B=1, **four)
build(affine._matvec, "fp32", B=4, **three)
build(affine._decode, "bf16", **three)
build(lookup._matvec, "fp32", B=1, **four)
build(lookup._matvec_planes, "fp32", B=1, **three)
build(lookup._decode, "bf16", **four)
build(additive._matvec, "fp32", B=2, **codes)
build(additive._decode, "bf16", **codes)
build(additive._decode, "fp16", **dict(codes, PANELS=False, BITS=12))
"""


def test_kernels_compile_without_a_gpu() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 9
