"""Saving and loading .pth files.

A .pth file holds a state_dict: tensors under joined names. The paths of params and buffers are those names, in the same
order, so files made by either side load into the other. Nothing is loaded in part: what does not fit is one error.
"""

import tempfile
from pathlib import Path

import torch
from torch import nn

import funcnet as fn


def main() -> None:
    x = fn.random.normal(fn.random.key(0), (4, 8))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pth"

        # Stateful
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
        module(x)  # some running statistics to save
        torch.save(module.state_dict(), path)
        module.eval()

        # Stateless: read the module's file.
        net = fn.Sequential(fn.Linear(8, 16), fn.BatchNorm1d(16), fn.ReLU(), fn.Linear(16, 2))
        params, buffers = fn.from_state_dict(net, torch.load(path, weights_only=True))
        y, _ = net.apply(params, buffers, x)
        assert torch.equal(y, module(x))

        # And back: write a file, and let a module read it.
        torch.save(fn.to_state_dict(net, params, buffers), path)
        other = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2)).eval()
        other.load_state_dict(torch.load(path, weights_only=True))
        assert torch.equal(other(x), y)

    state_dict = fn.to_state_dict(net, params, buffers)
    assert list(state_dict) == list(module.state_dict())
    print("keys:", *state_dict, sep="\n    ")

    # A key with another name, one missing, one transposed: all named at once, with the nearest name and the cause.
    state_dict["3.wieght"] = state_dict.pop("3.weight")
    del state_dict["3.bias"]
    state_dict["0.weight"] = state_dict["0.weight"].T
    try:
        fn.from_state_dict(net, state_dict)
    except fn.TreeError as error:
        print(error)
    else:
        raise AssertionError("a state_dict that does not fit is an error")


if __name__ == "__main__":
    main()
