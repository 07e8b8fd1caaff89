"""The growing file of a run: any writes and syncs leave what was written, in blocks but for what was synced before."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qformat.converters import output

# sizes of writes, and syncs
steps = st.lists(st.one_of(st.integers(0, 2500), st.none()), max_size=30)


@given(steps, st.integers(0, 3000))
def test_what_is_written_is_there(steps: list[int | None], keep: int) -> None:
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setattr(output, "BLOCK", 1000)
        path = Path(folder) / "x.partial"
        expected = bytearray(os.urandom(keep))
        path.write_bytes(bytes(expected) + b"torn")
        ends, plain = [], os.pwrite

        def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
            ends.append(offset + len(data))
            return plain(descriptor, data, offset)

        patch.setattr(os, "pwrite", pwrite)
        file, synced = output._File(path, keep), {keep}
        for step in steps:
            if step is None:
                file.sync()
                synced.add(len(expected))
                assert path.read_bytes() == expected
            else:
                data = os.urandom(step)
                assert file.write(data) == step
                expected += data
        file.sync()
        file.close()
        assert path.read_bytes() == expected
        assert all(end % 1000 == 0 or end in synced or end == len(expected) for end in ends)
