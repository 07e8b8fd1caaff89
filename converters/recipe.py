"""One rule language for every method: which tensor gets which method, bits, grouping and axis.

A recipe is a YAML file, a mapping or just flags; all become the same normalised form, which is stored in the output:

    method: ls            # the default for everything that is a linear
    bits: 4
    group_size: 64
    rules:                # the first rule that matches a name decides; its keys override the defaults
      - match: "*.mlp.down_proj.weight"      # a glob over the whole name; `*` crosses dots
        bits: 6
      - match: "re:layers\\.(0|1)\\."         # a regular expression found anywhere in the name
        method: hqq
      - match: "lm_head.weight"              # naming a method makes a linear of what stays dense by default
        method: rtn
        bits: 8
      - match: "*.k_proj.weight"
        skip: true                           # stays dense
      - match: "*.experts.gate_up_proj"
        axis: in_out                         # or out_in: which way round (…, out, in) the tensor is stored

A rule that matches nothing is a CoverageError before any work starts: it is nearly always a typo.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from qformat.errors import RecipeError

MAX_RECIPE = 2**20
_AXES = ("out_in", "in_out")


@dataclass(frozen=True)
class Rule:
    """One line of a recipe: a pattern and what it changes."""

    match: str
    skip: bool = False
    axis: str | None = None
    method: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        if self.match.startswith("re:"):
            try:
                return re.compile(self.match[3:])
            except re.error as error:
                raise RecipeError(f"bad regular expression: {error}", field="match", found=self.match) from error
        return re.compile(fnmatch.translate(self.match))

    def matches(self, name: str) -> bool:
        return bool(self._pattern.search(name) if self.match.startswith("re:") else self._pattern.match(name))

    @property
    def forces(self) -> bool:
        """Whether the rule makes a linear of a tensor that would stay dense by default."""
        return not self.skip and (self.method is not None or self.axis is not None)

    def normalised(self) -> dict[str, Any]:
        found: dict[str, Any] = {"match": self.match}
        if self.skip:
            found["skip"] = True
        if self.axis is not None:
            found["axis"] = self.axis
        if self.method is not None:
            found["method"] = self.method
        return {**found, **{key: self.options[key] for key in sorted(self.options)}}


@dataclass(frozen=True)
class Recipe:
    """Defaults and rules, normalised: equal recipes have equal `normalised()` however they were written."""

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()

    def rule_for(self, name: str) -> Rule | None:
        """The first rule that matches `name`."""
        return next((rule for rule in self.rules if rule.matches(name)), None)

    def choice(self, rule: Rule | None) -> tuple[str, dict[str, Any]]:
        """(method, options) for a tensor under `rule`.

        Another method than the default one takes of the defaults only what every method shares.
        """
        method = (rule.method if rule else None) or self.method
        shared = {"bits", "group_size"}
        inherited = {key: value for key, value in self.options.items() if method == self.method or key in shared}
        return method, {**inherited, **(rule.options if rule else {})}

    def normalised(self) -> dict[str, Any]:
        """Plain data, keys in a fixed order: what the file records."""
        return {
            "method": self.method,
            **{key: self.options[key] for key in sorted(self.options)},
            "rules": [rule.normalised() for rule in self.rules],
        }


def make_recipe(recipe: str | Path | Mapping[str, Any] | Recipe | None = None, **flags: Any) -> Recipe:
    """The normalised recipe: `recipe` (file, mapping or None) with `flags` that are not None over its defaults.

    Raises:
        RecipeError: naming the key and what was expected.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if recipe is None or isinstance(recipe, Mapping):
        return _normalised(dict(recipe or {}), flags)
    try:
        return _normalised(_read_yaml(Path(recipe)), flags)
    except RecipeError as error:
        error.file = str(recipe)
        raise


