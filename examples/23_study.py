"""Study a model: both programs, side by side.

What is the difference between the two styles, on a model of your own? fn.source writes a module down as the functions
that it amounts to: only F over params, buffers returned, dice as an argument, equal blocks written once. It is not an
illustration but a program: it runs by itself and gives the same bits. So read it, change a line, and see. From a shell:

    funcnet source "my_models:Classifier()" --input "float32[16,8]" --train
    funcnet compare "my_models:Classifier()" --input "float32[16,8]" --report study.html
"""

import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn


# Stateful: a module as anybody would write it.
class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, width)

    def forward(self, x):
        return x + F.gelu(self.fc(self.norm(x)))


class Classifier(nn.Module):
    def __init__(self, depth=12):
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.blocks = nn.ModuleList(Block(32) for _ in range(depth))
        self.bn = nn.BatchNorm1d(32)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        h = self.embed(x)
        for block in self.blocks:
            h = block(h)
        return self.head(self.drop(F.relu(self.bn(h))))


def program(text):
    names = {}
    exec(compile(text, "<source>", "exec"), names)
    return names


def main() -> None:
    torch.set_num_threads(1)  # matrices this small are slower on two
    x = fn.random.normal(fn.random.key(0), (16, 8))
    labels = torch.arange(16) % 3
    torch.manual_seed(0)
    module = Classifier()
    _, params, buffers = fn.from_module(module)

    # Stateless: the same model as text.
    text = fn.source(module, x, train=True)
    print(text)
    forward = program(text)["forward"]

    # The bits of the module, in training: the output, what BatchNorm wrote, and every gradient.
    def loss(params):
        y, new_buffers = forward(params, buffers, x, rng=7)
        return F.cross_entropy(y, labels), (y, new_buffers)

    (_, (y, new_buffers)), grads = fn.value_and_grad(loss, has_aux=True)(params)
    torch.manual_seed(7)
    y_module = module.train()(x)
    F.cross_entropy(y_module, labels).backward()
    assert torch.equal(y, y_module)
    for path, buffer in fn.tree.flatten(new_buffers).items():
        assert torch.equal(buffer, module.get_buffer(path))
    for path, grad in fn.tree.flatten(grads).items():
        assert torch.equal(grad, module.get_parameter(path).grad)
    print(f"# the same output, {len(fn.tree.paths(new_buffers))} new buffers and {len(fn.tree.paths(grads))} gradients")

    # It is yours: change a line and compare. What are the skip connections good for, in a model this deep?
    assert "h = x + F.gelu(h)" in text
    without = program(text.replace("h = x + F.gelu(h)", "h = F.gelu(h)"))["forward"]

    def learned(forward, steps=40):
        """The loss on the way, from the same first weights and with the same dropout."""
        state, stats, losses = params, buffers, []
        for step in range(steps):

            def loss(params, stats=stats, step=step):
                y, stats = forward(params, stats, x, rng=fn.random.key(step))
                return F.cross_entropy(y, labels), stats

            (value, stats), grads = fn.value_and_grad(loss, has_aux=True)(state)
            state = fn.tree.map(lambda w, g: w - 0.1 * g, state, grads)
            losses.append(value.item())
        return losses

    print("\nstep    with skips               without")
    curves = learned(forward), learned(without)
    for step, (left, right) in enumerate(zip(*curves, strict=True)):
        if step % 5 == 0:
            print(f"{step:>4}    {left:.3f} {'*' * int(12 * left):<18} {right:.3f} {'*' * int(12 * right)}")
    assert curves[0][-1] < curves[1][-1]

    # The same in the other style: classes of stock layers. It has the keys of the model, so it takes its weights.
    text = fn.source(module, x, style="stateful")
    print("\n" + text)
    twin = program(text)["Classifier"]().eval()
    twin.load_state_dict(module.state_dict())
    assert torch.equal(twin(x), module.eval()(x))


if __name__ == "__main__":
    main()
