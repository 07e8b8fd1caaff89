"""Making untrusted text safe to print: the one function that every message, table and error goes through."""

from __future__ import annotations

_NAMED = {"\t": "\\t", "\n": "\\n", "\r": "\\r", "\\": "\\\\"}


def _is_plain(character: str) -> bool:
    # isprintable() is false for controls, format characters (bidi overrides, zero-width), surrogates
    # and every separator but the ASCII space: all that can move a cursor or hide what is shown.
    return character.isprintable()


def safe_text(text: object, limit: int | None = None) -> str:
    """`text` with everything but printable characters spelled as an escape, cut to `limit` characters.

    >>> safe_text("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    >>> safe_text("abcdef", limit=4)
    'abc…'
    """
    shown = str(text)
    if not shown.isascii() or not shown.isprintable():
        shown = "".join(c if _is_plain(c) else _NAMED.get(c) or c.encode("unicode_escape").decode() for c in shown)
    if limit is not None and len(shown) > limit:
        shown = shown[: max(limit - 1, 0)] + "…"
    return shown


def fold_layers(name: str) -> str:
    """A name without the numbers of layers.

    >>> fold_layers("model.layers.7.mlp")
    'model.layers.*.mlp'
    """
    return ".".join("*" if part.isdigit() else part for part in name.split("."))
