"""``funcnet effects``, ``summary`` and ``trace``: what they print, and their exit codes."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from funcnet.cli._app import app

NORM = ("torch.nn:BatchNorm1d(3)", "--input", "float32[4,3]")
LINEAR = ("torch.nn:Linear(3, 4)", "--input", "float32[4,3]")


def run(*args):
    return CliRunner().invoke(app, args)


def test_effects_prints_what_a_call_does():
    shown = run("effects", *NORM, "--train")
    assert shown.exit_code == 0
    assert "writes buffer" in shown.stdout and "mixes examples" in shown.stdout and "typer" not in shown.stdout
    assert run("effects", *NORM).stdout.strip() == "no effects"


def test_effects_checks_for_a_script():
    assert run("effects", *NORM, "--check").exit_code == 0
    assert run("effects", *NORM, "--train", "--check").exit_code == 1


def test_effects_as_json():
    report = json.loads(run("effects", *NORM, "--train", "--json").stdout)
    assert [effect["kind"] for effect in report["effects"]] == ["writes buffer", "mixes examples"]
    assert report["notes"] == []


def test_summary_needs_no_input():
    table = json.loads(run("summary", LINEAR[0], "--json").stdout)
    assert table == {
        "rows": [{"path": "", "type": "Linear", "output": "", "parameters": 16, "bytes": 64}],
        "parameters": 16,
        "bytes": 64,
    }
    assert "(4, 4)" in run("summary", *LINEAR).stdout


def test_trace_prints_the_code():
    assert "F.linear(input" in run("trace", *LINEAR).stdout
    assert run("trace", "torch.nn:Dropout()", *LINEAR[1:], "--both").stdout.count("def forward(") == 2


@pytest.mark.parametrize("command", ["effects", "summary", "trace"])
def test_they_write_a_file(tmp_path, command):
    shown = run(command, *LINEAR, "-o", str(tmp_path / "out.txt"))
    assert (shown.exit_code, shown.stdout) == (0, "")
    assert (tmp_path / "out.txt").read_text().endswith("\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["effects", LINEAR[0]], "needs an input"),
        (["trace", LINEAR[0]], "needs an input"),
        (["effects", "torch.nn:Nope(3)", "-i", "float32[2]"], "has no 'Nope'"),
        (["effects", LINEAR[0], "-i", "float32[2,5]"], "cannot be multiplied"),
        (["summary", LINEAR[0], "-i", "float32[2,5]"], "expected input (*, 3)"),
    ],
)
def test_they_say_what_is_wrong(args, message):
    shown = run(*args)
    assert shown.exit_code == 2
    assert message in shown.stderr
