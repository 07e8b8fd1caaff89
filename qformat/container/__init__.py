"""The container: bytes only. What they mean is the business of `qformat.codings`.

    with container.create("model.qf") as writer:                 # atomic; Writer(file) streams to any file object
        writer.tensor("w", scheme={...}, dtype="float32", shape=(2, 2), length=16, data=[array])
        writer.attachment("config.json", b"{}")
        writer.finish({"general.name": "example"})

    with container.open("model.qf") as file:                     # or a manifest of shards, or an fsspec URL
        file.names(), file.record("w"), file.read("w"), file.metadata, file.attachments["config.json"]
        file.verify()                                            # [] when every byte is sound

    container.edit_metadata("model.qf", {"general.name": "new", "general.author": None})
"""

from qformat.container.build import Entry
from qformat.container.constants import LIMITS, Encoding, Kind, Limits
from qformat.container.create import create
from qformat.container.document import Shard
from qformat.container.edit import edit_metadata, recover
from qformat.container.reader import Attachments, Container, Record, dtype_name, open
from qformat.container.shards import shard_name, write_manifest
from qformat.container.source import filesystem, is_url
from qformat.container.writer import Writer

__all__ = [
    "LIMITS",
    "Attachments",
    "Container",
    "Encoding",
    "Entry",
    "Kind",
    "Limits",
    "Record",
    "Shard",
    "Writer",
    "create",
    "dtype_name",
    "edit_metadata",
    "filesystem",
    "is_url",
    "open",
    "recover",
    "shard_name",
    "write_manifest",
]
