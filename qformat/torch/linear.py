"""A linear layer whose weight stays in the mapped file."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import nn

from qformat import kernels
from qformat.codings.panel import ROWS
from qformat.kernels.around import Around
from qformat.kernels.operand import FEATURES, WIDE
from qformat.kernels.strips import Strips
from qformat.tensor import Tensor
from qformat.torch import numbered, siblings, surroundings
from qformat.torch.arrays import dense, dtype_name, from_array, to_array
from qformat.torch.device import OnDevice, on_device, product
from qformat.torch.siblings import KERNEL_DTYPES, Siblings

Mode = Literal["exact", "int8"]

# Rows of x up to which kernels that read the codes once for each EIGHT of them are ahead of tiles. On AVX-512 (4096 ×
# 4096, affine at 4 bits, float32, two threads of Zen 4) 64 rows take 11.4 ms, or 6.0 in `int8`; 17.8 in tiles, 15.6
# dense. On AVX2, 16 rows already are slower than tiles. Exact tables of 2×8 bits: 12.8 ms for 16 rows, 27 in tiles, and
# 25 for 32 rows, 16 in tiles.
SMALL, SMALL_EXACT_TABLES, EIGHT = 64, 16, 8

# The same where weights are decoded in strips, once for all rows: tiles only have the faster product. They are ahead
# of float32 with more rows than this, and of bfloat16, where the processor multiplies that, from `EIGHT` on.
SMALL_STRIPS = 32

# The same where a kernel reads the codes once for all rows (there, bfloat16): 9 rows take 1.8 ms both ways in `exact`;
# in `int8` 12 rows take 1.3 ms by eights and 1.9 together, 16 rows 1.6 and 1.8, wider codes turn earlier.
TOGETHER = {"exact": EIGHT, "int8": 16}

SMALL_ON_GPU = 32

# Weights decoded at a time for larger batches: the tile is still in the cache when the product reads it.
TILE = 1 << 22


class QLinear(nn.Module):
    """y = x Wᵀ + bias, with W (out_features, in_features) read from the file in place.

    Up to `SMALL` rows of x go through kernels that read the codes for each few of them. Many rows of bfloat16 read them
    once where the processor multiplies bfloat16; others decode tiles of W and multiply with torch. With many rows
    weights may be rounded to the dtype of x, as a dense layer's are, and so may be what transforms make of x. There is
    no weight parameter, and gradients flow to x and bias only.

    On a GPU the stored bytes are copied once, at the first use, and kernels read them there; `mode` has no effect.
    Codings without such a kernel are decoded on the CPU at every use.

    Args:
        tensor: a weight of an open file, of at most two dimensions once its leading ones are joined.
        bias: (out_features,) or None.
        mode: `exact` keeps x as it is; `int8` rounds x to eight bits in runs of 64 inputs (small batches only, and not
            for lattices, trellises, splits and plain layouts, whose weights are decoded first).

    Raises:
        ValueError: the bias or the mode makes no sense.
    """

    def __init__(self, tensor: Tensor, bias: torch.Tensor | None = None, *, mode: Mode = "exact") -> None:
        super().__init__()
        self.tensor = tensor
        self.out_features, self.in_features = tensor.matrix_shape
        if bias is not None and tuple(bias.shape) != (self.out_features,):
            raise ValueError(f"bias has shape {tuple(bias.shape)}, expected ({self.out_features},)")
        if bias is None or isinstance(bias, nn.Parameter):
            self.bias = bias
        else:
            self.bias = nn.Parameter(bias, requires_grad=False)
        self.mode = mode
        self.siblings = Siblings()
        self._on_devices: dict[torch.device, OnDevice | None] = {}
        self._surroundings: Around | None = None
        self._number = numbered.number(self)

    @property
    def mode(self) -> Mode:
        """How the activations of small batches are rounded."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"mode is {mode!r}, expected 'exact' or 'int8'")
        self._mode: Mode = mode

    @property
    def weight(self) -> torch.Tensor:
        """The decoded weight in the source's shape and dtype: for code that looks at it; each look decodes it."""
        return dense(self.tensor)

    def replace(self, tensor: Tensor) -> None:
        """Read another weight of the same shape from now on."""
        self.tensor, self._surroundings = tensor, None
        self._on_devices.clear()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in_features) to (..., out_features) of the same dtype."""
        recording = numbered.recording()
        if not recording and numbered.differentiating():
            y = nn.functional.linear(x, self._decoded(x))
        elif recording or (x.requires_grad and torch.is_grad_enabled()):
            y = torch.ops.qformat.linear(x, self._number, self.out_features)
        else:
            y = self.product(x, alone=False)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def product(self, x: torch.Tensor, alone: bool = True) -> torch.Tensor:
        """x Wᵀ without bias: the one place that chooses how.

        `alone`: not with other layers that are asked about the same x, see `siblings`.
        """
        if x.shape[-1] != self.in_features:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (..., {self.in_features})")
        if not x.is_floating_point():  # the weights would be cast to its dtype, integers
            raise TypeError(f"x is {x.dtype}, expected a float")
        rows = x.shape[:-1].numel()
        if x.dtype not in KERNEL_DTYPES:
            y = x.reshape(rows, self.in_features) @ self._decoded(x).T
        elif x.is_cpu:
            kernel = kernels.active()
            bare = self.tensor.product.bare
            few = rows <= EIGHT and (bare or not self._rounds(x, kernel))
            if few or (bare and self._are_few(rows, KERNEL_DTYPES[x.dtype], kernel)):
                return self._few(x, kernel, alone or not few)
            y = self._many(x.reshape(rows, self.in_features), kernel)
        else:
            y = self._elsewhere(x.reshape(rows, self.in_features))
        return y.view(*x.shape[:-1], self.out_features)

    def _elsewhere(self, rows: torch.Tensor) -> torch.Tensor:
        """On a GPU, where the stored bytes are copied when they are first used; decoded where there is no kernel."""
        device = rows.device
        if device.type == "cuda" and device not in self._on_devices:
            self._on_devices[device] = on_device(self.tensor, device)
        weight = self._on_devices.get(device) if len(rows) else None
        return rows @ self._decoded(rows).T if weight is None else product(weight, rows, SMALL_ON_GPU)

    def _rounds(self, x: torch.Tensor, kernel: str) -> bool:
        """Whether x, once transformed, is rounded again: kernels for float32 take several times as long."""
        weight = self.tensor.product
        fast = self._mode == "exact" and weight.takes_batches(KERNEL_DTYPES[x.dtype], kernel)
        return fast and x.numel() > 0 and not weight.around.only_moves

    def _are_few(self, rows: int, dtype: str, kernel: str) -> bool:
        """Whether reading the codes for each eight of more than `EIGHT` rows is the fastest way."""
        if self.tensor.product.takes_batches(dtype, kernel):
            return rows <= TOGETHER[self._mode]
        if isinstance(self.tensor.product.operand.native, Strips):
            multiplies = dtype == "bfloat16" and "avx512bf16" in FEATURES
            return kernel in WIDE and rows <= (EIGHT if multiplies else SMALL_STRIPS)
        exact_tables = self._mode == "exact" and self.tensor.coding == "additive"
        return kernel in WIDE and rows <= (SMALL_EXACT_TABLES if exact_tables else SMALL)

    def _few(self, x: torch.Tensor, kernel: str, alone: bool) -> torch.Tensor:
        """Few rows: the kernels read the codes in place, and x and y where torch has them."""
        if self.tensor.product.panels is None or kernel == "reference" or not x.numel():
            y = from_array(self.tensor.matvec(to_array(x.reshape(-1, self.in_features).contiguous()), self._mode))
            return y.to(x.dtype).view(*x.shape[:-1], self.out_features)
        if not x.is_contiguous() or x.is_neg():
            x, alone = x.resolve_neg().contiguous(), True
        return siblings.multiply([self], x, kernel)[0] if alone else siblings.product(self, x, kernel)

    def _many(self, rows: torch.Tensor, kernel: str) -> torch.Tensor:
        """Many rows: a kernel that reads the codes once for all of them, or tiles of W; what surrounds the codes is
        applied to x and y."""
        weight = self.tensor.product
        if weight.bare:
            y = self._coded(rows, kernel)
        elif not weight.decodes(kernel):
            y = self._whole(rows)
        else:
            around, x = self._around(), rows
            if not around.only_moves:
                x = x.float()
            x = around.before(x)
            if rows.dtype is torch.bfloat16:
                x = x.bfloat16()
            y = around.after(self._coded(x, kernel).float())
            around.correct(y, rows.float())
        self.tensor.guard()
        return y.to(rows.dtype)

    def _around(self) -> Around:
        """What surrounds the codes, for torch."""
        if self._surroundings is None:
            self._surroundings = self.tensor.product.around.convert(surroundings.array, surroundings.sparse_product)
        return self._surroundings

    def _coded(self, x: torch.Tensor, kernel: str) -> torch.Tensor:
        """More than `EIGHT` rows times the coded matrix."""
        weight, dtype = self.tensor.product, KERNEL_DTYPES[x.dtype]
        if self._are_few(len(x), dtype, kernel):
            return from_array(weight.coded(to_array(x.contiguous()), self._mode, kernel))
        if weight.takes_batches(dtype, kernel):
            return from_array(weight.operand.matvec(to_array(x.contiguous()), "exact", kernel, rounded=True))
        return self._tiled(x, kernel) if weight.decodes(kernel) else self._whole(x)

    def _tiled(self, x: torch.Tensor, kernel: str) -> torch.Tensor:
        """Many rows times the coded matrix in tiles, decoded and used while they are in the cache."""
        # float16 products are slow on a CPU and bfloat16 ones are not
        x = x.float() if x.dtype is torch.float16 else x
        weight, inputs = self.tensor.product, x.shape[1]
        out = x.new_empty(len(x), self.out_features)
        step = max(TILE // max(inputs, 1) // ROWS * ROWS, ROWS)
        scratch = x.new_empty(min(step, self.out_features), inputs)
        for top in range(0, self.out_features, step):
            bottom = min(top + step, self.out_features)
            tile = scratch[: bottom - top]
            weight.decode_panels(top // ROWS, -(-bottom // ROWS), to_array(tile), kernel)
            torch.mm(x, tile.T, out=out[:, top:bottom])
        return out

    def _whole(self, rows: torch.Tensor) -> torch.Tensor:
        """Many rows times W, decoded as its definition says, in pieces if its rows decode alone."""
        x = rows.float() if rows.dtype is torch.float16 else rows
        tensor = self.tensor
        if not tensor.can_slice_rows or tensor.scheme.transposed or len(tensor.shape) != 2:
            return x @ self._decoded(x).T
        step = max(TILE // max(self.in_features, 1), 1)
        tops = range(0, self.out_features, step)
        pieces = (tensor.decode(dtype_name(x.dtype), rows=slice(top, top + step)) for top in tops)
        return torch.cat([x @ from_array(piece).T for piece in pieces], dim=-1)

    def _decoded(self, x: torch.Tensor) -> torch.Tensor:
        """W as a matrix, in the dtype and on the device of x."""
        values = dense(self.tensor, x.dtype if x.dtype in KERNEL_DTYPES else torch.float32)
        if self.tensor.scheme.transposed:
            values = values.transpose(-1, -2)
        return values.reshape(self.out_features, self.in_features).to(device=x.device, dtype=x.dtype)

    def extra_repr(self) -> str:
        """What `print(model)` shows of it."""
        tensor = self.tensor
        how = [tensor.coding, tensor.method, tensor.bits and f"{tensor.bits}-bit", self._mode]
        words = " ".join(str(word) for word in how if word)
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, {words}"

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # the weight travels as the path of its file: copies and workers map it again
        return _again, (self.tensor, self.bias, self._mode, self.training)


def set_mode(module: nn.Module, mode: Mode) -> None:
    """Choose how every QLinear of `module` rounds its activations."""
    for layer in module.modules():
        if isinstance(layer, QLinear):
            layer.mode = mode


def _again(tensor: Tensor, bias: torch.Tensor | None, mode: Mode, training: bool) -> QLinear:
    return QLinear(tensor, bias, mode=mode).train(training)


_library = torch.library.Library("qformat", "DEF")
_library.define("linear(Tensor x, int layer, int out_features) -> Tensor")
_library.define("linear_backward(Tensor grad, int layer, int in_features) -> Tensor")


def _linear(x: torch.Tensor, layer: int, out_features: int) -> torch.Tensor:
    y: torch.Tensor = numbered.layer(layer).product(x)
    return y


def _linear_backward(grad: torch.Tensor, layer: int, in_features: int) -> torch.Tensor:
    product: torch.Tensor = grad @ numbered.layer(layer)._decoded(grad)
    return product.to(grad.dtype)  # which autocast may have changed


def _resized(x: torch.Tensor, layer: int, features: int) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], features))


def _remember(ctx: Any, inputs: tuple[torch.Tensor, int, int], output: torch.Tensor) -> None:
    ctx.layer, ctx.features = inputs[1], inputs[0].shape[-1]


for _name, _function in {"linear": _linear, "linear_backward": _linear_backward}.items():
    _library.impl(_name, _function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"qformat::{_name}", _resized, lib=_library)

# x Wᵀ and its gradient, g W, are linear: each is the other's derivative
torch.library.register_autograd(
    "qformat::linear",
    lambda ctx, grad: (torch.ops.qformat.linear_backward(grad, ctx.layer, ctx.features), None, None),
    setup_context=_remember,
    lib=_library,
)
torch.library.register_autograd(
    "qformat::linear_backward",
    lambda ctx, grad: (torch.ops.qformat.linear(grad, ctx.layer, ctx.features), None, None),
    setup_context=_remember,
    lib=_library,
)
