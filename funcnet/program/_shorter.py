"""Calls by public names, without arguments that say what is so anyway."""

from __future__ import annotations

import ast
from typing import Any


class Shorter(ast.NodeTransformer):
    """Public names, and no arguments that say what is so anyway."""

    def visit_Call(self, node: ast.Call) -> Any:
        self.generic_visit(node)
        name = ast.unparse(node.func)
        if name == "torch.Size" and len(node.args) == 1 and isinstance(node.args[0], (ast.List, ast.Tuple)):
            return ast.Tuple(node.args[0].elts, ast.Load())
        if isinstance(node.func, ast.Attribute) and node.func.attr in _SIZED and len(node.args) == 1:
            sizes = node.args[0]
            node.args = sizes.elts if isinstance(sizes, (ast.Tuple, ast.List)) and sizes.elts else node.args
        if isinstance(node.func, ast.Attribute) and node.func.attr == "to" and len(node.args) + len(node.keywords) > 1:
            node.args = [arg for arg in node.args if not _is_cpu(arg)]
            node.keywords = [key for key in node.keywords if not _default_device(key)]
            if not node.args and [key.arg for key in node.keywords] == ["dtype"]:
                node.args, node.keywords = [node.keywords[0].value], []
        if name.startswith("torch.") or name.endswith((".new_ones", ".new_zeros", ".new_tensor")):
            node.keywords = [key for key in node.keywords if not _default_device(key)]
        if name in _PUBLIC:
            node.func = ast.parse(_PUBLIC[name], mode="eval").body
            name = _PUBLIC[name]
        if name in ("F.linear", "torch.amp.autocast"):
            while node.args and isinstance(node.args[-1], ast.Constant) and node.args[-1].value is None:
                node.args.pop()
        if name in _POSITIONS:
            _by_name(node, *_POSITIONS[name])
        if name == "torch.amp.autocast" and len(node.args) == 3:
            node.args[1:], node.keywords = [], [ast.keyword("enabled", node.args[2])]
        return node


_SIZED = frozenset({"view", "reshape", "expand", "permute", "repeat"})


def _default_device(key: ast.keyword) -> bool:
    return key.arg == "device" and _is_cpu(key.value)


def _is_cpu(node: ast.expr) -> bool:
    return ast.unparse(node) in ("torch.device('cpu')", "'cpu'")


_PUBLIC = {"torch._C._nn.pad": "F.pad"}
_CONV = (("bias", "stride", "padding", "dilation", "groups"), (None, 1, 0, 1, 1))
_TRANSPOSED = (("bias", "stride", "padding", "output_padding", "groups", "dilation"), (None, 1, 0, 0, 1, 1))
_ATTENTION = (("attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa"), (None, 0.0, False, None, False))
_POOL = (("stride", "padding", "dilation", "ceil_mode", "return_indices"), (None, 0, 1, False, False))
# of a function: how many of its arguments are given by position, and the names and defaults of the others
_POSITIONS: dict[str, tuple[int, tuple[str, ...], tuple[Any, ...]]] = {
    **{f"F.conv{rank}d": (2, *_CONV) for rank in (1, 2, 3)},
    **{f"F.max_pool{rank}d": (2, *_POOL) for rank in (1, 2, 3)},
    "F.batch_norm": (5, ("training", "momentum", "eps"), (False, 0.1, 1e-5)),
    "F.layer_norm": (4, ("eps",), (1e-5,)),
    "F.group_norm": (4, ("eps",), (1e-5,)),
    "F.embedding": (2, ("padding_idx",), (None,)),
    "F.scaled_dot_product_attention": (3, *_ATTENTION),
    "fn.random.scaled_dot_product_attention": (3, *_ATTENTION),
    **{f"F.conv_transpose{rank}d": (2, *_TRANSPOSED) for rank in (1, 2, 3)},
    "F.pad": (2, ("mode", "value"), ("constant", None)),
    "torch.softmax": (1, ("dim", "dtype"), (..., None)),
}


def _by_name(node: ast.Call, given: int, names: tuple[str, ...], defaults: tuple[Any, ...]) -> None:
    """Name the later arguments of a call, without those that are as they are by default."""
    if len(node.args) > given + len(names) or any(isinstance(arg, ast.Starred) for arg in node.args):
        return
    late = [ast.keyword(name, arg) for name, arg in zip(names, node.args[given:], strict=False)]
    keywords = [*late, *node.keywords]
    kept = []
    for key in keywords:
        value = _number(key.value)
        default = defaults[names.index(key.arg)] if key.arg in names else _UNKNOWN
        if type(value) is type(default) and value is not _UNKNOWN and value == default:
            continue
        if isinstance(value, int) and not isinstance(value, bool) and isinstance(key.value, ast.Tuple):
            key = ast.keyword(key.arg, ast.Constant(value))
        kept.append(key)
    del node.args[given:]
    if kept and kept[0].arg == "bias":
        node.args.append(kept.pop(0).value)
    node.keywords = kept


_UNKNOWN = object()


def _number(node: ast.expr) -> Any:
    """A constant; a tuple of one number as that number."""
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError):
        return _UNKNOWN
    if isinstance(value, tuple) and value and all(type(one) is int and one == value[0] for one in value):
        return value[0]
    return value
