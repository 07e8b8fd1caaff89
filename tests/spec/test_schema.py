"""The JSON Schema and the grammar agree: what the library writes is in it, what breaks its form is in neither."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given

from qformat import container, schemes
from qformat.codings.grammar import Dense
from qformat.schemes import Activations, Scheme
from tests.strategies import Coded, Linear, coded, linears

SPEC = Path(__file__).parents[2] / "spec"
SCHEMA = json.loads((SPEC / "index.schema.json").read_text())
VALID = sorted((SPEC / "vectors" / "valid").glob("*.qf"))

SCHEMES = jsonschema.Draft202012Validator({"$ref": "#/$defs/scheme", "$defs": SCHEMA["$defs"]})


@pytest.mark.parametrize("file", VALID, ids=lambda file: file.stem)
def test_the_schemes_of_vectors(file: Path) -> None:
    with container.open(file) as opened:
        for scheme in opened.schemes:
            SCHEMES.validate(scheme)


@given(linears())
def test_schemes_with_anything_around_a_coding(case: Linear) -> None:
    SCHEMES.validate(json.loads(json.dumps(schemes.dump(case.scheme))))


@given(coded())
def test_schemes_of_any_coding(case: Coded) -> None:
    SCHEMES.validate(json.loads(json.dumps(schemes.dump(Scheme(coding=case.coding)))))


def test_notes_for_the_runtime() -> None:
    for activations in (Activations(bits=8), Activations(bits=4, granularity="tensor", outlier_threshold=6.0)):
        SCHEMES.validate(schemes.dump(Scheme(coding=Dense(dtype="float32"), activations=activations, method="int8")))


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"coding": {"coding": "affine"}},
        {"coding": {"coding": "affine", "bits": 9}},
        {"coding": {"coding": "affine", "bits": 4, "colour": 3}},
        {"coding": {"coding": "dense", "dtype": "float32"}, "colour": 3},
        {"coding": {"coding": "affine", "bits": 4, "group": {"group": "flat", "size": 0}}},
        {"coding": {"coding": "dense", "dtype": "float32"}, "transforms": [{"transform": "scale"}]},
        {"coding": {"coding": "dense", "dtype": "float32"}, "corrections": [{"correction": "lowrank"}]},
        {"coding": {"coding": "lattice", "lattices": []}},
        {"coding": {"coding": "lattice", "lattices": "e8p"}},
        {"coding": {"coding": "trellis", "bits": 2}},
        {"coding": {"coding": "trellis", "bits": 2, "function": "mcg", "vector": 3}},
        {"coding": {"coding": "split", "columns": [4]}},
        {"coding": {"coding": "split", "columns": [0], "parts": [{"coding": "dense", "dtype": "float32"}]}},
        {"coding": {"coding": "dense", "dtype": "float32"}, "transforms": [{"transform": "rotate", "rounds": 2}]},
    ],
)
def test_documents_that_neither_takes(document: object) -> None:
    with pytest.raises(jsonschema.ValidationError):
        SCHEMES.validate(document)
    with pytest.raises(ValueError):
        schemes.parse(document)
