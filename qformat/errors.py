"""The one error tree.

    QFormatError
    ├── InvalidFileError   (ValueError)    the bytes break the format
    │   └── LimitError                     a number is beyond what this reader accepts
    ├── IntegrityError     (ValueError)    stored bytes do not match their hash
    ├── ChangedError       (OSError)       the file shrank or changed while it was open
    ├── UnsupportedError   (ValueError)    valid, but it needs a feature that this version lacks
    ├── SourceError        (ValueError)    a source checkpoint cannot be converted as it is
    ├── RecipeError        (ValueError)    a recipe, method or option makes no sense
    ├── CoverageError      (RuntimeError)  a rule matched nothing, or a quality gate failed
    ├── OutputError        (OSError)       the output cannot be written
    │   └── InterruptedRunError            stopped on the way; the same command resumes
    └── KernelError        (RuntimeError)  a kernel is unknown, unavailable or was given the wrong arrays

Every error says which file, tensor and field, at which byte offset, what was expected and what was found; the same
facts are attributes. `exit_code` is what the command line returns for it.
"""

from __future__ import annotations

from qformat.text import safe_text


class QFormatError(Exception):
    """Base of every error that leaves the public API."""

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        file: object | None = None,
        tensor: str | None = None,
        field: str | None = None,
        offset: int | None = None,
        expected: object | None = None,
        found: object | None = None,
    ) -> None:
        self.message, self.file, self.tensor, self.field = message, file, tensor, field
        self.offset, self.expected, self.found = offset, expected, found
        super().__init__(message)

    def __str__(self) -> str:
        place = [safe_text(part) for part in (self.file, self.tensor, self.field) if part is not None]
        if self.offset is not None:
            place.append(f"byte {self.offset}")
        facts = []
        if self.expected is not None:
            facts.append(f"expected {safe_text(self.expected, 200)}")
        if self.found is not None:
            facts.append(f"found {safe_text(self.found, 200)}")
        return ": ".join([*place, safe_text(self.message)]) + (f" ({', '.join(facts)})" if facts else "")

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword-only arguments do not pickle by themselves, and workers raise these across processes.
        return _rebuild, (type(self), self.message, {key: getattr(self, key) for key in _FACTS})


_FACTS = ("file", "tensor", "field", "offset", "expected", "found")


def _rebuild(kind: type[QFormatError], message: str, facts: dict[str, object]) -> QFormatError:
    return kind(message, **facts)  # type: ignore[arg-type]


class InvalidFileError(QFormatError, ValueError):
    """The bytes break the format."""

    exit_code = 4


class LimitError(InvalidFileError):
    """A number in the file is beyond what this reader accepts."""


class IntegrityError(QFormatError, ValueError):
    """Stored bytes do not match their hash."""

    exit_code = 4


class ChangedError(QFormatError, OSError):
    """The file shrank or changed while it was open."""

    exit_code = 4


class UnsupportedError(QFormatError, ValueError):
    """The file is valid but needs a feature that this version does not have."""


class SourceError(QFormatError, ValueError):
    """A source checkpoint cannot be converted as it is."""


class RecipeError(QFormatError, ValueError):
    """A recipe, a method or an option makes no sense."""

    exit_code = 2


class CoverageError(QFormatError, RuntimeError):
    """A rule matched nothing, or a quality gate failed."""

    exit_code = 3


class OutputError(QFormatError, OSError):
    """The output cannot be written: disk full, locked by another writer, not a regular file."""


class InterruptedRunError(OutputError):
    """A conversion was stopped on the way; the same command resumes it."""

    exit_code = 75


class KernelError(QFormatError, RuntimeError):
    """A kernel is unknown or unavailable, or was given arrays that do not fit."""
