"""Products made together are those that each layer makes alone, whatever happens between the calls."""

from __future__ import annotations

import copy
import gc
import pickle
import tempfile
import threading
from pathlib import Path
from weakref import ref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qformat import kernels
from qformat.dtypes import numpy_dtype
from qformat.errors import ChangedError
from qformat.torch import QLinear, siblings
from tests.torch.test_linear import METHODS, weight, written

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
INPUTS = 96


def layers(folder: Path, number: int = 3, mode: str = "int8", inputs: int = INPUTS) -> list[QLinear]:
    """Layers of one input: 4 bits, of different heights."""
    return [
        QLinear(
            written(folder / f"{i}.qf", "rtn", weight(20 + 13 * i, inputs, i), bits=4, group_size=32),
            mode=mode,  # type: ignore[arg-type]
        )
        for i in range(number)
    ]


def alone(layer: QLinear, x: torch.Tensor) -> torch.Tensor:
    """The product that nothing is shared in."""
    return copy.deepcopy(layer).product(x)


def ask(asked: list[QLinear], x: torch.Tensor) -> list[torch.Tensor]:
    return [layer(x) for layer in asked]


class Counted:
    """How many weights each native call multiplied."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[int] = []
        real = kernels.matvecs

        def counting(kernel: str, panels: list[kernels.Panels], *rest: object) -> None:
            self.calls.append(len(panels))
            real(kernel, panels, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(kernels, "matvecs", counting)


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> Counted:
    if kernels.active() == "reference":
        monkeypatch.setenv("QFORMAT_KERNEL", kernels.available()[0])
    return Counted(monkeypatch)


@given(
    methods=st.lists(st.sampled_from(METHODS), min_size=2, max_size=4),
    heights=st.lists(st.integers(1, 70), min_size=4, max_size=4),
    inputs=st.sampled_from([1, 17, 64, 100, 256]),
    batch=st.integers(1, 9),
    dtype=st.sampled_from(DTYPES),
    mode=st.sampled_from(["exact", "int8"]),
    kernel=st.sampled_from(kernels.available()),
    threads=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_results_are_those_of_each_alone(
    methods: list[tuple[str, dict[str, object]]],
    heights: list[int],
    inputs: int,
    batch: int,
    dtype: torch.dtype,
    mode: str,
    kernel: str,
    threads: int,
    seed: int,
) -> None:
    """Bit for bit: any codings side by side, any dtype, mode, instruction set and number of threads."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("QFORMAT_KERNEL", kernel)
        asked = [
            QLinear(
                written(Path(folder) / f"{i}.qf", name, weight(heights[i], inputs, seed + i), **options),
                mode=mode,  # type: ignore[arg-type]
            )
            for i, (name, options) in enumerate(methods)
        ]
        generator = torch.Generator().manual_seed(seed)
        before = kernels.get_threads()
        for _ in range(3):  # they meet, and then share
            x = torch.randn(batch, inputs, generator=generator).to(dtype)
            kernels.set_threads(1)
            expected = [alone(layer, x) for layer in asked]
            try:
                kernels.set_threads(threads)
                for y, one in zip(ask(asked, x), expected, strict=True):
                    assert y.dtype is dtype
                    assert torch.equal(y, one)
            finally:
                kernels.set_threads(before)


@given(dtype=st.sampled_from(DTYPES), batch=st.integers(1, 9), seed=st.integers(0, 9))
def test_results_are_rounded_as_torch_rounds(dtype: torch.dtype, batch: int, seed: int) -> None:
    """The kernels write the dtype of x: the float32 result, to the nearest, overflow and NaN included."""
    with tempfile.TemporaryDirectory() as folder:
        layer = QLinear(written(Path(folder) / "w.qf", "rtn", weight(37, INPUTS, seed), bits=4, group_size=32))
        scale = torch.logspace(-12, 4.5, batch)[:, None]
        x = (torch.randn(batch, INPUTS, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)
        x[-1, 3] = torch.nan if seed % 2 else 1
        array = x.view(torch.int16).numpy().view(_array_dtype(dtype)) if dtype is not torch.float32 else x.numpy()
        expected = torch.from_numpy(layer.tensor.matvec(array)).to(dtype)
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=0, equal_nan=True)


