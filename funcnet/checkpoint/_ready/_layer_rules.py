"""Ready rules for layers: both forms of weight and spectral norm in torch, layers of Keras, and cells of Flax."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from funcnet.checkpoint._checkpoint import Checkpoint, Spec
from funcnet.checkpoint._dtypes import dtype_name
from funcnet.checkpoint._errors import RuleError, truncated_list
from funcnet.checkpoint._ready._settings import WeightsLike
from funcnet.checkpoint.rules import Fill, Fuse, Permute, Rename, Reshape, Rule, Split, Transpose


def parametrization_rules(weights: WeightsLike) -> tuple[Rule, ...]:
    """The rules from both old norms of weights in ``torch.nn.utils`` to those of ``torch.nn.utils.parametrizations``.

    ``weight_g`` and ``weight_v`` become ``parametrizations.weight.original0`` and ``original1``; ``weight_orig``,
    ``weight_u`` and ``weight_v`` become ``parametrizations.weight.original``, ``0._u`` and ``0._v``. The inverse leads
    back.

    Args:
        weights: a checkpoint, or shapes and dtypes by name.

    >>> import torch
    >>> specs = {"fc.weight_g": Spec((2, 1), torch.float32), "fc.weight_v": Spec((2, 3), torch.float32)}
    >>> [rule.target for rule in parametrization_rules(specs)]
    ['fc.parametrizations.weight.original0', 'fc.parametrizations.weight.original1']
    """
    specs = weights.specs if isinstance(weights, Checkpoint) else weights
    rules: list[Rule] = []
    for name in specs:
        base, _, kind = name.rpartition("_")
        parent, _, param = base.rpartition(".")
        target = f"{parent}.parametrizations.{param}".removeprefix(".")
        if kind == "g" and f"{base}_v" in specs:
            rules += [Rename(name, f"{target}.original0"), Rename(f"{base}_v", f"{target}.original1")]
        elif kind == "orig" and f"{base}_u" in specs and f"{base}_v" in specs:
            rules.append(Rename(name, f"{target}.original"))
            rules += [Rename(f"{base}_{vector}", f"{target}.0._{vector}") for vector in "uv"]
    return tuple(rules)


_KERAS_LEAVES = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "embeddings": "weight",
    "kernel": "weight",
    "depthwise_kernel": "weight",
    "bias": "bias",
}
_GATES = {4: "LSTM", 3: "GRU", 1: "SimpleRNN"}


def keras_rules(weights: WeightsLike) -> tuple[Rule, ...]:
    """The rules from the conventions of Keras to those of torch, for arrays by the paths of their layers.

    Kernels (in, out) and (*, in, out) become weights (out, in) and (out, in, *), depthwise ones (channels * factor, 1,
    *). Norms get the names of torch, with a ``num_batches_tracked``. LSTM and SimpleRNN keep the order of their gates
    (i, f, c, o is torch's i, f, g, o); those of a GRU with ``reset_after`` are reordered from z, r, h to r, z, n. What
    torch has and Keras has not, a second bias, is filled with zeros, and lost on the way back, as the rules declare.
    Mind that layers of Keras have other defaults, as an ``epsilon`` of 0.001.

    Args:
        weights: a checkpoint, or shapes and dtypes by name, as ``"lstm/lstm_cell/kernel"``.

    Raises:
        RuleError: if a name or a shape is none of these; lists them.

    >>> import torch
    >>> specs = {"dense/kernel": Spec((3, 2), torch.float32), "dense/bias": Spec((2,), torch.float32)}
    >>> [type(rule).__name__ for rule in keras_rules(specs)]
    ['Rename', 'Transpose', 'Rename']
    """
    specs = weights.specs if isinstance(weights, Checkpoint) else weights
    layers: dict[str, dict[str, str]] = {}
    for name in specs:
        *parents, leaf = re.split(r"[./]", name.removesuffix(":0"))
        layers.setdefault(".".join(parents), {})[leaf] = name
    rules: list[Rule] = []
    problems: list[str] = []
    for path, names in layers.items():
        if "recurrent_kernel" in names:
            count = specs[names["kernel"]].shape[1] // specs[names["recurrent_kernel"]].shape[0]
            if count not in _GATES or (count == 3 and len(specs[names.get("bias", names["kernel"])].shape) != 2):
                problems.append(f"{path!r} has {count} gates; a GRU needs reset_after=True, as torch computes it")
                continue
            rules += _recurrent_rules(path, names, specs, count)
            continue
        for leaf, name in names.items():
            if leaf not in _KERAS_LEAVES:
                problems.append(f"{name!r}: there is no rule for {leaf!r}")
                continue
            rules += _layer_rules(f"{path}.{_KERAS_LEAVES[leaf]}".removeprefix("."), leaf, name, specs[name])
    if problems:
        raise RuleError(f"these arrays of Keras have no counterpart:{truncated_list(problems)}")
    return tuple(rules)


def _layer_rules(target: str, leaf: str, name: str, spec: Spec) -> Iterator[Rule]:
    rank = len(spec.shape)
    yield Rename(name, target)
    if leaf == "depthwise_kernel":
        yield Permute(target, (rank - 2, rank - 1, *range(rank - 2)))
        space = tuple(f"n{axis}" for axis in range(rank - 2))
        yield Reshape(target, ("c", "m", *space), ("c*m", 1, *space), {"m": spec.shape[-1]})
    elif leaf == "kernel" and rank == 2:
        yield Transpose(target)
    elif leaf == "kernel":
        yield Permute(target, (rank - 1, rank - 2, *range(rank - 2)))
    elif leaf == "moving_mean":
        prefix = target.removesuffix("running_mean")
        yield Fill(f"{prefix}num_batches_tracked", 0, (), "int64", target, lossy=True)


def _recurrent_rules(path: str, names: Mapping[str, str], specs: Mapping[str, Spec], gates: int) -> Iterator[Rule]:
    """The rules of a recurrent layer, whose cell may have a key of its own in the path."""
    layer = re.sub(r"(^|\.)\w*_?cell$", "", path)
    size = specs[names["recurrent_kernel"]].shape[0]
    prefix = f"{layer}." if layer else ""
    for leaf, target in (("kernel", f"{prefix}weight_ih_l0"), ("recurrent_kernel", f"{prefix}weight_hh_l0")):
        yield from (Rename(names[leaf], target), Transpose(target))
        yield from _reorder_gates(target, size) if gates == 3 else ()
    if "bias" not in names:
        return
    spec, targets = specs[names["bias"]], (f"{prefix}bias_ih_l0", f"{prefix}bias_hh_l0")
    if gates == 3:
        yield Split(names["bias"], targets, (1, 1))
        for target in targets:
            yield Reshape(target, (1, "n"), ("n",))
            yield from _reorder_gates(target, size)
    else:
        yield Rename(names["bias"], targets[0])
        yield Fill(targets[1], 0.0, spec.shape, dtype_name(spec.dtype), targets[0], lossy=True)


def _reorder_gates(target: str, size: int) -> Iterator[Rule]:
    """From z, r, h to r, z, n."""
    parts = [f"{target}.{gate}" for gate in "zrn"]
    yield Split(target, tuple(parts), (size, size, size))
    yield Fuse((parts[1], parts[0], parts[2]), target, (size, size, size))


def flax_cell_rules(specs: Mapping[str, Spec]) -> Iterator[Rule]:
    """The rules that make cells of torch of the cells of Flax, whose gates are maps of their own with torch's axes.

    The gates of an LSTM (ii, if, ig, io and hi, hf, hg, ho) and of a GRU (ir, iz, in and hr, hz, hn) are in torch's
    order. A bias that a gate of Flax has not is filled with zeros, and lost on the way back, as the rules declare.

    Args:
        specs: shapes and dtypes by name, with the names and axes of torch.
    """
    for gates in ("ifgo", "rzn"):
        for name in specs:
            path = name.removesuffix(f".i{gates[0]}.weight")
            needed = [f"{path}.{side}{gate}.weight" for side in "ih" for gate in gates]
            if path == name or not all(part in specs for part in needed):
                continue
            for side in "ih":
                yield from _cell_side_rules(path, side, gates, specs)


def _cell_side_rules(path: str, side: str, gates: Sequence[str], specs: Mapping[str, Spec]) -> Iterator[Rule]:
    weights, biases = (tuple(f"{path}.{side}{gate}.{w}" for gate in gates) for w in ("weight", "bias"))
    spec = specs[weights[0]]
    sizes = (spec.shape[0],) * len(gates)
    yield Fuse(weights, f"{path}.weight_{side}h", sizes)
    for bias in biases:
        if bias not in specs:
            yield Fill(bias, 0.0, sizes[:1], dtype_name(spec.dtype), lossy=True)
    yield Fuse(biases, f"{path}.bias_{side}h", sizes)
