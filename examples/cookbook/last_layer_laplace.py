"""A last-layer Laplace approximation: how sure is a trained classifier?

The last layer gets a normal distribution around its trained weights, whose precision is the Gauss-Newton matrix
there. Its params are chosen by path and raveled into a vector, so the matrix is a Jacobian or two. Daxberger et
al., 2021.
"""

import torch
import torch.nn.functional as F

import funcnet as fn

PRIOR = 1.0


def main() -> None:
    torch.set_num_threads(1)
    # Two half moons, and a point far from both.
    angle, noise = fn.random.split(fn.random.key(0))
    angle = fn.random.uniform(angle, (200,)) * torch.pi
    moon = torch.arange(200) % 2
    x = torch.stack([angle.cos() * (1 - 2 * moon) + moon, angle.sin() * (1 - 2 * moon) + 0.5 * moon], 1)
    x = x + 0.1 * fn.random.normal(noise, (200, 2))
    far = torch.tensor([[8.0, 8.0]])

    net = fn.Sequential({"body": fn.Linear(2, 20), "act": fn.ReLU(), "head": fn.Linear(20, 2)})
    params, _ = net.init(0)
    optimizer = fn.optim.Adam(lr=2e-2)
    state = optimizer.init(params)
    for _ in range(300):
        _, grads = fn.value_and_grad(lambda params: F.cross_entropy(net(params, x), moon))(params)
        params, state = optimizer.step(params, grads, state)
    print(f"trained: {(net(params, x).argmax(1) == moon).float().mean():.1%} are right")

    # The head as a vector; all else stays as it is.
    head, body = fn.tree.partition(params, "head")
    mean, unravel = fn.tree.ravel(head)

    def logits(vector, x):
        return net(fn.tree.combine(unravel(vector), body), x)

    # The precision: J.T @ H @ J summed over examples, where H is the Hessian of cross_entropy by the logits.
    jacobian = fn.jacobian(logits)(mean, x)  # (examples, classes, numbers of the head)
    p = logits(mean, x).softmax(1)
    hessian = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    precision = torch.einsum("ncp,ncd,ndq->pq", jacobian, hessian, jacobian) + PRIOR * torch.eye(len(mean))

    # The same matrix without Jacobians, column by column: fn.ggn_vp, which also does for a whole model.
    product = fn.ggn_vp(logits, lambda output: F.cross_entropy(output, moon, reduction="sum"))
    columns = torch.vmap(product, in_dims=(None, 0, None))(mean, torch.eye(len(mean)), x)
    torch.testing.assert_close(columns + PRIOR * torch.eye(len(mean)), precision, rtol=1e-3, atol=1e-3)

    # Sampled heads are an ensemble.
    root = torch.linalg.cholesky(torch.linalg.inv(precision))
    samples = mean + fn.random.normal(fn.random.key(1), (500, len(mean))) @ root.T
    averaged = torch.vmap(logits, in_dims=(0, None))(samples, torch.cat([x, far])).softmax(-1).mean(0)
    before = logits(mean, far).softmax(-1).max()
    print(f"far from all data: {before:.3f} sure before, {averaged[-1].max():.3f} with Laplace")
    print(f"accuracy with Laplace {(averaged[:-1].argmax(1) == moon).float().mean():.1%}")
    assert averaged[-1].max() < before
    assert (averaged[:-1].argmax(1) == moon).float().mean() > 0.95


if __name__ == "__main__":
    main()
