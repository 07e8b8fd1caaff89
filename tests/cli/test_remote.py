"""Looking at files over a network: a request for the size and few ranges, never the whole file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from qformat import container, schemes
from tests.cli import models
from tests.cli.command_line import call, controls, process
from tests.cli.range_server import COMMIT, Asked, serve

pytest.importorskip("aiohttp")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("remote") / "x.safetensors"
    save_file({f"layers.{n}.weight": np.zeros((64, 128), np.float32) for n in range(40)}, path)
    return path.read_bytes()


def test_a_safetensors_header_is_all_that_is_read(weights: bytes, tmp_path: Path) -> None:
    with serve({"/x.safetensors": weights}) as server:
        result = call("inspect", "--json", f"{server.address}/x.safetensors")
        assert result.code == 0, result.err
        assert len(server.ranges) == 1
        assert sum(stop - start for start, stop in server.ranges) < 70_000
        assert all(method == "HEAD" or part is not None for method, part in server.requests)
    (tmp_path / "x.safetensors").write_bytes(weights)
    assert json.loads(result.out) == json.loads(call("inspect", "--json", tmp_path / "x.safetensors").out)


def test_a_model_file_takes_its_size_and_two_ranges(tmp_path: Path) -> None:
    path = models.write(tmp_path / "x.qf", layers=3)
    with serve({"/x.qf": path.read_bytes()}) as server:
        result = call("inspect", "--json", f"{server.address}/x.qf")
        assert result.code == 0, result.err
        assert len(server.requests) <= 3
        assert len(server.ranges) <= 2
        assert call("verify", "-q", f"{server.address}/x.qf") == (0, "", "")
    assert json.loads(result.out) == json.loads(call("inspect", "--json", path).out)


def test_of_a_large_model_file_only_the_index_travels(tmp_path: Path) -> None:
    path = tmp_path / "large.qf"
    values = np.random.default_rng(0).normal(size=(512, 1024)).astype(np.float32)
    with container.create(path) as writer:
        for n in range(600):  # as many as a large model has
            data = values.tobytes() if n < 4 else bytes(64)
            shape = (512, 1024) if n < 4 else (16,)
            writer.tensor(
                f"layers.{n}.weight",
                scheme=schemes.dump(models.PLAIN),
                dtype="float32",
                shape=shape,
                length=len(data),
                data=[data],
            )
        writer.finish({})
    with serve({"/large.qf": path.read_bytes()}) as server:
        assert call("inspect", f"{server.address}/large.qf").code == 0
        assert len(server.ranges) <= 2
        assert sum(stop - start for start, stop in server.ranges) < 400_000 < path.stat().st_size
        result = call("inspect", "--tensor", "layers.0.weight", f"{server.address}/large.qf")
        assert result.code == 0, result.err


def hub(data: bytes) -> dict[str, bytes]:
    """What a hub answers about a model that holds one file."""
    about = {"id": "me/tiny", "sha": COMMIT, "private": False, "tags": [], "downloads": 0, "likes": 0, "siblings": []}
    held = [{"type": "file", "path": "x.qf", "size": len(data), "oid": COMMIT}]
    return {
        "/api/models/me/tiny": json.dumps(about).encode(),
        "/api/models/me/tiny/tree/main": json.dumps(held).encode(),
        "/me/tiny/resolve/main/x.qf": data,
        f"/me/tiny/resolve/{COMMIT}/x.qf": data,
        "/store/me/tiny/resolve/main/x.qf": data,
        f"/store/me/tiny/resolve/{COMMIT}/x.qf": data,
    }


def at(server: Asked, folder: Path) -> dict[str, str]:
    """How a process finds bucket and hub on this machine."""
    return {
        "AWS_ENDPOINT_URL": server.address,
        "AWS_ACCESS_KEY_ID": "who",
        "AWS_SECRET_ACCESS_KEY": "what",
        "AWS_DEFAULT_REGION": "us-east-1",
        "HF_ENDPOINT": server.address,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(folder / "hub"),
        "HF_TOKEN": "secret",
        "NO_PROXY": "127.0.0.1,localhost",
    }


@pytest.fixture(params=["s3", "hf"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Asked, dict[str, str]]]:
    """A bucket, or a hub, on this machine: the address of a model in it, its server, and how a process finds that."""
    data = models.write(tmp_path / "x.qf", layers=3).read_bytes()
    with serve({"/bucket/models/x.qf": data, **hub(data)}) as server:
        yield {"s3": "s3://bucket/models/", "hf": "hf://me/tiny/"}[request.param], server, at(server, tmp_path)


def test_buckets_and_hubs_are_read_in_ranges(store: tuple[str, Asked, dict[str, str]], tmp_path: Path) -> None:
    address, server, environment = store
    result = process("inspect", "--json", f"{address}x.qf", env=environment)
    assert result.code == 0, result.err
    assert json.loads(result.out) == json.loads(call("inspect", "--json", tmp_path / "x.qf").out)
    assert [method for method, part in server.requests if part is None] == ["HEAD"]
    assert 1 <= len(server.ranges) <= 2
    assert process("verify", "-q", f"{address}x.qf", env=environment) == (0, "", "")


def test_a_large_file_of_a_hub_is_read_where_it_keeps_it(tmp_path: Path) -> None:
    """Two ranges without detours, and the token is for the hub alone."""
    data = models.write(tmp_path / "x.qf", layers=200).read_bytes()  # an index that is longer than the first range
    with serve(hub(data), store="/store") as server:
        result = process("inspect", "--json", "hf://me/tiny/x.qf", env=at(server, tmp_path))
        assert result.code == 0, result.err
        assert [method for method, _ in server.requests] == ["HEAD", "GET", "GET"]
        assert server.paths == ["/me/tiny/resolve/main/x.qf"] + ["/store/me/tiny/resolve/main/x.qf?0"] * 2
        assert server.tokens == ["Bearer secret", None, None]


def test_where_a_hub_keeps_a_file_is_asked_again(tmp_path: Path) -> None:
    """The address holds for some time; then comes one for the commit that was opened, whatever main has become."""
    data = models.write(tmp_path / "x.qf", layers=200).read_bytes()
    with serve(hub(data), store="/store", lasts=2) as server:
        result = process(
            "inspect", "--tensor", "model.layers.0.up.weight", "hf://me/tiny/x.qf", env=at(server, tmp_path)
        )
        assert result.code == 0, result.err
        heads = [path for (method, _), path in zip(server.requests, server.paths, strict=True) if method == "HEAD"]
        assert f"/me/tiny/resolve/{COMMIT}/x.qf" in heads
        assert {token for token, path in zip(server.tokens, server.paths, strict=True) if "store" in path} == {None}


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("hf://me/tiny@v1.0/sub/x.qf", "/me/tiny/resolve/v1.0/sub/x.qf"),
        ("hf://me/tiny@refs/pr/1/x.qf", "/me/tiny/resolve/refs%2Fpr%2F1/x.qf"),
        ("hf://datasets/me/tiny@refs%2Fpr%2F1/x.qf", "/datasets/me/tiny/resolve/refs%2Fpr%2F1/x.qf"),
        ("hf://spaces/me/tiny/x.qf", "/spaces/me/tiny/resolve/main/x.qf"),
    ],
)
def test_revisions_and_kinds_of_repositories(address: str, path: str, tmp_path: Path) -> None:
    data = models.write(tmp_path / "x.qf").read_bytes()
    pinned = path.replace("v1.0", COMMIT).replace("refs%2Fpr%2F1", COMMIT).replace("main", COMMIT)
    with serve({path: data, pinned: data}) as server:
        result = process("inspect", "-q", address, env=at(server, tmp_path))
        assert result.code == 0, result.err
        assert server.paths == [path, pinned]


def test_a_hub_that_does_not_tell_the_size_is_asked_as_fsspec_does(tmp_path: Path) -> None:
    data = models.write(tmp_path / "x.qf").read_bytes()
    with serve(hub(data), heads=False) as server:
        result = process("inspect", "-q", "hf://me/tiny/x.qf", env=at(server, tmp_path))
        assert result.code == 0, result.err
        assert [method for method, part in server.requests if part is None] == ["HEAD", "GET", "GET"]


def test_what_a_bucket_or_hub_lacks_is_one_line(store: tuple[str, Asked, dict[str, str]]) -> None:
    address, _, environment = store
    result = process("inspect", f"{address}y.qf", env=environment)
    assert (result.code, result.out) == (1, "")
    assert result.err == f"error: {address}y.qf: not found\n"


def test_a_missing_address_is_one_line() -> None:
    with serve({}) as server:
        for name in ("x.safetensors", "x.gguf", "x.qf"):
            result = call("inspect", f"{server.address}/\x1b{name}")
            assert result.code == 1
            assert result.err.startswith("error: ")
            assert result.err.count("\n") == 1
            assert not controls(result.err)


def test_a_server_that_is_gone_is_one_line() -> None:
    with serve({}) as server:
        address = server.address
    for name in ("x.safetensors", "x.qf"):
        result = call("inspect", f"{address}/{name}")
        assert result.code == 1
        assert result.err.startswith(f"error: {address}/{name}: ")
        assert result.err.count("\n") == 1
        assert "not found" not in result.err


def test_a_server_that_refuses_is_not_a_file_that_is_not_there() -> None:
    with serve({}, status=403) as server:
        result = call("inspect", f"{server.address}/x.qf")
    assert result.code == 1
    assert "403" in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("name", ["x.qf", "x.safetensors"])
def test_a_server_without_ranges_is_one_line(name: str, weights: bytes, tmp_path: Path) -> None:
    files = {"/x.qf": models.write(tmp_path / "x.qf", layers=200).read_bytes(), "/x.safetensors": weights}
    with serve(files, ranges=False) as server:
        result = call("inspect", f"{server.address}/{name}")
    assert (result.code, result.out) == (1, "")
    assert result.err == f"error: {server.address}/{name}: the server sends whole files, not ranges of them\n"
