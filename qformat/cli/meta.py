"""`qformat meta`: show and edit the metadata of a file, by appending to it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import click

from qformat import container
from qformat.report import as_json, numbers
from qformat.report.layout import Line, cells, clip, pad
from qformat.report.terminal import Printer
from qformat.text import safe_text

ACTIONS = {"get": (0, 1), "set": (2, 2), "unset": (1, 64), "recover": (0, 0)}  # least and most arguments after FILE


@click.command("meta", short_help="Show or edit a file's metadata.")
@click.argument("words", nargs=-1, required=True, metavar="FILE [get [KEY] | set KEY VALUE | unset KEY… | recover]")
@click.option("--json", "json_", is_flag=True, help="Values are JSON, in what is printed and in what is set.")
def command(words: tuple[str, ...], json_: bool) -> None:
    """Show or edit the metadata of FILE.

    \b
    qformat meta FILE                    every key and value
    qformat meta FILE get KEY            one value
    qformat meta FILE set KEY VALUE      add or replace a value
    qformat meta FILE unset KEY…         remove keys
    qformat meta FILE recover            cut a torn edit off a file that no longer opens

    An edit appends a new index; tensors are neither read nor moved. The action may also come first, as in
    `qformat meta recover FILE`.
    """
    file, action, rest = _parse(words)
    if action == "get":
        _get(file, rest[0] if rest else None, json_)
    elif action == "set":
        container.edit_metadata(file, {rest[0]: _value(rest[1], json_)})
    elif action == "unset":
        _unset(file, rest)
    else:
        container.recover(file)


def _parse(words: tuple[str, ...]) -> tuple[str, str, list[str]]:
    """(file, action, arguments); the action may stand before or after the file."""
    if words[0] in ACTIONS and not (len(words) > 1 and words[1] in ACTIONS and os.path.exists(words[0])):
        if len(words) < 2:
            raise click.UsageError(f"which file? qformat meta {words[0]} FILE …")
        action, file, rest = words[0], words[1], list(words[2:])
    else:
        file, action, rest = words[0], words[1] if len(words) > 1 else "get", list(words[2:])
    if action not in ACTIONS:
        raise click.UsageError(f"unknown action {action!r}; there are {', '.join(ACTIONS)}")
    least, most = ACTIONS[action]
    if not least <= len(rest) <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise click.UsageError(f"{action} takes {wanted} arguments after the file, not {len(rest)}")
    return file, action, rest


def _value(text: str, json_: bool) -> Any:
    if not json_:
        return text
    import msgspec

    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise click.UsageError(f"the value is not JSON: {error}") from None


def _unset(file: str, keys: list[str]) -> None:
    with container.open(file) as opened:
        missing = [key for key in keys if key not in opened.metadata]
    if missing:
        raise click.ClickException(f"{file}: no such key: {', '.join(missing)}")
    container.edit_metadata(file, dict.fromkeys(keys))


def _get(file: str, key: str | None, json_: bool) -> None:
    with container.open(file) as opened:
        metadata = dict(opened.metadata)
    if key is not None and key not in metadata:
        raise click.ClickException(f"{file}: no such key: {key}")
    if json_:
        click.echo(as_json.dumps(metadata if key is None else metadata[key]))
    elif key is None:
        printer = Printer()
        printer.lines(listing(metadata, printer.width))
    else:
        click.echo(shown(metadata[key]))


def shown(value: Any) -> str:
    """A value as text: strings as they are, the rest as JSON, made safe to show."""
    return safe_text(value if isinstance(value, str) else as_json.dumps(value))


def listing(metadata: Mapping[str, Any], width: int | None) -> list[Line]:
    """A line for each key; a long value is cut and its length told (a chat template is never shown whole)."""
    column = min(max((cells(safe_text(key)) for key in metadata), default=0), 40)
    if width is not None:
        column = min(column, max(width // 2, 8))
    lines: list[Line] = []
    for key in sorted(metadata):
        text = shown(metadata[key])
        room = 200 if width is None else max(width - column - 2, 1)
        if cells(text) > room:
            note = f"… {numbers.plural(len(text), 'character')}"
            text = f"{clip(text, max(room - len(note), 1))}{note[1:]}" if room > 40 else clip(text, room)
        lines.append([(pad(clip(safe_text(key), column), column) + "  ", "key"), (text, "")])
    return lines
