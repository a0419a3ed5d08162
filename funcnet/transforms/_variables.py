"""The variables of a call: the tensors in nested data that a derivative is taken by, or of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from funcnet._errors import TreeError, bullet_list
from funcnet._tensors import is_inexact
from funcnet._torch import pytree


class Variables:
    """The floating and complex tensors in one or several trees, in order, and where they stand.

    Attributes:
        tensors: the variables.
        others: the integer tensors, which have no derivative. None has none either, and stays where it is.

    Raises:
        TypeError: if a tree holds anything but tensors and None.
    """

    def __init__(self, trees: Mapping[str, Any], function_name: str) -> None:
        self.function_name = function_name
        self._trees = trees
        self._specs: list[Any] = []
        leaves: list[Any] = []
        for tree in trees.values():
            tree_leaves, spec = pytree.tree_flatten(tree)
            leaves += tree_leaves
            self._specs.append(spec)
        if not all(leaf is None or isinstance(leaf, Tensor) for leaf in leaves):
            self._refuse_others()
        self._kinds = [None if leaf is None else "variable" if is_inexact(leaf) else "other" for leaf in leaves]
        self.tensors: list[Tensor] = self._pick("variable", leaves)
        self.others: list[Tensor] = self._pick("other", leaves)

    def _refuse_others(self) -> None:
        problems = [
            f"{name} is {type(leaf).__name__}"
            for name, leaf in _leaves_by_name(self._trees).items()
            if leaf is not None and not isinstance(leaf, Tensor)
        ]
        raise TypeError(
            f"{self.function_name} differentiates nested dicts of tensors by nested dicts of tensors: "
            f"{'; '.join(problems)}. Make it a tensor, or pass it as another argument or as aux."
        )

    def _pick(self, kind: str, values: Iterable[Any]) -> list[Any]:
        return [value for value, its_kind in zip(values, self._kinds, strict=True) if its_kind == kind]

    def fill(self, tensors: Iterable[Any], others: Iterable[Any]) -> list[Any]:
        """The trees with these in the places of the variables, and of the integer tensors."""
        remaining = {"variable": iter(tensors), "other": iter(others)}
        leaves = [None if kind is None else next(remaining[kind]) for kind in self._kinds]
        trees, start = [], 0
        for spec in self._specs:
            trees.append(pytree.tree_unflatten(leaves[start : start + spec.num_leaves], spec))
            start += spec.num_leaves
        return trees

    def fill_derivative(self, tensors: Iterable[Tensor], front: tuple[int, ...] = ()) -> list[Any]:
        """The trees with derivatives in the places of the variables, and zeros in those of the integer tensors.

        Args:
            tensors: the derivatives.
            front: sizes in front of the shapes of the zeros.
        """
        return self.fill(tensors, [other.new_zeros(front + other.shape) for other in self.others])

    def match(self, trees: Sequence[Any], noun: str) -> list[Tensor]:
        """The tensors of other trees that stand at the places of the variables.

        Args:
            trees: of the same structure. What stands at the place of an integer tensor or None is not read.
            noun: what such a tree is called in errors.

        Raises:
            TreeError: if a place is missing or there are more, or a shape or dtype differs; names all of them.
        """
        leaves: list[Any] = []
        for tree, spec in zip(trees, self._specs, strict=True):
            tree_leaves, tree_spec = pytree.tree_flatten(tree)
            leaves += tree_leaves if tree_spec == spec else []
        if len(leaves) == len(self._kinds):  # nearly always; else the keys may be in another order
            matches: list[Any] = self._pick("variable", leaves)
            if all(map(_fits, matches, self.tensors)):
                return matches
        return self._match_by_name(dict(zip(self._trees, trees, strict=True)), noun)

    def _match_by_name(self, trees: Mapping[str, Any], noun: str) -> list[Tensor]:
        leaf_names = list(_leaves_by_name(self._trees))
        names: list[str] = self._pick("variable", leaf_names)
        leaves_by_name = _leaves_by_name(trees)
        matches = [leaves_by_name.get(name) for name in names]
        problems = [
            f"{name} is {_describe(match)}, expected {_describe(tensor)}"
            for name, tensor, match in zip(names, self.tensors, matches, strict=True)
            if not _fits(match, tensor)
        ]
        unmatched = leaves_by_name.keys() - set(leaf_names)
        problems += [f"{name} is no place of it" for name in leaves_by_name if name in unmatched]
        if problems:
            raise TreeError(
                f"{self.function_name} needs a {noun} with the structure, shapes and dtypes of what it belongs to:"
                f"{bullet_list(problems)}\n"
                f"funcnet.tree.zeros_like makes such a tree, and funcnet.tree.replace fills some of its places."
            )
        return matches  # type: ignore[return-value]


def _leaves_by_name(trees: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of trees, by names such as ``argument 0['fc']['weight']``."""
    return {
        title + pytree.keystr(path): leaf
        for title, tree in trees.items()
        for path, leaf in pytree.tree_flatten_with_path(tree)[0]
    }


def _fits(match: object, tensor: Tensor) -> bool:
    return isinstance(match, Tensor) and match.shape == tensor.shape and match.dtype == tensor.dtype


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return "missing" if value is None else f"of type {type(value).__name__}"


class ArgumentVariables(Variables):
    """The variables in some arguments of a call.

    Args:
        args: the positional arguments.
        numbers: which of them, counted from 0.
        function_name: the transform, for errors.
    """

    def __init__(self, args: Sequence[Any], numbers: Sequence[int], function_name: str) -> None:
        self._args = list(args)
        self._numbers = numbers
        super().__init__({f"argument {number}": args[number] for number in numbers}, function_name)

    def fill_arguments(self, tensors: Iterable[Tensor]) -> list[Any]:
        """All arguments of the call, with other tensors in the places of the variables."""
        args = list(self._args)
        for number, tree in zip(self._numbers, self.fill(tensors, self.others), strict=True):
            args[number] = tree
        return args


def normalize_argnums(argnums: int | tuple[int, ...], count: int, function_name: str) -> tuple[int, ...]:
    """Positions of arguments, counted from 0, in a call with this many.

    >>> normalize_argnums(-1, 3, "jacobian")
    (2,)
    """
    numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    if not numbers:
        raise ValueError(f"{function_name} needs at least one position in argnums, got an empty tuple.")
    if any(not -count <= number < count for number in numbers):
        raise TypeError(
            f"{function_name}: argnums={argnums} needs {max(numbers) + 1} positional arguments, got {count}."
        )
    numbers = tuple(number % count for number in numbers)
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{function_name}: argnums={argnums} names an argument twice.")
    return numbers
