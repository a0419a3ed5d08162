"""Target networks: Q-learning against slowly moving params.

A target network is no second module to copy into: it is the params of some steps ago, or a moving average of them,
given to the same net. Here an agent learns to walk along a corridor to the exit on the right.
"""

import torch
import torch.nn.functional as F

import funcnet as fn

PLACES, DISCOUNT = 8, 0.9


def walk(place, action):
    """Where one step to the left (0) or right (1) leads, the reward, and whether that was the exit."""
    place = (place + 2 * action - 1).clamp(min=0)
    is_exit = place == PLACES
    return place.clamp(max=PLACES - 1), is_exit.float(), is_exit


def main() -> None:
    torch.set_num_threads(1)
    net = fn.Sequential(fn.Linear(PLACES, 32), fn.ReLU(), fn.Linear(32, 2))
    params, _ = net.init(0)
    optimizer, average = fn.optim.Adam(lr=5e-3), fn.optim.EMA(0.9)
    state, target = optimizer.init(params), average.init(params)

    def values(params, place):
        return net(params, F.one_hot(place, PLACES).float())

    def loss(params, target_params, place, action):
        new_place, reward, is_exit = walk(place, action)
        # Double Q-learning: the params choose the next action, those of the target say what it is worth. The gradient
        # is taken by the first argument alone, so there is nothing to detach.
        choice = values(params, new_place).argmax(1, keepdim=True)
        worth = values(target_params, new_place).gather(1, choice)[:, 0]
        expected = reward + DISCOUNT * torch.where(is_exit, 0, worth)
        return F.mse_loss(values(params, place).gather(1, action[:, None])[:, 0], expected)

    for step in range(400):
        places, actions = fn.random.split(fn.random.fold_in(fn.random.key(1), step))
        place = fn.random.uniform(places, (32,)).mul(PLACES).long()
        action = fn.random.bernoulli(actions, (32,), 0.5).long()
        value, grads = fn.value_and_grad(loss)(params, target["params"], place, action)
        params, state = optimizer.step(params, grads, state)
        target = average.update(target, params)
        if step % 100 == 0:
            print(f"step {step:>3}: loss {value:.4f}")

    learned = values(params, torch.arange(PLACES)).detach()
    exact = DISCOUNT ** torch.arange(PLACES - 1, -1, -1.0)
    print("worth of a step to the right:", *(f"{worth:.2f}" for worth in learned[:, 1]))
    print("                       exact:", *(f"{worth:.2f}" for worth in exact))
    assert torch.all(learned[:, 1] > learned[:, 0])
    torch.testing.assert_close(learned[:, 1], exact, rtol=0, atol=0.1)


if __name__ == "__main__":
    main()