def _array_dtype(dtype: torch.dtype) -> np.dtype:
    return numpy_dtype(str(dtype).removeprefix("torch."))


def test_layers_of_one_input_meet_and_share(tmp_path: Path, native: Counted) -> None:
    """The first time each is multiplied alone, then all at once; who has another x in between does not disturb."""
    (tmp_path / "other").mkdir()
    asked, other = layers(tmp_path), layers(tmp_path / "other", 1)[0]
    with torch.inference_mode():
        for expected in ([1, 1, 1, 1], [3, 1], [3, 1]):
            native.calls.clear()
            ask(asked, torch.randn(1, 1, INPUTS))
            other(torch.randn(1, 1, INPUTS))
            assert native.calls == expected


@pytest.mark.parametrize("inference", [True, False])
def test_x_that_changed_in_place_is_multiplied_anew(tmp_path: Path, inference: bool) -> None:
    """Also where torch counts no versions: what is compared is the numbers."""
    first, second = layers(tmp_path, 2)
    with torch.inference_mode(inference):
        for _ in range(20):
            x = torch.randn(2, INPUTS)
            assert torch.equal(first(x), alone(first, x))
            x.numpy()[1, 5] += 1  # no version of it is counted either
            assert torch.equal(second(x), alone(second, x))
            x.mul_(2)
            assert torch.equal(second(x), alone(second, x))


def test_every_result_is_its_own(tmp_path: Path) -> None:
    """A caller may write to what it got; the next one, even of the same x, gets new memory."""
    first, second = layers(tmp_path, 2)
    x = torch.randn(1, INPUTS)
    for _ in range(4):
        y, z = first(x), second(x)
        y.zero_()
        z.zero_()
        again = second(x)
        assert torch.equal(again, alone(second, x))
        assert torch.equal(first(x), alone(first, x))


def test_modes_and_kernels_that_change_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = layers(tmp_path, 2)
    x = torch.randn(1, INPUTS)
    for number in range(6):
        x = torch.randn(1, INPUTS)
        monkeypatch.setenv("QFORMAT_KERNEL", kernels.available()[0])
        first(x)
        second.mode = "exact" if number % 2 else "int8"
        monkeypatch.setenv("QFORMAT_KERNEL", kernels.available()[number % len(kernels.available())])
        assert torch.equal(second(x), alone(second, x))


def test_a_weight_that_is_replaced_is_used(tmp_path: Path) -> None:
    first, second, third = layers(tmp_path)
    for _ in range(2):
        ask([first, second], torch.randn(1, INPUTS))
    x = torch.randn(1, INPUTS)
    first(x)
    second.tensor = third.tensor
    assert torch.equal(second.product(x, alone=False), third.product(x))


def test_an_inference_tensor_stays_inside(tmp_path: Path) -> None:
    """What was made in inference mode is not handed out to autograd."""
    first, second = layers(tmp_path, 2)
    for _ in range(2):
        ask([first, second], torch.randn(1, INPUTS))
    x = torch.randn(1, INPUTS)
    with torch.inference_mode():
        assert first(x).is_inference()
    assert not second(x).is_inference()


