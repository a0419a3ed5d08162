"""Generators: what ``rng=`` may be, the private generators that it stands for, and every use of a global generator.

This is the one home for reading, restoring and lending the global generators of torch, Python and NumPy. Who lends
one sets it to the numbers of a call, and puts it back afterwards; ``GLOBAL_GENERATORS_LOCK`` is held meanwhile, because
every thread of the process shares them. Which draws of a call are contained in which way is told in
``funcnet/core/_global_draws.py``.
"""

from __future__ import annotations

import operator
import random
import sys
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from funcnet._context import is_plainly_eager, outside_transforms, under_transform, under_vmap
from funcnet._errors import RandomnessError
from funcnet.random._keys import KeyAtPath, check_key, check_seed, path_salt, seeded_generator
from funcnet.random._rows_of_draws import splitting_run

_R = TypeVar("_R")

GLOBAL_GENERATORS_LOCK = threading.RLock()
"""Held while a global generator is lent."""


# --- what rng= may be ---


class Stream:
    """The sequential draws of ``torch.manual_seed(seed)``, from private generators; one per device, as torch has.

    Args:
        seed: the seed, or ``None`` for torch's global generators: what a module draws from.

    Raises:
        RandomnessError: if the seed is none that ``torch.manual_seed`` takes.

    >>> import funcnet as fn
    >>> draws = Stream(0)
    >>> first, second = fn.random.uniform(draws, (2,)), fn.random.uniform(draws, (2,))
    >>> bool((first == second).any())
    False
    """

    def __init__(self, seed: int | None) -> None:
        if seed is not None:
            check_seed(seed)
        self.seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}
        self.is_global = False
        """Whether torch's global generator makes these draws at the moment."""

    def __repr__(self) -> str:
        return f"Stream({self.seed})"

    def generator(self, device: torch.device) -> torch.Generator | None:
        """The generator for a device; ``None`` stands for torch's global one."""
        if self.seed is None:
            return None
        self._refuse_transforms()
        if self.is_global:
            return None
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self._generators[device]

    @contextmanager
    def as_global_generator(self) -> Iterator[None]:
        """Have torch's global generator make these draws, from the first on; no other code may draw meanwhile."""
        assert self.seed is not None, "the global generator makes these draws already"
        self._refuse_transforms()
        state = read_torch_state()
        torch.default_generator.manual_seed(self.seed)
        self.is_global = True
        try:
            yield
        finally:
            self.is_global = False
            restore_torch_state(state)

    @property
    def draws_globally(self) -> bool:
        """Whether torch's global generator makes these draws."""
        return self.is_global or self.seed is None

    def fork(self) -> Stream:
        """A sequence of its own that goes on from here; this one stays where it is."""
        fork = Stream(0 if self.seed is None else self.seed)
        generators = {torch.device("cpu"): torch.default_generator} if self.draws_globally else self._generators
        fork._generators = {
            device: torch.Generator(device).set_state(generator.get_state()) for device, generator in generators.items()
        }
        return fork

    def go_on_from(self, fork: Stream) -> None:
        """Be where a fork of this sequence has come to."""
        if not self.draws_globally:
            self._generators = fork._generators
        elif (generator := fork._generators.get(torch.device("cpu"))) is not None:
            restore_torch_state(generator.get_state())

    def _refuse_transforms(self) -> None:
        if torch.compiler.is_compiling():
            where = "torch.compile or torch.export"
        elif under_vmap():
            where = "vmap"
        elif splitting_run() is not None:
            raise RandomnessError(
                f"rng={self.seed} cannot draw for some rows of a batch on many ranks: an int seed replays torch's "
                f"generator over the whole batch. Pass a Key: rng=funcnet.random.key({self.seed})."
            )
        else:
            return
        raise RandomnessError(
            f"rng={self.seed} cannot draw under {where}: an int seed replays torch's sequential generator, which is "
            f"eager only. Pass a Key: rng=funcnet.random.key({self.seed})."
        )


Rng: TypeAlias = Tensor | KeyAtPath | Stream
"""What the functions of this package draw from: a Key, a Key at a path, or a sequence."""


RngArgument: TypeAlias = Tensor | Stream | int | None
"""What users pass as ``rng=``: a Key, an int seed or nothing; nested calls pass the sequence of the outer one."""


def as_rng(rng: object) -> Tensor | Stream | None:
    """The ``rng=`` argument of a call, checked: a Key as it is, an int as the sequence it seeds, ``None`` as ``None``.

    Raises:
        RandomnessError: if it is anything else.

    >>> as_rng(7)
    Stream(7)
    """
    if rng is None or isinstance(rng, Stream):
        return rng
    if isinstance(rng, Tensor):
        check_key(rng)
        return rng
    if not isinstance(rng, bool):
        try:
            return Stream(operator.index(rng))  # type: ignore[arg-type]  # a TypeError is the answer
        except TypeError:
            pass
    raise RandomnessError(f"rng is a Key (funcnet.random.key(0)) or an int seed, not {rng!r}.")


def rng_at_path(rng: Tensor | Stream, path: str, count: int = 0) -> KeyAtPath | Stream:
    """What the ``count``-th draw at ``path`` draws from."""
    return rng if isinstance(rng, Stream) else KeyAtPath(rng, path_salt(path) + count)


# --- private generators ---


def private_generator(rng: Rng, device: torch.device) -> torch.Generator | None:
    """The generator for one draw in plain eager code; None for a ``Stream`` that torch's global generator makes."""
    if isinstance(rng, Stream):
        return rng.generator(device)
    key, salt = rng if isinstance(rng, KeyAtPath) else (rng, 0)
    return seeded_generator(key, salt, device)