def _normalised(written: dict[str, Any], flags: Mapping[str, Any]) -> Recipe:
    rules = written.pop("rules", None) or []
    if not isinstance(rules, Sequence) or isinstance(rules, str):
        raise RecipeError("must be a list", field="rules", found=type(rules).__name__)
    top = {**{str(key): value for key, value in written.items()}, **{k: v for k, v in flags.items() if v is not None}}
    method = top.pop("method", "ls")
    for word in ("match", "skip", "axis"):
        if word in top:
            raise RecipeError("belongs into a rule", field=word)
    if not isinstance(method, str):
        raise RecipeError("must be a string", field="method", found=method)
    return Recipe(method, _options(top, "recipe"), tuple(_rule(rule, i) for i, rule in enumerate(rules)))


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml  # only recipes in files pay for the import

    class Loader(yaml.SafeLoader):
        """YAML whose keys are said once: of two, the one that is not read is a mistake."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key in (key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
                if key in seen:
                    line = node.start_mark.line + 1
                    raise RecipeError(f"a key is there twice in the mapping of line {line}", file=str(path), found=key)
                seen.add(key)
            return super().construct_mapping(node, deep)

    try:
        with open(path, "rb") as stream:
            raw = stream.read(MAX_RECIPE + 1)
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", file=str(path)) from error
    if len(raw) > MAX_RECIPE:
        raise RecipeError("recipe too large", file=str(path), expected=f"≤ {MAX_RECIPE} bytes")
    try:
        loader = Loader(raw)
        node = loader.get_single_node()
        if node is not None and _written_out(node, {}) > MAX_RECIPE:
            raise RecipeError("recipe too large with its aliases written out", file=str(path))
        found = loader.construct_document(node) if node is not None else None
    except (yaml.YAMLError, RecursionError, UnicodeDecodeError) as error:
        raise RecipeError(f"not YAML: {error}", file=str(path)) from error
    if not isinstance(found, dict):
        raise RecipeError("must be a mapping", file=str(path), found=type(found).__name__)
    return found


def _written_out(node: Any, known: dict[int, int]) -> int:
    """The nodes of a YAML tree with its aliases written out: ten lines of them can stand for more than memory holds."""
    if id(node) not in known:
        parts = node.value if isinstance(node.value, list) else []
        flat = [part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_written_out(part, known) for part in flat)
    return known[id(node)]


def _rule(written: Any, number: int) -> Rule:
    place = f"rules[{number}]"
    if not isinstance(written, Mapping):
        raise RecipeError("must be a mapping", field=place, found=written)
    keys = {str(key): value for key, value in written.items()}
    match = keys.pop("match", None)
    if not isinstance(match, str) or not match:
        raise RecipeError("needs a pattern", field=f"{place}.match", found=match)
    skip, axis, method = keys.pop("skip", False), keys.pop("axis", None), keys.pop("method", None)
    if method in ("dense", "skip", "none"):
        skip, method = True, None
    if not isinstance(skip, bool):
        raise RecipeError("must be true or false", field=f"{place}.skip", found=skip)
    if axis is not None and axis not in _AXES:
        raise RecipeError("unknown axis", field=f"{place}.axis", expected=" or ".join(_AXES), found=axis)
    if method is not None and not isinstance(method, str):
        raise RecipeError("must be a string", field=f"{place}.method", found=method)
    if skip and (keys or method):
        raise RecipeError("a rule that skips can say nothing else", field=place, found=sorted([*keys, "method"]))
    rule = Rule(match, skip, axis, method, _options(keys, place))
    rule.matches("")  # a bad pattern is an error now
    return rule


def _options(written: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Options in one spelling: scalars only; group sizes of -1, 0 or "row" all mean None, the whole row."""
    options = {}
    for key, value in written.items():
        if value is not None and type(value) not in (bool, int, float, str):
            raise RecipeError("must be a number, a string or a boolean", field=f"{place}.{key}", found=value)
        options[key] = None if key == "group_size" and value in (-1, 0, "row", "channel") else value
    return options
