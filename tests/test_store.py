"""Models and tensors: what the public face promises, over real files."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import qformat
from qformat import container, decoding, linear, schemes
from qformat.codings.grammar import Affine, Block, Dense
from qformat.corrections import Outliers
from qformat.dtypes import numpy_dtype
from qformat.errors import ChangedError, IntegrityError, InvalidFileError, QFormatError, UnsupportedError
from qformat.schemes import Scheme
from qformat.transforms import Hadamard, Permute, Scale
from tests.strategies import FLOATS, Linear, linear_arrays, linears

AFFINE = Affine(
    bits=4, group=Block(columns=16), scales=Dense(dtype="float16"), zeros=Dense(dtype="float16"), layout="panel"
)


def write(
    path: Path, tensors: dict[str, tuple[Scheme, tuple[int, ...], tuple[int, ...], dict[str, NDArray[Any]]]]
) -> Path:
    """A file of these tensors: scheme, source shape, parameters, arrays."""
    with container.create(path) as writer:
        for name, (scheme, shape, parameters, arrays) in tensors.items():
            matrix = linear.matrix_shape(shape, scheme.transposed)
            stored = linear.pack(scheme, matrix, arrays, parameters)
            writer.tensor(name, scheme=schemes.dump(scheme), dtype="bfloat16", shape=shape, length=len(stored),
                          data=[stored], parameters=parameters, error=0.25, max_error=0.5)  # fmt: skip
        writer.attachment("config.json", b"{}")
        writer.finish({"general.name": "a test"})
    return path


def made(scheme: Scheme, shape: tuple[int, ...], parameters: tuple[int, ...] = (), seed: int = 0) -> Any:
    matrix = linear.matrix_shape(shape, scheme.transposed)
    return scheme, shape, parameters, linear_arrays(scheme, matrix, parameters, seed)


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    return write(
        tmp_path / "x.qf",
        {
            "z.weight": made(Scheme(coding=AFFINE, method="hqq"), (40, 64)),
            "a.norm": made(Scheme(coding=Dense(dtype="float32")), (64,)),
            "m.experts": made(Scheme(coding=AFFINE, transposed=True), (3, 32, 10)),
        },
    )


def test_a_model_is_a_mapping_in_file_order(sample: Path) -> None:
    with qformat.open(sample) as model:
        assert list(model) == ["z.weight", "a.norm", "m.experts"]
        assert len(model) == 3
        assert "a.norm" in model
        assert "config.json" not in model
        assert 3 not in model
        with pytest.raises(KeyError):
            model["b"]
        assert model["z.weight"] is model["z.weight"]
        assert dict(model.attachments) == {"config.json": b"{}"}
        assert model.metadata == {"general.name": "a test"}
        assert len(model.digest) == len(model.content_digest) == 64
        assert "x.qf" in repr(model)
        again = pickle.loads(pickle.dumps(model))
        assert np.array_equal(again["a.norm"].decode(), model["a.norm"].decode())
        assert np.array_equal(pickle.loads(pickle.dumps(model["z.weight"])).decode(), model["z.weight"].decode())
        again.close()
    with pytest.raises(ValueError, match="closed"):
        model["z.weight"].decode()


def test_a_pickle_is_read_from_any_directory(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sample.parent)
    with qformat.open(sample.name) as model:
        monkeypatch.chdir("/")
        with pickle.loads(pickle.dumps(model)) as again:
            assert again.digest == model.digest
            assert np.array_equal(pickle.loads(pickle.dumps(again["a.norm"])).decode(), model["a.norm"].decode())


def test_a_tensor_says_what_the_index_says(sample: Path) -> None:
    with qformat.open(sample) as model:
        tensor = model["z.weight"]
        assert (tensor.shape, tensor.dtype, tensor.coding, tensor.method) == ((40, 64), "bfloat16", "affine", "hqq")
        assert (tensor.bits, tensor.group_size, tensor.error, tensor.max_error) == (4, 16, 0.25, 0.5)
        assert tensor.nbytes == 3 * 4 * (64 + 16 * 16 // 2) == len(tensor.extent())
        assert tensor.bits_per_weight == 8 * tensor.nbytes / (40 * 64)
        norm = model["a.norm"]
        assert (norm.coding, norm.bits, norm.group_size, norm.method, norm.bits_per_weight) == (
            "dense",
            None,
            None,
            None,
            32,
        )
        assert norm.arrays()["values"].shape == (64,)
        assert set(tensor.arrays()) == {"codes", "scales", "zeros"}
        assert model["m.experts"].matrix_shape == (30, 32)


def _index(data: st.DataObject, length: int) -> Any:
    kind = data.draw(st.sampled_from(["all", "slice", "array", "list"]))
    if kind == "slice":
        ends = st.one_of(st.none(), st.integers(-length - 2, length + 2))
        step = st.one_of(st.none(), st.integers(1, 4), st.integers(-3, -1))
        return slice(data.draw(ends), data.draw(ends), data.draw(step))
    if kind == "all" or not length:
        return None
    places = data.draw(st.lists(st.integers(-length, length - 1), max_size=9))
    return places if kind == "list" else np.array(places, np.int64)


@given(st.data())
def test_slices_are_numpys_slices(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([(40, 64), (3, 32, 10), (2, 3, 5, 16), (1, 1), (0, 16), (16, 0), (7, 33)]))
    transposed = data.draw(st.booleans())
    coding = data.draw(
        st.sampled_from([AFFINE, Dense(dtype="bfloat16"), Affine(bits=3, scales=Dense(dtype="float32"))])
    )
    corrections = data.draw(st.sampled_from([(), (Outliers(dtype="float16"),)]))
    scheme = Scheme(
        coding=coding,
        transposed=transposed,
        transforms=data.draw(st.sampled_from([(), (Permute(),)])),
        corrections=corrections,
    )
    path = tmp_path_factory.mktemp("slices") / "x.qf"
    write(path, {"w": made(scheme, shape, (0,) if corrections else ())})
    with qformat.open(path) as model:
        tensor = model["w"]
        expected = tensor.decode()
        assert expected.shape == shape
        rows, columns = _index(data, shape[0]), _index(data, shape[-1])
        decoding.TILE, before = data.draw(st.sampled_from([64, 1000, 1 << 20])), decoding.TILE
        try:
            found = tensor.decode(rows=rows, columns=columns)
        finally:
            decoding.TILE = before
        expected = expected[slice(None) if rows is None else rows]
        expected = (
            expected[..., slice(None) if columns is None else columns]
            if not isinstance(columns, list)
            else expected[..., np.array(columns, int)]
        )
        assert found.shape == expected.shape
        assert np.array_equal(found, expected)


@given(linears())
def test_decode_is_linear_decode(tmp_path_factory: pytest.TempPathFactory, case: Linear) -> None:
    path = write(tmp_path_factory.mktemp("d") / "x.qf", {"w": (case.scheme, case.shape, case.parameters, case.arrays)})
    with qformat.open(path) as model:
        tensor = model["w"]
        expected = linear.decode(case.scheme, case.shape, case.arrays, parameters=case.parameters)
        # kernels may differ from the numpy decoder in the sign of zero
        assert np.array_equal(tensor.decode(), expected, equal_nan=True)
        assert all(tensor.arrays()[name].tobytes() == array.tobytes() for name, array in case.arrays.items())
        tensor.check()
    qformat.verify(path)


@pytest.mark.parametrize(
    "dtype", [*FLOATS, "float64", np.dtype(">f4"), np.dtype(">f2"), np.float32, np.dtype("float16"), ml_dtypes.bfloat16]
)
def test_dtypes_are_casts_of_float32(sample: Path, dtype: Any) -> None:
    with qformat.open(sample) as model:
        target = numpy_dtype(dtype) if isinstance(dtype, str) else np.dtype(dtype)
        for tensor in model.values():
            found = tensor.decode(dtype)
            assert found.dtype == target
            assert found.tobytes() == tensor.decode().astype(target).tobytes()


def test_stored_dtypes_are_read_exactly(tmp_path: Path) -> None:
    path = tmp_path / "x.qf"
    values = {
        "i": np.array([2**62 + 1, -5], np.int64),
        "c": np.array([1 + 2j], np.complex64),
        "d": np.array(0.1),
        "b": np.array([True]),
    }
    with container.create(path) as writer:
        for name, array in values.items():
            scheme = {"coding": {"coding": "dense", "dtype": array.dtype.name}}
            writer.tensor(
                name,
                scheme=scheme,
                dtype=array.dtype.name,
                shape=array.shape,
                length=array.nbytes,
                data=[array.tobytes()],
            )
        writer.alias("tied", "i")
        writer.finish({})
    with qformat.open(path) as model:
        for name, array in values.items():
            found = model[name].decode(array.dtype)
            assert found.shape == array.shape
            assert found.tobytes() == array.tobytes()
        assert model["d"].decode().shape == ()
        assert model["tied"].decode("int64").tolist() == values["i"].tolist()
        assert model["tied"].record.target == "i"
        with pytest.raises(UnsupportedError, match="complex"):
            model["c"].decode()


def test_mixing_transforms_refuse_slices(tmp_path: Path) -> None:
    mixed = Scheme(coding=Dense(dtype="float32"), transforms=(Hadamard(block=8),))
    both = Scheme(coding=Dense(dtype="float32"), output_transforms=(Hadamard(block=4), Scale(dtype="float16")))
    path = write(tmp_path / "x.qf", {"in": made(mixed, (4, 16)), "out": made(both, (4, 16))})
    with qformat.open(path) as model:
        with pytest.raises(UnsupportedError, match="columns"):
            model["in"].decode(columns=slice(0, 4))
        assert np.array_equal(model["in"].decode(rows=[2]), model["in"].decode()[2:3])
        with pytest.raises(UnsupportedError, match="rows"):
            model["out"].decode(rows=slice(0, 2))
        assert np.array_equal(model["out"].decode(columns=slice(0, 2)), model["out"].decode()[:, :2])


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ([40], IndexError),
        ([-41], IndexError),
        ([[1]], TypeError),
        ([True], TypeError),
        ([1.5], TypeError),
        (3, TypeError),
    ],
)
def test_wrong_rows(sample: Path, rows: Any, error: type[Exception]) -> None:
    with qformat.open(sample) as model, pytest.raises(error):
        model["z.weight"].decode(rows=rows)


def test_matvec_is_a_product_with_the_decoded_matrix(sample: Path) -> None:
    rng = np.random.default_rng(0)
    with qformat.open(sample) as model:
        for name in ("z.weight", "m.experts"):
            tensor = model[name]
            rows, inputs = tensor.matrix_shape
            weight = tensor.decode()
            matrix = (
                (np.swapaxes(weight, -1, -2) if tensor.scheme.transposed else weight)
                .reshape(rows, inputs)
                .astype(np.float64)
            )
            for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
                for shape in ((inputs,), (3, inputs), (0, inputs)):
                    x = rng.standard_normal(shape).astype(dtype)
                    y = tensor.matvec(x)
                    assert y.dtype == np.float32
                    assert y.shape == (*shape[:-1], rows)
                    bound = 1e-5 * np.sqrt(inputs) * (np.abs(x.astype(np.float64)) @ np.abs(matrix).T) + 1e-6
                    assert (np.abs(y - x.astype(np.float64) @ matrix.T) <= bound).all()
        for wrong in ((inputs + 1,), (2, inputs + 1), (1, 1, inputs), ()):
            with pytest.raises(ValueError, match="x has shape"):
                tensor.matvec(np.zeros(wrong, np.float32))
        with pytest.raises(TypeError):
            tensor.matvec(np.zeros(inputs, np.int32))
        with pytest.raises(TypeError, match=">f4"):  # its bytes in the other order are other numbers
            tensor.matvec(np.zeros(inputs, ">f4"))
        with pytest.raises(ValueError, match="mode"):
            tensor.matvec(np.zeros(inputs, np.float32), mode="fast")  # type: ignore[arg-type]


def test_faults_name_file_tensor_and_field(tmp_path: Path) -> None:
    path = tmp_path / "x.qf"
    good = schemes.dump(Scheme(coding=Dense(dtype="float32")))
    with container.create(path) as writer:
        writer.tensor(
            "later", scheme={"coding": {"coding": "later"}}, dtype="float32", shape=(4,), length=16, data=[bytes(16)]
        )
        writer.tensor("short", scheme=good, dtype="float32", shape=(5,), length=16, data=[bytes(16)])
        writer.tensor(
            "broken",
            scheme={"coding": {"coding": "affine", "bits": 9}},
            dtype="float32",
            shape=(4,),
            length=16,
            data=[bytes(16)],
        )
        writer.tensor("fine", scheme=good, dtype="float32", shape=(4,), length=16, data=[bytes(16)])
        writer.finish({})
    with qformat.open(path) as model:
        for name, error, field in (
            ("later", UnsupportedError, "coding"),
            ("short", InvalidFileError, "length"),
            ("broken", InvalidFileError, "bits"),
        ):
            assert model[name].shape
            assert model[name].nbytes == 16
            with pytest.raises(error) as caught:
                model[name].decode()
            assert (caught.value.file, caught.value.tensor) == (str(path), name)
            assert field in str(caught.value.field)
        assert model["fine"].decode().tolist() == [0, 0, 0, 0]
    with pytest.raises(QFormatError, match=r"(?s)short.*broken") as caught:
        qformat.verify(path)
    assert len(caught.value.__notes__) == 2


def test_verify_names_every_bad_tensor(sample: Path) -> None:
    qformat.verify(sample)
    raw = bytearray(sample.read_bytes())
    with qformat.open(sample) as model:
        places = [model[name].record.offset for name in ("z.weight", "a.norm")]
    for place in places:
        raw[place] ^= 1
    sample.write_bytes(raw)
    with pytest.raises(IntegrityError) as caught:
        qformat.verify(sample)
    assert "z.weight" in str(caught.value)
    assert "a.norm" in str(caught.value)


@pytest.mark.parametrize("compression", [None, "split"])
def test_damage_is_named_where_it_is(compression: str | None, tmp_path: Path) -> None:
    """File, tensor, chunk and the offset where its stored bytes begin, whichever call meets it first."""
    values, path = np.random.default_rng(0).standard_normal((3 << 10, 1 << 10)).astype(np.float32), tmp_path / "x.qf"
    with container.create(path) as writer:
        writer.tensor(
            "w",
            scheme=schemes.dump(Scheme(coding=Dense(dtype="float32"))),
            dtype="float32",
            shape=values.shape,
            length=values.nbytes,
            data=[values.tobytes()],
            compression=compression,
            itemsize=4,
        )
        writer.finish({})
    with qformat.open(path) as model:
        index = model.container.parts[0].index
        place = int(index.records[0]["offset"]) + int(index.chunks["stored"][0])  # the second of three chunks
    raw = bytearray(path.read_bytes())
    raw[place + 99] ^= 1
    path.write_bytes(raw)
    with qformat.open(path) as model:
        assert np.array_equal(model["w"].decode(rows=slice(0, 4)), values[:4])
        for use in (model["w"].decode, model["w"].arrays, lambda: model["w"].matvec(values[0])):
            with pytest.raises(IntegrityError) as caught:
                use()
            found = caught.value
            assert (found.file, found.tensor, found.field, found.offset) == (str(path), "w", "chunk 1", place)


def test_a_changed_file_is_an_error(sample: Path) -> None:
    with qformat.open(sample) as model:
        weight, x = model["z.weight"], np.zeros(64, np.float32)
        weight.decode()
        weight.matvec(x)  # from now on the kernels have what they read
        os.truncate(sample, 100)
        with pytest.raises(ChangedError):
            weight.decode()
        with pytest.raises(ChangedError):
            weight.matvec(x)


def test_what_was_decoded_while_the_file_changed_is_not_given_out(
    sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*arguments: Any) -> Any:
        found = decode(*arguments)
        os.truncate(sample, 100)
        return found

    decode = decoding.decode
    monkeypatch.setattr(decoding, "decode", slow)
    with qformat.open(sample) as model, pytest.raises(ChangedError):
        model["z.weight"].decode()
