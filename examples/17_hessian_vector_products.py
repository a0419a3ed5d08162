"""Hessian-vector products: how sharply a loss bends.

The Hessian of a model with n weights has n x n numbers. Nobody needs them: its product with a vector is the derivative
of the gradient along that vector, at the price of two to three gradients. With a module one differentiates a backward
pass by hand; with a pure function it is fn.hvp(loss)(params, vector), which any algorithm for matrices can be fed with.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.func import grad, jvp

import funcnet as fn


def sharpness(multiply, params, rounds=20):
    """The largest eigenvalue of a matrix that is known by its products, by power iteration: multiply, scale, repeat."""
    vector = fn.tree.map(torch.ones_like, params)
    for _ in range(rounds):
        product = multiply(params, vector)
        vector = fn.tree.scale(product, 1 / fn.tree.norm(product))
    return fn.tree.dot(vector, multiply(params, vector))


def descended(loss, params, rate, steps):
    for _ in range(steps):
        params = fn.tree.sub(params, fn.grad(loss)(params), alpha=rate)
    return params


def main() -> None:
    torch.set_num_threads(1)  # matrices this small are slower on two
    images, labels = map(torch.from_numpy, load_digits(return_X_y=True))
    images, labels = images[:300].float() / 16, labels[:300].long()

    net = fn.Sequential(fn.Linear(64, 16), fn.Tanh(), fn.Linear(16, 10))
    params, _ = net.init(0)
    vector = fn.tree.map(torch.ones_like, params)

    # Stateful: keep the graph of the backward pass, and go backward through it once more.
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
    weights = list(module.parameters())
    grads = torch.autograd.grad(F.cross_entropy(module(images), labels), weights, create_graph=True)
    along = sum((g * torch.ones_like(g)).sum() for g in grads)
    product_module = torch.autograd.grad(along, weights)

    # Stateless: the product of a function's Hessian. Further arguments of the loss follow the vector.
    def loss(params, images=images, labels=labels):
        return F.cross_entropy(net(params, images), labels)

    product = fn.hvp(loss)(params, vector)
    for got, expected in zip(fn.tree.flatten(product).values(), product_module, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)  # it adds in another order
    torch.testing.assert_close(fn.hvp(loss)(params, vector, images, labels), product)

    # In the words of torch.func it is the derivative of the gradient along the vector. That goes forward over backward,
    # which takes up to 1.7 times as long, and needs a rule for forward mode of every operation.
    torch.testing.assert_close(product, jvp(grad(loss), (params,), (vector,))[1], rtol=1e-4, atol=1e-6)

    # In small, against the whole matrix: the Hessian by the last bias is 10 x 10.
    def loss_by_bias(bias):
        return loss(fn.tree.replace(params, "2.bias", bias))

    whole = fn.hessian(loss_by_bias)(params["2"]["bias"])
    only_bias = fn.tree.replace(fn.tree.map(torch.zeros_like, params), "2.bias", torch.ones(10))
    torch.testing.assert_close(fn.hvp(loss)(params, only_bias)["2"]["bias"], whole @ torch.ones(10))

    # Without the curvature of the model itself, only that of the loss: the Gauss-Newton matrix, which never bends down.
    gauss_newton = fn.ggn_vp(net, lambda scores: F.cross_entropy(scores, labels))
    assert fn.tree.dot(vector, gauss_newton(params, vector, images)) >= 0

    count = sum(tensor.numel() for tensor in fn.tree.flatten(params).values())
    print(f"{count} weights: a Hessian of {count**2:,} numbers, never made\n")
    print("step   loss    sharpness   2 / sharpness")
    for step in range(0, 61, 15):
        bend = sharpness(fn.hvp(loss), params)
        print(f"{step:>4}   {loss(params):.3f}   {bend:>6.2f}      {2 / bend:.2f} {'*' * int(4 * bend)}")
        params = descended(loss, params, rate=0.5, steps=15)

    # What the number is for. Where the loss is a bowl, as for a linear model, gradient descent goes down at any rate
    # below 2 / sharpness and climbs out at any rate above it.
    line = fn.Linear(64, 1)
    start, _ = line.init(0)

    def bowl(params):
        return F.mse_loss(line(params, images)[:, 0], labels.float())

    safe = 2 / sharpness(fn.hvp(bowl), start)
    print(f"\na linear model: sharpness {2 / safe:.2f}, so rates up to {safe:.4f} are safe. After 100 steps:")
    for share in (0.9, 0.98, 1.02, 1.1):
        end = descended(bowl, start, share * safe, steps=100)
        print(f"    {share:>4} of it: loss {bowl(start):.1f} -> {bowl(end):.3g}")
        assert (bowl(end) < bowl(start)) == (share < 1)


if __name__ == "__main__":
    main()
