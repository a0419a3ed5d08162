"""Train and eval mode.

What BatchNorm and Dropout hide in a module are arguments here: the mode is train=, the running statistics are buffers
that go in and come out, the random numbers come from rng=. Nothing changes unless you keep what is returned.
"""

import torch
from torch import nn

import funcnet as fn


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


if __name__ == "__main__":
    main()
