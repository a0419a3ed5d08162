"""The contents of a checkpoint, known before a tensor is read."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from funcnet._errors import TreeError, bullet_list
from funcnet._typing import Selector, Shape, Tree
from funcnet.checkpoint._errors import CheckpointError
from funcnet.checkpoint._files import Span, read_span
from funcnet.checkpoint._pickles._opaque import Opaque
from funcnet.checkpoint._structure import Structure, fill, find_part, is_state_dict, iter_names, iter_objects
from funcnet.tree import select, unflatten
from funcnet.tree.internals import describe_unmatched


@dataclass(frozen=True)
class Spec:
    """Shape and dtype of a tensor.

    >>> Spec((2, 3), torch.bfloat16).nbytes
    12
    """

    shape: Shape
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes that the values of the tensor take."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file that is not read yet: its shape and dtype, and where it is.

    Attributes:
        spec: shape and dtype.
        span: the place of its bytes, where they lie in one piece, row-major and little-endian.
        reader: returns the tensor, where they do not.
        box_reader: returns a part of the tensor, from where it begins along each axis and its sizes, where there is a
            way that reads less than all.

    >>> import tempfile
    >>> from funcnet import checkpoint
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoint.save(f"{folder}/model.safetensors", {"w": torch.ones(2, 3)})
    ...     entry = checkpoint.load(f"{folder}/model.safetensors").entries["w"]
    >>> entry.spec
    Spec(shape=(2, 3), dtype=torch.float32)
    """

    spec: Spec
    span: Span | None = None
    reader: Callable[[], Tensor] | None = None
    box_reader: Callable[[Shape, Shape], Tensor] | None = None

    def read(self) -> Tensor:
        """The tensor, read now and owned by the caller."""
        if self.span is not None:
            return read_span(self.span, self.spec.shape, self.spec.dtype)
        assert self.reader is not None
        return self.reader()

    def read_box(self, offsets: Shape, sizes: Shape) -> Tensor:
        """A part of the tensor, from where it begins along each axis and its sizes."""
        if self.box_reader is not None:
            return self.box_reader(offsets, sizes)
        box = tuple(slice(offset, offset + size) for offset, size in zip(offsets, sizes, strict=True))
        return self.read()[box].clone()