def can_fill_in_place(rng: Rng, like: Tensor) -> bool:
    """Whether a draw for this tensor may be made by filling one in place: in plain eager code, not in a trace."""
    key = rng.key if isinstance(rng, KeyAtPath) else rng
    is_here = is_plainly_eager() and (type(key) is Stream or type(key) is Tensor) and not like.is_meta
    if is_here and type(like) is not Tensor and hasattr(like, "placements"):
        return False  # torch fills a DTensor from no generator but its own
    return is_here and (type(key) is Stream or splitting_run() is None)


# --- the global generators of torch ---


def read_torch_state() -> Tensor:
    """The state of torch's global generators, as int64: four times as fast to compare as the bytes."""
    if not under_transform():
        return _joined_states()
    with outside_transforms():  # inside, a state would become a tensor of the transform, which has no storage
        return _joined_states()


def _joined_states() -> Tensor:
    cpu = torch.default_generator.get_state()
    if not torch.cuda.is_initialized():
        return cpu.view(torch.int64)
    return torch.cat([cpu, *(generator.get_state() for generator in torch.cuda.default_generators)]).view(torch.int64)


def restore_torch_state(state: Tensor) -> None:
    """Put torch's global generators back to what :func:`read_torch_state` returned."""
    with outside_transforms():
        remaining = state.view(torch.uint8)
        for generator in (torch.default_generator, *torch.cuda.default_generators):
            size = generator.get_state().numel() if remaining.numel() else 0  # 0: a device that was first used since
            if size:
                generator.set_state(remaining[:size])
            remaining = remaining[size:]


@contextmanager
def preserve_torch_state() -> Iterator[None]:
    """Run a block, and put torch's global generators back to where they were before it."""
    state = read_torch_state()
    try:
        yield
    finally:
        restore_torch_state(state)


def is_only_drawer() -> bool:
    """Whether this is the only thread, and torch's generator of the CPU the only one that could draw."""
    return threading.active_count() == 1 and not torch.cuda.is_initialized() and not torch.backends.mps.is_available()


@contextmanager
def lend_cpu_generator(generator: torch.Generator) -> Iterator[None]:
    """Have torch's global CPU generator continue the draws of ``generator``, and move that one as far as it came.

    This is for kernels that draw and take no generator. The caller holds ``GLOBAL_GENERATORS_LOCK``.
    """
    state = torch.get_rng_state()
    try:
        torch.set_rng_state(generator.get_state())
        yield
        generator.set_state(torch.get_rng_state())
    finally:
        torch.set_rng_state(state)


class GeneratorStates:
    """The states that some generators of torch have at one moment; equal states draw equal numbers."""

    def __init__(self, generators: Iterable[torch.Generator]) -> None:
        self.generators = tuple(generators)
        self._states = [generator.get_state() for generator in self.generators]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GeneratorStates) and all(map(torch.equal, self._states, other._states))

    __hash__ = None  # type: ignore[assignment]

    def restore(self) -> None:
        """Put the generators back to these states."""
        for generator, state in zip(self.generators, self._states, strict=True):
            generator.set_state(state)


# --- the global generators of Python and NumPy ---


class PythonGenerators:
    """The global generators of Python and, if it is loaded, of NumPy.

    Layer drop and masking in many foreign forwards draw from them, by functions that take no other generator.
    """

    def __init__(self) -> None:
        self._numpy: Any = sys.modules.get("numpy")

    def seed(self, seed: int) -> None:
        """Set both to the start of their draws for this seed."""
        random.seed(seed)
        if self._numpy is not None:
            self._numpy.random.seed(seed % 2**32)

    def read_states(self) -> tuple[Any, Any]:
        """The states of Python's generator and of NumPy's, the second None if NumPy is not loaded."""
        return random.getstate(), None if self._numpy is None else self._numpy.random.get_state(legacy=False)

    def restore_states(self, states: tuple[Any, Any]) -> None:
        """Put both back to what :meth:`read_states` returned."""
        random.setstate(states[0])
        if self._numpy is not None:
            self._numpy.random.set_state(states[1])

    def read_fingerprints(self) -> dict[str, Hashable]:
        """A value for each generator, by the name of its module; it changes as soon as the generator draws."""
        python, numpy = self.read_states()
        if numpy is None:
            return {"random": python}
        numbers = tuple(value.tobytes() if hasattr(value, "tobytes") else value for value in numpy["state"].values())
        return {"random": python, "numpy.random": (numbers, numpy.get("has_gauss"), numpy.get("gauss"))}


class LentPythonGenerators:
    """The generators of Python and NumPy while they are lent: each run of a function finds them at their start."""

    def __init__(self, generators: PythonGenerators, seed: int) -> None:
        self.have_drawn = False
        """Whether the latest run drew from one of them."""
        self._generators, self._seed = generators, seed

    def from_start(self, function: Callable[..., _R]) -> Callable[..., _R]:
        """The function, with the generators set to their start before it runs and ``have_drawn`` set after it."""

        def run_from_start(*args: Any) -> _R:
            self._generators.seed(self._seed)
            start = self._generators.read_fingerprints()
            result = function(*args)
            self.have_drawn = self._generators.read_fingerprints() != start
            return result

        return run_from_start


@contextmanager
def lend_python_generators(rng: Tensor | Stream | None) -> Iterator[LentPythonGenerators]:
    """Lend the generators of Python and NumPy for a block, and put them back. The caller holds the lock.

    Args:
        rng: that of the call. An int seed means ``random.seed(seed); numpy.random.seed(seed)``.
    """
    seed = 0 if rng is None else int(rng.seed or 0) if isinstance(rng, Stream) else int(rng)
    generators = PythonGenerators()
    states = generators.read_states()
    try:
        yield LentPythonGenerators(generators, seed)
    finally:
        generators.restore_states(states)
