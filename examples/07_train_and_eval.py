"""Train and eval mode.

What BatchNorm and Dropout hide in a module are arguments here: the mode is train=, the running statistics are buffers
that go in and come out, the random numbers come from rng=. Nothing changes unless you keep what is returned. So it is
with state of your own, such as the cache of a decoder: it goes in, and comes out.
"""

import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn


@fn.compose(qkv=fn.Linear(8, 24))
def attend(p, token, cache=()):
    """Attention of one token to itself and to those before it, whose keys and values are in the cache."""
    q, k, v = p.qkv(token).chunk(3, -1)
    cache = (*cache, (k, v))
    keys, values = (torch.cat(tensors) for tensors in zip(*cache, strict=True))
    return F.scaled_dot_product_attention(q, keys, values), cache


@fn.compose(qkv=fn.Linear(8, 24))
def attend_and_append(p, token, cache):
    """The same as one would write it in a module: the list that the caller gave grows."""
    q, k, v = p.qkv(token).chunk(3, -1)
    cache.append((k, v))
    keys, values = (torch.cat(tensors) for tensors in zip(*cache, strict=True))
    return F.scaled_dot_product_attention(q, keys, values)


def main() -> None:
    x = fn.random.normal(fn.random.key(0), (16, 8))

    # Stateful: three hidden states, which are self.training, the running statistics and the global generator.
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 2))
    module.train()
    torch.manual_seed(7)
    y_module = module(x)  # overwrites module[1].running_mean and moves the generator
    module.eval()
    y_module_eval = module(x)

    # Stateless: three arguments, and the new statistics returned.
    net = fn.Sequential(fn.Linear(8, 16), fn.BatchNorm1d(16), fn.ReLU(), fn.Dropout(0.5), fn.Linear(16, 2))
    params, buffers = net.init(0)
    y, new_buffers = net.apply(params, buffers, x, train=True, rng=7)
    y_eval, _ = net.apply(params, new_buffers, x)

    # The same bits: outputs in both modes, and every running statistic.
    assert torch.equal(y, y_module)
    assert torch.equal(y_eval, y_module_eval)
    for name, value in fn.to_state_dict(net, params, new_buffers).items():
        assert torch.equal(value, module.state_dict()[name])

    # What went in is as it was, so the call can be repeated.
    assert not buffers["1"]["running_mean"].any()
    assert torch.equal(net.apply(params, buffers, x, train=True, rng=7)[0], y)
    print("running_mean before:", buffers["1"]["running_mean"][:3])
    print("running_mean after: ", new_buffers["1"]["running_mean"][:3])

    # An int seed repeats the draws of torch.manual_seed. The draws of a Key depend on the path of the layer, not on
    # what drew before it, and work under vmap and torch.compile; fold_in makes a Key for each step.
    key = fn.random.key(7)
    first, _ = net.apply(params, buffers, x, train=True, rng=fn.random.fold_in(key, 0))
    second, _ = net.apply(params, buffers, x, train=True, rng=fn.random.fold_in(key, 1))
    assert not torch.equal(first, second)

    # Nothing draws behind your back: without rng, training says where numbers are needed.
    try:
        net.apply(params, buffers, x, train=True)
    except fn.RandomnessError as error:
        print("without rng:", error)
    else:
        raise AssertionError("a draw without rng is an error")

    # Part of a net in eval mode: module[1].eval() there, a selector of paths here.
    module.train()
    module[1].eval()
    torch.manual_seed(7)
    y_module = module(x)
    y, same_buffers = net.apply(params, new_buffers, x, train=["**", "!1"], rng=7)
    assert torch.equal(y, y_module)
    assert torch.equal(same_buffers["1"]["running_mean"], new_buffers["1"]["running_mean"])
    print("with BatchNorm frozen, num_batches_tracked stays", int(same_buffers["1"]["num_batches_tracked"]))

    # A cache is returned as buffers are. Token by token gives what one causal call gives, but for rounding.
    params, _ = attend.init(0)
    cache, outputs = (), []
    for token in x.split(1):
        y, cache = attend(params, token, cache)
        outputs.append(y)
    q, k, v = fn.Linear(8, 24)(params["qkv"], x).chunk(3, -1)
    assert torch.allclose(torch.cat(outputs), F.scaled_dot_product_attention(q, k, v, is_causal=True), atol=1e-6)

    # A list that grows in the call would give other numbers in the next one. It is refused, and as it was.
    cache = []
    try:
        attend_and_append(params, x[:1], cache)
    except fn.PurityError as error:
        print("a list that grows:", error)
    assert cache == []


if __name__ == "__main__":
    main()
