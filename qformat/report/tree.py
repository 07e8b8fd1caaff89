"""The tree of modules behind dotted names, with repeated layers folded: `model.layers.0–31`.

Numbered children that hold the same names, shapes and schemes (compared as whole subtrees) become one branch, from
the top down, so that a layer is looked into once and not once per copy. Sizes are those of all copies together: the
branches of a tree add up to its total.
"""

from __future__ import annotations

from collections.abc import Sequence

from qformat.report.numbers import ranges
from qformat.report.overview import Row

MANY = 60  # children shown of one module before the rest is only counted
DEEPEST = 64  # names with more parts than this are shown whole, not as a path

# A tensor on its way down the tree: what is left of its name, and its row in each of the folded copies (all alike).
_Item = tuple[str, list[Row]]


class Branch:
    """A line of the folded tree and what hangs below it."""

    def __init__(self, label: str, copies: int = 1, rows: Sequence[Row] = ()) -> None:
        self.label = label
        self.copies = copies  # how many modules are folded into it
        self.folded = False  # the label has a range of numbers
        self.rows = rows  # the tensors whose name ends here, one per copy
        self.children: list[Branch] = []
        self.hidden = 0  # tensors only counted, on a line of its own ("… 900 more")
        self.weights = sum([row.weights for row in rows])
        self.nbytes = sum([row.nbytes for row in rows if row.target is None])
        errors = [(row.error, row.weights) for row in rows if row.error is not None]
        self.measured = sum([weights for _, weights in errors])  # the weights whose error is recorded
        self.error_sum = sum([error * weights for error, weights in errors])

    def join(self, child: Branch) -> None:
        """Hang `child` below this branch and count it in."""
        self.children.append(child)
        self.weights += child.weights
        self.nbytes += child.nbytes
        self.measured += child.measured
        self.error_sum += child.error_sum

    @property
    def bits_per_weight(self) -> float | None:
        """Stored bits divided by weights, over all copies."""
        return 8 * self.nbytes / self.weights if self.weights else None

    @property
    def error(self) -> float | None:
        """Mean of the recorded relative errors, weighted by the number of weights."""
        return self.error_sum / self.measured if self.measured else None


def fold(rows: Sequence[Row], many: int = MANY) -> Branch:
    """The folded tree of `rows`, children in the order in which their first tensor comes."""
    modules: dict[str, list[_Item]] = {}
    for row in rows:
        head, _, rest = row.name.partition(".")
        if not head or rest[-1:] in (".", "") or ".." in row.name or rest.count(".") > DEEPEST:
            head, rest = row.name, ""  # one part only, or no clean path (`a..b`): shown whole
        modules.setdefault(head, []).append((rest, [row]))
    return _branch("", 1, [], modules, many)


def _below(label: str, copies: int, items: list[_Item], many: int) -> Branch:
    """The branch `label` of the tensors `items`, whose names are what comes after the label."""
    modules: dict[str, list[_Item]] = {}
    own: list[Row] = []
    for name, rows in items:
        if not name:
            own = rows
            continue
        head, _, rest = name.partition(".")
        modules.setdefault(head, []).append((rest, rows))
    return _branch(label, copies, own, modules, many)


def _branch(label: str, copies: int, own: list[Row], modules: dict[str, list[_Item]], many: int) -> Branch:
    branch = Branch(label, copies, own)
    groups = _groups(modules)
    shown = groups if len(groups) <= many else groups[: many - many // 4]
    for name, members, items in shown:
        child = _below(name, copies * members, items, many)
        child.folded = members > 1
        branch.join(_shortened(child))
    if len(shown) < len(groups):
        branch.join(_rest([item for _, _, items in groups[len(shown) :] for item in items]))
    return branch


def _groups(modules: dict[str, list[_Item]]) -> list[tuple[str, int, list[_Item]]]:
    """(label, how many, tensors) for the modules; numbered ones that are alike are one, labelled with their range."""
    alike: dict[object, list[str]] = {}
    for name, items in modules.items():
        # names sort before rows, and they are distinct within a module, so rows are never compared
        key: object = name
        if _is_number(name):
            key = tuple(sorted([(rest, rows[0].shape, _kind(rows[0])) for rest, rows in items]))
        alike.setdefault(key, []).append(name)
    groups = []
    for names in alike.values():
        if len(names) == 1:
            groups.append((names[0], 1, modules[names[0]]))
        else:
            label = ranges(int(name) for name in names)
            groups.append((label, len(names), _merged([modules[name] for name in names])))
    return groups


def _kind(row: Row) -> str:
    """What must be equal, beside the shape, for two tensors to be folded."""
    return row.stored.key if row.target is None else "tied"


def _merged(copies: list[list[_Item]]) -> list[_Item]:
    """The tensors of all copies, put together by name, in the first copy's order."""
    merged = {name: list(rows) for name, rows in copies[0]}
    for copy in copies[1:]:
        for name, rows in copy:
            merged[name] += rows
    return list(merged.items())


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and (len(name) < 2 or name[0] != "0") and len(name) < 10


def _shortened(branch: Branch) -> Branch:
    """A module that holds one thing only is shown as one line: `q_proj.weight`, `layers.0–31`."""
    if branch.rows or len(branch.children) != 1 or branch.children[0].hidden:
        return branch
    child = branch.children[0]
    child.label = f"{branch.label}.{child.label}"
    child.folded |= branch.folded
    return child


def _rest(items: list[_Item]) -> Branch:
    """The line that only counts what is not shown."""
    rows = [row for _, copies in items for row in copies]
    rest = Branch("", 0, rows)
    rest.rows, rest.hidden = (), len(rows)
    return rest
