"""Any module filled from a file: what it computes, what it keeps, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import qformat
from qformat.errors import UnsupportedError
from qformat.torch import QLinear, load_into


class Small(nn.Module):
    """A module that no library knows: a linear, a norm with a buffer, an embedding, a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 32)
        self.mix = nn.Conv1d(32, 32, 3, padding=1)
        self.norm = nn.BatchNorm1d(32)
        self.out = nn.Linear(32, 24)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.norm(self.mix(self.embed(ids).transpose(1, 2))).transpose(1, 2))


def checkpoint(folder: Path) -> tuple[Small, Path]:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = Small().eval()
    model.norm.running_mean = torch.randn(32)
    save_file(model.state_dict(), folder / "small.safetensors")
    return model, folder / "small.safetensors"


def test_any_module_can_be_filled(tmp_path: Path) -> None:
    """load_into needs names and shapes only; buffers come along, and a module on meta becomes real."""
    model, source = checkpoint(tmp_path)
    qformat.convert(source, tmp_path / "small.qf", method="rtn", bits=8, group_size=32)
    with torch.device("meta"):
        other = Small().eval()
    report = load_into(other, tmp_path / "small.qf")
    assert "out.weight" in report.quantized
    assert not report.missing
    assert not report.unused
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(other(ids), model(ids), rtol=0.02, atol=0.02)


def test_mapped_weights_can_be_written_to(tmp_path: Path) -> None:
    """By `load_state_dict` or an optimizer: the file, and whoever else maps it, see nothing of it."""
    _, source = checkpoint(tmp_path)
    path = tmp_path / "small.qf"
    qformat.convert(source, path, recipe={"rules": [{"match": "*", "skip": True}]})
    before, written, other = path.read_bytes(), Small().eval(), Small().eval()
    load_into(written, path)
    load_into(other, path)
    expected = {name: values.clone() for name, values in other.state_dict().items()}
    with torch.no_grad():
        for parameter in written.parameters():
            parameter.fill_(3.0)
    written.load_state_dict({name: values + 1 for name, values in written.state_dict().items()})
    assert all(bool((parameter == 4).all()) for parameter in written.parameters())
    assert path.read_bytes() == before
    qformat.verify(path)
    for name, values in other.state_dict().items():
        assert torch.equal(values, expected[name])


def test_missing_and_misshapen_weights_are_named(tmp_path: Path) -> None:
    _, source = checkpoint(tmp_path)
    qformat.convert(source, tmp_path / "small.qf")
    larger = Small()
    larger.extra = nn.Linear(2, 2)
    with pytest.raises(UnsupportedError, match=r"extra\.weight"):
        load_into(larger, tmp_path / "small.qf")
    assert set(load_into(larger, tmp_path / "small.qf", strict=False).missing) == {"extra.weight", "extra.bias"}
    other = Small()
    other.out = nn.Linear(31, 24)
    with pytest.raises(UnsupportedError, match="shape"):
        load_into(other, tmp_path / "small.qf")


class Tied(nn.Module):
    """An embedding and a head of one weight, and a norm between them."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm, self.head = nn.Embedding(48, 64), nn.LayerNorm(64), nn.Linear(64, 48)
        self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.norm(self.table(ids)))
        return y


def test_another_file_can_be_loaded_into_the_same_module(tmp_path: Path) -> None:
    """Layers that read a file read the next one instead, tied ones together, dense ones too; nothing old remains."""
    from safetensors.torch import save_file

    module, ids = Tied().eval(), torch.arange(48)
    for number, rule in enumerate(({"method": "rtn", "bits": 8}, {"method": "ls", "bits": 6}, {"skip": True})):
        torch.manual_seed(number)
        other = Tied().eval()
        weights = {name: values for name, values in other.state_dict().items() if name != "head.weight"}
        save_file(weights, tmp_path / f"{number}.safetensors")
        path = tmp_path / f"{number}.qf"
        qformat.convert(tmp_path / f"{number}.safetensors", path, recipe={"rules": [{"match": "table*"} | rule]})
        report = load_into(module, path)
        names = report.dense if "skip" in rule else report.quantized
        assert {"table.weight", "head.weight"} <= set(names)
        assert not report.missing
        assert not report.unused
        with torch.no_grad():
            assert float((module(ids) - other(ids)).norm() / other(ids).norm()) < 0.05
    save_file({"table.weight": torch.ones(48, 32)}, tmp_path / "narrow.safetensors")
    qformat.convert(tmp_path / "narrow.safetensors", tmp_path / "narrow.qf", method="rtn", bits=8)
    with pytest.raises(UnsupportedError, match="shape"):
        load_into(module, tmp_path / "narrow.qf", strict=False)


def test_what_was_added_to_a_layer_stays(tmp_path: Path) -> None:
    """Hooks go on being called and can be removed; a module that was given another `forward` keeps it."""
    model, source = checkpoint(tmp_path)
    qformat.convert(source, tmp_path / "small.qf", method="rtn", bits=8, group_size=32)
    ids = torch.arange(20)[None]
    other, calls = Small().eval(), []
    hook = other.out.register_forward_hook(lambda *_: calls.append(0))
    load_into(other, tmp_path / "small.qf")
    assert isinstance(other.out, QLinear)
    other(ids)
    hook.remove()
    other(ids)
    assert len(calls) == 1
    other = Small().eval()
    plain = other.out.forward
    other.out.forward = lambda x: 2 * plain(x)
    report = load_into(other, tmp_path / "small.qf")
    assert "out.weight" in report.decoded
    with torch.no_grad():
        torch.testing.assert_close(other(ids), 2 * model(ids), rtol=0.02, atol=0.04)


def test_load_into_takes_the_same_dtypes(tmp_path: Path) -> None:
    _, source = checkpoint(tmp_path)
    qformat.convert(source, tmp_path / "small.qf")
    for dtype, expected in (("auto", torch.float32), ("bfloat16", torch.bfloat16), (None, torch.float32)):
        module = Small()
        load_into(module, tmp_path / "small.qf", dtype=dtype)
        assert module.mix.weight.dtype == expected


def test_what_makes_no_sense_changes_nothing(tmp_path: Path) -> None:
    _, source = checkpoint(tmp_path)
    qformat.convert(source, tmp_path / "small.qf")
    module = Small()
    before = dict(module.named_parameters())
    for options in ({"mode": "fast"}, {"dtype": "float31"}, {"residency": "ram"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            load_into(module, tmp_path / "small.qf", **options)
    assert all(module.get_parameter(name) is parameter for name, parameter in before.items())
