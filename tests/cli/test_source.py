"""``funcnet source``: prints or writes a program, and says what is wrong in one line."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from funcnet.cli._app import app
from tests.program.test_source import forward_of


def run(*args):
    return CliRunner().invoke(app, ["source", *args])


def test_it_prints_the_program():
    done = run("torch.nn:Linear(3, 4)", "--input", "float32[2,3]")
    assert done.exit_code == 0
    torch.manual_seed(0)
    module = nn.Linear(3, 4)
    x = torch.ones(5, 3)
    output, _ = forward_of(done.stdout)(dict(module.named_parameters()), {}, x)
    assert torch.equal(output, module(x))


@pytest.mark.parametrize(("options", "line"), [(["--train"], "rng=rng("), (["--style", "stateful"], "(nn.Module):")])
def test_it_writes_a_file(tmp_path, options, line):
    done = run(
        "torch.nn:TransformerEncoderLayer(8, 2)", "-i", "float32[4,3,8]", "-o", str(tmp_path / "out.py"), *options
    )
    assert done.exit_code == 0 and done.stdout == ""
    assert line in (tmp_path / "out.py").read_text()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["torch.nn:Linear(3, 4)"], "needs an input"),
        (["torch.nn:Nope(3)", "-i", "float32[2]"], "has no 'Nope'"),
        (["torch.nn:Linear(3, 4)", "-i", "float32[2,3]", "--style", "other"], "style is"),
    ],
)
def test_it_says_what_is_wrong(args, message):
    done = run(*args)
    assert done.exit_code == 2
    assert message in done.stderr