def test_gradients_and_compiled_graphs_share_nothing(tmp_path: Path, native: Counted) -> None:
    asked = layers(tmp_path)
    for _ in range(2):
        x = torch.randn(2, INPUTS, requires_grad=True)
        torch.stack([y.sum() for y in ask(asked, x)]).sum().backward()
        assert x.grad is not None
        torch.testing.assert_close(x.grad, sum(layer.weight.sum(0) for layer in asked).expand(2, -1))
    assert set(native.calls) == {1}

    def together(x: torch.Tensor) -> torch.Tensor:
        return torch.cat(ask(asked, x), -1)

    compiled = torch.compile(together, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for _ in range(3):
            x = torch.randn(1, INPUTS)
            assert torch.equal(compiled(x), torch.cat([alone(layer, x) for layer in asked], -1))
    assert set(native.calls) == {1}


def test_nothing_is_held(tmp_path: Path, native: Counted) -> None:
    """Neither x, nor what was made and not fetched, nor a layer that is no longer there."""
    first, second, third = layers(tmp_path)
    for _ in range(2):
        ask([first, second, third], torch.randn(1, INPUTS))
    x = torch.randn(1, INPUTS)
    first(x)
    made = siblings._last.made
    assert made is not None
    left = [ref(y) for y in made.results.values()]
    assert len(left) == 2
    del made
    gone, seen = ref(second), ref(x)
    del x, second
    gc.collect()
    assert seen() is None
    assert gone() is None
    assert [y() for y in left] == [None, None]
    native.calls.clear()
    ask([first, third], torch.randn(1, INPUTS))  # nobody fetched: they meet again
    assert native.calls == [1, 1]


def test_layers_that_part_share_no_more(tmp_path: Path, native: Counted) -> None:
    """A sibling that is asked about something else half of the time is soon left alone."""
    first, second = layers(tmp_path, 2)
    for _ in range(50):
        x = torch.randn(1, INPUTS)
        first(x)
        second(x)
        first(torch.randn(1, INPUTS))
        second(torch.randn(1, INPUTS))
    assert sum(native.calls) <= 200 + siblings.MISSES
    assert sum(native.calls[-8:]) == 8


def test_copies_know_nobody(tmp_path: Path, native: Counted) -> None:
    asked = layers(tmp_path)
    for _ in range(2):
        ask(asked, torch.randn(1, INPUTS))
    for layer in (copy.deepcopy(asked[0]), pickle.loads(pickle.dumps(asked[0]))):
        native.calls.clear()
        x = torch.randn(1, INPUTS)
        assert torch.equal(layer(x), alone(asked[0], x))
        assert native.calls[0] == 1


def test_other_views_of_x(tmp_path: Path) -> None:
    """x that is no stretch of memory, that is kept negated, or has other leading dimensions."""
    asked = layers(tmp_path, 2)
    for _ in range(3):
        whole = torch.randn(INPUTS, 4)
        for x in (whole.T, whole[:, :1].T, torch.view_as_complex(torch.randn(3, INPUTS, 2)).conj().imag, whole.T[None]):
            for y, layer in zip(ask(asked, x), asked, strict=True):
                assert torch.equal(y, alone(layer, x.clone().resolve_neg().contiguous()))
                assert y.shape == (*x.shape[:-1], layer.out_features)


def test_threads_do_not_meet(tmp_path: Path) -> None:
    """Each thread has its own x and its own results."""
    asked = layers(tmp_path)
    wrong: list[int] = []

    def work(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(30):
            x = torch.randn(1, INPUTS, generator=generator)
            results = ask(asked, x)
            if not all(torch.equal(y, layer.product(x)) for y, layer in zip(results, asked, strict=True)):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_file_that_changed_is_noticed_by_its_own_layers(tmp_path: Path) -> None:
    """What was made along of a file that is no longer what was opened is not handed out, and disturbs nobody else."""
    first, second = layers(tmp_path, 2)
    for _ in range(2):
        ask([first, second], torch.randn(1, INPUTS))
    with (tmp_path / "1.qf").open("ab") as file:
        file.write(b"more")
    for _ in range(2):
        x = torch.randn(1, INPUTS)
        assert torch.equal(first(x), alone(first, x))
        with pytest.raises(ChangedError):
            second(x)
