"""Distillation: a small net learns what a large one says.

The teacher's params are an argument whose gradient nobody asks for, so there is nothing to freeze, to detach or to
put into eval mode. Teacher and student may be of any kind: here a module of your own and a net.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import funcnet as fn

TEMPERATURE = 3.0


class Teacher(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide, self.drop, self.head = nn.Linear(64, 256), nn.Dropout(0.3), nn.Linear(256, 10)

    def forward(self, x):
        return self.head(self.drop(F.relu(self.wide(x))))


def train(loss, params, steps):
    optimizer = fn.optim.AdamW(lr=1e-2)
    state = optimizer.init(params)
    for step in range(steps):
        _, grads = fn.value_and_grad(loss)(params, fn.random.fold_in(fn.random.key(0), step))
        params, state = optimizer.step(params, grads, state)
    return params


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, labels = map(torch.from_numpy, load_digits(return_X_y=True))
    images, labels = images.float() / 16, labels.long()
    test_images, test_labels = images[1000:], labels[1000:]
    few_images, few_labels, images = images[:40], labels[:40], images[:1000]  # few have labels

    teacher, teacher_params, _ = fn.from_module(Teacher())
    student = fn.Sequential(fn.Linear(64, 12), fn.ReLU(), fn.Linear(12, 10))
    student_params, _ = student.init(1)

    def accuracy(net, params):
        return (net(params, test_images).argmax(1) == test_labels).float().mean().item()

    def teacher_loss(params, key):
        logits, _ = teacher.apply(params, {}, few_images, train=True, rng=key)
        return F.cross_entropy(logits, few_labels)

    teacher_params = train(teacher_loss, teacher_params, 60)

    def labels_loss(params, key):
        return F.cross_entropy(student(params, few_images), few_labels)

    def distillation_loss(params, key):
        soft = (teacher(teacher_params, images) / TEMPERATURE).softmax(1)  # the mode of a call is eval if nobody says
        guess = (student(params, images) / TEMPERATURE).log_softmax(1)
        return F.kl_div(guess, soft, reduction="batchmean") * TEMPERATURE**2

    alone, taught = train(labels_loss, student_params, 100), train(distillation_loss, student_params, 100)
    print(f"teacher {accuracy(teacher, teacher_params):.1%}")
    print(f"student from {len(few_labels)} labels {accuracy(student, alone):.1%}, ", end="")
    print(f"from the teacher's words on {len(images)} images {accuracy(student, taught):.1%}")
    assert accuracy(student, taught) > accuracy(student, alone)


if __name__ == "__main__":
    main()
