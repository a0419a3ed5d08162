"""Randomness: whose dice?

nn.Dropout throws dice that belong to the whole process, so what a layer draws depends on everything that drew before
it. A net throws only what rng= gives it. An int seed repeats the module's numbers, bit for bit. A Key gives each layer
dice of its own, and dice can be handed out: to each example, or to each member of an ensemble.
"""

import torch
from torch import nn

import funcnet as fn


def picture(dropped) -> str:
    return "".join("." if gone else "#" for gone in (dropped == 0).tolist())


def main() -> None:
    x = torch.ones(3, 24)

    # Stateful: the same layer, the same seed, and another mask, because someone else drew first.
    early, late = nn.Dropout(0.2), nn.Dropout(0.5)
    torch.manual_seed(0)
    alone = late(x)
    torch.manual_seed(0)
    early(x)
    after_another = late(x)
    print("nn: late alone          ", picture(alone[0]))
    print("nn: late after early    ", picture(after_another[0]))
    assert not torch.equal(alone, after_another)

    # Stateless, with an int seed: the numbers of the module, and the generator of the process stays where it is.
    torch.manual_seed(0)
    before = torch.get_rng_state()
    y, _ = fn.Dropout(0.5).apply({}, {}, x, train=True, rng=0)
    assert torch.equal(y, alone)
    assert torch.equal(torch.get_rng_state(), before)

    # Stateless, with a Key: a draw depends on the key and on the path of the layer. Who else draws is no matter.
    @fn.compose(early=fn.Dropout(0.2), late=fn.Dropout(0.5))
    def both(p, x):
        p.early(x)
        return p.late(x)

    @fn.compose(late=fn.Dropout(0.5))
    def one(p, x):
        return p.late(x)

    key = fn.random.key(0)
    masked, _ = one.apply({}, {}, x, train=True, rng=key)
    again, _ = both.apply({}, {}, x, train=True, rng=key)
    print("fn: late alone          ", picture(masked[0]))
    print("fn: late after early    ", picture(again[0]))
    assert torch.equal(masked, again)

    # A key for each example: its mask is its own, whatever batch it comes in. (Here: the examples in another order.)
    def masked_one(key, example):
        return one.apply({}, {}, example, train=True, rng=key)[0]

    keys = fn.random.split(key, 3)
    masked = torch.vmap(masked_one)(keys, x)
    turned = torch.vmap(masked_one)(keys.flip(0), x.flip(0))
    assert torch.equal(turned.flip(0), masked)
    for index, (each, row) in enumerate(zip(keys, masked, strict=True)):
        assert torch.equal(masked_one(each, x[index]), row)
        print(f"example {index}, its own key ", picture(row))

    # And a key for each member: 500 thinned networks from one set of weights, in one call. Where they agree, the
    # model is sure of itself (Monte Carlo dropout).
    net = fn.Sequential(fn.Linear(1, 64), fn.Tanh(), fn.Dropout(0.2), fn.Linear(64, 1))
    params, buffers = net.init(0)
    grid = torch.linspace(-3, 3, 7)[:, None]
    members = fn.random.split(fn.random.key(1), 500)
    outputs, _ = torch.vmap(lambda key: net.apply(params, buffers, grid, train=True, rng=key))(members)
    print("\n   x   mean of 500   spread")
    for at, mean, spread in zip(grid[:, 0], outputs.mean(0)[:, 0], outputs.std(0)[:, 0], strict=True):
        print(f"{at:+.0f}   {mean:+.3f}        {spread:.3f} {'*' * int(100 * spread)}")
    first, _ = net.apply(params, buffers, grid, train=True, rng=members[0])
    torch.testing.assert_close(first, outputs[0])  # batched matrix products round differently


if __name__ == "__main__":
    main()