@dataclass(frozen=True, eq=False)
class Checkpoint(Mapping[str, Tensor]):
    """The tensors of a checkpoint by name. Made by :func:`funcnet.checkpoint.load`.

    A tensor is read when it is asked for, ``ckpt["fc.weight"]``, each time anew; ``ckpt.specs`` has the shapes and
    dtypes, and reads nothing.

    Attributes:
        path: the file or folder.
        format: ``"safetensors"``, ``"pt"``, ``"npz"``, ``"dcp"``, ``"pickle"`` or ``"pt2"``.
        entries: the tensors that are stored, in the order of the file.
        aliases: further names of stored tensors (ties): alias -> name in ``entries``.
        extras: values that are not tensors, such as an epoch, by path.
        metadata: the file's own remarks.
        files: the files that the checkpoint consists of.
        structure: what was saved with None in place of tensors and values, if there is more to it than the names.
        forms: by name, what a pickle has in place of a plain tensor, as a parameter or an array of numpy.

    >>> import tempfile
    >>> from funcnet import checkpoint
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoint.save(f"{folder}/model.safetensors", {"fc": {"weight": torch.ones(2, 3)}})
    ...     ckpt = checkpoint.load(f"{folder}/model.safetensors")
    >>> list(ckpt), ckpt.specs["fc.weight"].shape, ckpt.format
    (['fc.weight'], (2, 3), 'safetensors')
    """

    path: Path
    format: str
    entries: dict[str, StoredTensor]
    aliases: dict[str, str] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    structure: Structure | None = None
    forms: dict[str, object] = field(default_factory=dict)

    @property
    def specs(self) -> dict[str, Spec]:
        """Shape and dtype of every stored tensor."""
        return {name: entry.spec for name, entry in self.entries.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, each counted once."""
        return sum(entry.spec.nbytes for entry in self.entries.values())

    def __getitem__(self, name: str) -> Tensor:
        owner = self.aliases.get(name, name)
        if owner not in self.entries:
            raise KeyError(self._describe_missing(name))
        return self.entries[owner].read()

    def _describe_missing(self, name: str) -> str:
        """What to write in place of ``ckpt[name]``, which asks for a tensor that there is none of."""
        if any(isinstance(other, str) and other.startswith(f"{name}.") for other in (*self, *self.extras)):
            return f"{name!r} is no tensor, but names begin with it: ckpt.tree()[...], or ckpt.part({name!r}).tree()"
        return f"{name!r} is a value: ckpt.extras[{name!r}], or ckpt.tree()" if name in self.extras else f"{name}"

    def __iter__(self) -> Iterator[str]:
        yield from self.entries
        yield from self.aliases

    def __len__(self) -> int:
        return len(self.entries) + len(self.aliases)

    def __contains__(self, name: object) -> bool:
        return name in self.entries or name in self.aliases

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, {self.format}, {len(self)} tensors, {self.nbytes:,} bytes)"

    def tree(self) -> Tree:
        """What was saved: dicts, lists and tuples, tensors, numbers and strings. Tied tensors are one tensor.

        A file that knows names alone, as a ``state_dict`` or what other tools write, makes nested dicts of them.

        Raises:
            CheckpointError: if one name is both a tensor and a node, as with ``"a"`` and ``"a.b"``.

        >>> import tempfile
        >>> from funcnet.checkpoint import load, save
        >>> run = {"params": {"w": torch.ones(2)}, "optimizer": {"w": {}}, "step": 7}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/run.safetensors", run)
        ...     load(f"{folder}/run.safetensors").tree()
        {'params': {'w': tensor([1., 1.])}, 'optimizer': {'w': {}}, 'step': 7}
        """
        flat: dict[str, Any] = {name: entry.read() for name, entry in self.entries.items()}
        flat |= {alias: flat[owner] for alias, owner in self.aliases.items()}
        flat |= copy.deepcopy(self.extras)
        if self.structure is not None and not is_state_dict(self.structure):
            tree: Tree = fill(self.structure, flat)
            return tree
        try:
            return unflatten(flat)
        except TreeError as error:
            raise CheckpointError(f"{str(self.path)!r} has names that make no tree: {error}") from None

    def part(self, path: str) -> Checkpoint:
        """The tensors under a path, which their names lose: ``ckpt.part("model")`` of a training checkpoint.

        Raises:
            CheckpointError: if there is no tensor under the path; names the parts there are.
        """
        prefix = f"{path}."
        if not any(name.startswith(prefix) for name in self):
            parts = sorted({name.partition(".")[0] for name in self})
            raise CheckpointError(f"{str(self.path)!r} has no part {path!r}. There are: {', '.join(map(repr, parts))}.")
        subset = self._filter_names(lambda name: name.startswith(prefix))
        start = len(prefix)
        return replace(
            subset,
            entries={name[start:]: entry for name, entry in subset.entries.items()},
            aliases={alias[start:]: owner[start:] for alias, owner in subset.aliases.items()},
            extras={name[start:]: value for name, value in subset.extras.items()},
            structure=find_part(self.structure, path),
            forms={name[start:]: form for name, form in subset.forms.items()},
        ).without_misfit()

    def select(self, selector: Selector) -> Checkpoint:
        """Only the tensors and values whose names are selected; see :func:`funcnet.tree.select`.

        Raises:
            CheckpointError: if a pattern matches no name; tells those that are near.
        """
        return select_names([self], selector)[0]

    def _filter_names(self, test: Callable[[str], bool]) -> Checkpoint:
        """The checkpoint with the names that pass a test. An alias whose owner does not pass becomes the owner."""
        entries = {name: entry for name, entry in self.entries.items() if test(name)}
        aliases: dict[str, str] = {}
        promoted: dict[str, str] = {}  # owner that is left out -> the first alias, which takes its place
        for alias, owner in self.aliases.items():
            if not test(alias):
                continue
            if owner in entries:
                aliases[alias] = owner
            elif owner in promoted:
                aliases[alias] = promoted[owner]
            else:
                promoted[owner] = alias
                entries[alias] = self.entries[owner]
        extras = {name: value for name, value in self.extras.items() if test(name)}
        forms = {name: form for name, form in self.forms.items() if test(name)}
        return replace(self, entries=entries, aliases=aliases, extras=extras, forms=forms).without_misfit()

    @property
    def objects(self) -> dict[str, Opaque]:
        """The objects of a pickle that hold tensors, by path: they are read as dicts of those."""
        return {path: node.obj for path, node in iter_objects(self.structure)}

    def without_misfit(self) -> Checkpoint:
        """This checkpoint, without its structure if that is of other names (of a whole of which this is a part)."""
        if self.structure is None:
            return self
        is_fit = {*iter_names(self.structure)} == {*self, *self.extras}
        return self if is_fit else replace(self, structure=None)


def select_names(checkpoints: Sequence[Checkpoint], selector: Selector) -> list[Checkpoint]:
    """The selected tensors and values of checkpoints that belong together.

    Raises:
        CheckpointError: if a pattern matches no name in any of them; tells those that are near.
    """
    problems = describe_unmatched(selector, [name for ckpt in checkpoints for name in (*ckpt, *ckpt.extras)])
    if problems:
        which = " and ".join(repr(str(ckpt.path)) for ckpt in checkpoints)
        raise CheckpointError(f"{selector!r} does not fit the names in {which}:{bullet_list(problems)}")
    is_selected = select(selector)
    return [ckpt._filter_names(is_selected) for ckpt in checkpoints]


def unwritable_names(names: Iterable[str]) -> list[str]:
    """Names that cannot be encoded as text: JSON and pickles let through half a character, which no file can be given.

    >>> unwritable_names(["a", "\\ud800"])
    ["'\\\\ud800'"]
    """
    problems: list[str] = []
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:  # noqa: PERF203  all problems are reported at once
            problems.append(ascii(name))
    return problems
