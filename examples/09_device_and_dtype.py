"""Moving to a device and a dtype.

module.to(...) moves the tensors the module holds, in place. A net holds none and never moves: fn.tree.to(params, ...)
gives moved params, and the old ones stay where they were. A net computes wherever its arguments are.
"""

import torch
from torch import nn

import funcnet as fn


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = fn.random.normal(fn.random.key(0), (4, 8)).to(device, torch.float64)

    # Stateful: the module itself is changed; whoever else holds it sees that.
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2)).eval()
    module.to(device, torch.float64)
    y_module = module(x)

    # Stateless: new trees.
    net = fn.Sequential(fn.Linear(8, 16), fn.BatchNorm1d(16), fn.ReLU(), fn.Linear(16, 2))
    params, buffers = net.init(0)
    moved_params, moved_buffers = fn.tree.to(params, device, torch.float64), fn.tree.to(buffers, device, torch.float64)
    y, _ = net.apply(moved_params, moved_buffers, x)
    assert torch.equal(y, y_module)

    # The old params are where they were, so one net can serve two dtypes or devices at once.
    assert params["0"]["weight"].dtype == torch.float32
    assert moved_params["0"]["weight"].dtype == torch.float64
    y_half, _ = net.apply(fn.tree.to(params, torch.bfloat16), fn.tree.to(buffers, torch.bfloat16), x.cpu().bfloat16())
    print("outputs:", y.dtype, "and", y_half.dtype, "from one net")

    # As in a module, a dtype is for floating tensors: counters stay whole numbers.
    assert moved_buffers["1"]["num_batches_tracked"].dtype == torch.int64
    assert module[1].num_batches_tracked.dtype == torch.int64

    # Or make the tensors where they belong: nn.Linear(..., device=, dtype=) layer by layer there, once here.
    torch.manual_seed(0)
    linear = nn.Linear(8, 16, device=device, dtype=torch.float64)
    made, _ = net.init(0, device=device, dtype=torch.float64)
    assert torch.equal(made["0"]["weight"], linear.weight)

    # On the meta device tensors have shapes and no content: a model too big for memory can be measured first.
    with torch.device("meta"):
        huge_module = nn.Linear(100_000, 100_000)
    huge = fn.Linear(100_000, 100_000)
    shapes, _ = huge.init(0, device="meta")
    count = sum(tensor.numel() for tensor in fn.tree.flatten(shapes).values())
    assert count == sum(parameter.numel() for parameter in huge_module.parameters())
    print(f"computed on {device}, counted {count:,} parameters on meta")


if __name__ == "__main__":
    main()
