"""Texts continued token by token. Axes: N batch, L tokens, V vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

import torch
from torch import Tensor

from funcnet._context import can_read_numbers
from funcnet._typing import Tree, TreeLike
from funcnet.models._decoder_model import DecoderModel, check_is_decoder
from funcnet.models._kv_cache import growing_cache, measure_cache, static_cache
from funcnet.models._sampling import Sampler
from funcnet.random.internals import RngArgument


@overload
def generate(
    net: Callable[..., Any],
    params: TreeLike,
    tokens: Tensor,
    max_new_tokens: int,
    *,
    attention_mask: Tensor | None = None,
    cache: None = None,
    step: Callable[..., Any] | None = None,
    rng: RngArgument = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    stop_tokens: int | Sequence[int] = (),
    pad_token: int | None = None,
) -> Tensor: ...
@overload
def generate(
    net: Callable[..., Any],
    params: TreeLike,
    tokens: Tensor,
    max_new_tokens: int,
    *,
    attention_mask: Tensor | None = None,
    cache: Any,
    step: Callable[..., Any] | None = None,
    rng: RngArgument = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    stop_tokens: int | Sequence[int] = (),
    pad_token: int | None = None,
) -> tuple[Tensor, Any]: ...
def generate(
    net: Callable[..., Any],
    params: TreeLike,
    tokens: Tensor,
    max_new_tokens: int,
    *,
    attention_mask: Tensor | None = None,
    cache: Any = None,
    step: Callable[..., Any] | None = None,
    rng: RngArgument = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    stop_tokens: int | Sequence[int] = (),
    pad_token: int | None = None,
) -> Tensor | tuple[Tensor, Any]:
    """Texts with new tokens behind them: a pure function of params, tokens and rng.

    Without ``rng`` each new token is the likeliest: the tokens of transformers' ``generate(do_sample=False)`` for the
    same weights. With an int as ``rng`` they are those of ``torch.manual_seed(rng)`` and then
    ``generate(do_sample=True, top_k=0)``. A Key works under vmap and compile too.

    Args:
        net: a decoder of ``funcnet.models``; or, with ``cache``, any function that is called as
            ``net(params, tokens, cache=cache)`` and returns logits (N, L, V), or of the last token (N, 1, V), and the
            next cache. It gets ``attention_mask=`` with the first tokens if there is one.
        params: its params.
        tokens: (N, L) of ints, what is to be continued. Shorter texts have padding on the left.
        max_new_tokens: how many tokens are added, 1 or more.
        attention_mask: (N, L), 0 where there is padding.
        cache: what came before ``tokens``; default nothing.
        step: what is called like ``net`` for single tokens, such as ``torch.compile(net)``; default ``net`` itself.
            Then the default cache is one of fixed size, so that all steps have the same shapes.
        rng: a Key or an int seed, to draw tokens; None for the likeliest.
        temperature, top_k, top_p: the distribution to draw from; see :func:`filter_logits`.
        stop_tokens: after one of these, a text gets padding only. When all texts have had one, no more tokens are
            added; under vmap and compile, where values cannot be looked at, there are always ``max_new_tokens``.
        pad_token: what is behind stop tokens; default the first of them.

    Returns:
        Tokens (N, L + new). With ``cache``, the pair of these and of the next cache, in which all of them are but the
        last, which no step has seen yet. Nothing here has a gradient.

    Raises:
        TypeError: if ``net`` is no decoder, and there is no cache.
        ValueError: if tokens, mask, lengths or options do not fit.

    >>> import funcnet as fn
    >>> net = fn.models.GPT2(50, 16, hidden_size=8, num_hidden_layers=2, num_attention_heads=2)
    >>> params, _ = net.init(0)
    >>> generate(net, params, torch.tensor([[3, 1, 4]]), 5).shape
    torch.Size([1, 8])
    >>> written = generate(net, params, torch.tensor([[3, 1, 4]]), 5, rng=fn.random.key(0), temperature=0.8, top_p=0.9)
    >>> members = fn.tree.stack([params, net.init(1)[0]])
    >>> torch.vmap(lambda params: generate(net, params, torch.tensor([[3, 1, 4]]), 5))(members).shape
    torch.Size([2, 1, 8])
    """
    sampler = Sampler(rng, temperature, top_k, top_p)
    stops = [stop_tokens] if isinstance(stop_tokens, int) else list(stop_tokens)
    _check_prompt(tokens, attention_mask)
    _check_lengths(net, tokens.shape[1], max_new_tokens, cache)
    next_cache = cache
    options: dict[str, Any] = {}
    if isinstance(net, DecoderModel):
        if net._parts["head"] is None:
            raise ValueError(f"{net.title()} has no head, so it has no logits to choose tokens by.")
        options = {"logits_to_keep": 1}
        params = net.lay_out(params)
    if cache is None:
        next_cache = _make_cache(
            check_is_decoder(net, "generate without a cache"), params, tokens, max_new_tokens, step
        )
    if attention_mask is not None:
        options["attention_mask"] = attention_mask
    with torch.no_grad():
        logits, next_cache = net(params, tokens, cache=next_cache, **options)
        stop_values = torch.tensor(stops, dtype=tokens.dtype, device=tokens.device)
        has_stopped = torch.zeros(tokens.shape[0], dtype=torch.bool, device=tokens.device)
        texts = [tokens]
        for index in range(max_new_tokens):
            if index:
                logits, next_cache = (step or net)(params, texts[-1], cache=next_cache)
            token = sampler.choose(logits[:, -1], index).to(tokens.dtype)
            if stops:
                token = torch.where(has_stopped, stops[0] if pad_token is None else pad_token, token)
                has_stopped = has_stopped | (token[:, None] == stop_values).any(-1)
            texts.append(token[:, None])
            if stops and can_read_numbers() and bool(has_stopped.all()):
                break
        written = torch.cat(texts, 1)
    return written if cache is None else (written, next_cache)


def _make_cache(
    net: DecoderModel, params: TreeLike, tokens: Tensor, max_new_tokens: int, step: Callable[..., Any] | None
) -> Tree:
    if step is None:
        return growing_cache(net, params, tokens.shape[0])
    return static_cache(net, params, tokens.shape[0], tokens.shape[1] + max_new_tokens)


def _check_prompt(tokens: Tensor, attention_mask: Tensor | None) -> None:
    """Refuse tokens that cannot be continued.

    Raises:
        ValueError: if they are no texts, or their mask does not fit.
    """
    if not isinstance(tokens, Tensor) or tokens.dim() != 2 or tokens.dtype not in (torch.int64, torch.int32):
        got = f"{tuple(tokens.shape)} {tokens.dtype}" if isinstance(tokens, Tensor) else type(tokens).__name__
        hint = "; one text is tokens[None]" if isinstance(tokens, Tensor) and tokens.dim() == 1 else ""
        raise ValueError(f"generate: tokens is (N, L) of ints, got {got}{hint}.")
    if not tokens.shape[1]:
        raise ValueError("generate: tokens has no token; a text begins with one, such as the model's for a beginning.")
    if attention_mask is None:
        return
    if attention_mask.shape != tokens.shape:
        got = str(tuple(attention_mask.shape))
        raise ValueError(f"generate: attention_mask has the shape of tokens, {tuple(tokens.shape)}, got {got}.")
    if can_read_numbers() and not bool(attention_mask[:, -1].all()):
        raise ValueError("generate: attention_mask hides the last token of a text; padding stands on the left.")


def _check_lengths(net: Callable[..., Any], length: int, max_new_tokens: int, cache: Any) -> None:
    """Refuse more tokens than the model has positions for, or the cache slots; the last token needs neither.

    Raises:
        ValueError: if there are too many of them, or none.
    """
    if max_new_tokens < 1:
        raise ValueError(f"generate: max_new_tokens is 1 or more, got {max_new_tokens}.")
    if not isinstance(net, DecoderModel):
        return
    past, slots = measure_cache(cache) if can_read_numbers() else (0, None)
    needed = past + length + max_new_tokens - 1
    limits = {"the model": (net.max_length, "positions"), "the cache": (slots, "slots")}
    problems = [
        f"{owner} has {limit} {unit}" for owner, (limit, unit) in limits.items() if limit is not None and needed > limit
    ]
    if problems:
        before = f"{past} tokens in the cache, " if past else ""
        raise ValueError(
            f"generate: {before}{length} tokens and {max_new_tokens} more need {needed} places, and "
            f"{' and '.join(problems)}. Pass fewer tokens, or a smaller max_new_tokens."
        )
