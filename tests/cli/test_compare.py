import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

import funcnet
from funcnet import cli
from funcnet.cli._app import app
from funcnet.compare import _training as training_file
from funcnet.compare import _training_steps as steps_file
from funcnet.tree import map

ANSI = "\x1b["
ZOO = "tests.compare.zoo"
QUICK = ["compare", "--model", "batchnorm", "--steps", "2"]


@pytest.fixture(autouse=True)
def _little_time(monkeypatch):
    """A hundredth of a second for each thing timed, and the current folder left out of sys.path again."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    for name in ("compare_articles", "compare_module"):
        function = getattr(funcnet.compare, name)
        monkeypatch.setattr(
            f"funcnet.cli._compare_command.{name}", lambda *a, f=function, **k: f(*a, **{**k, "budget": 0.01})
        )
    quick = partial(funcnet.compare.study, budget=0.001, compiling=0.0)
    monkeypatch.setattr("funcnet.cli._compare_command.study", quick)


def run(*arguments, columns=120):
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": str(columns)}, catch_exceptions=False)


def python(*arguments, cwd=None):
    """Another Python that finds this funcnet wherever it runs."""
    environment = {**os.environ, "PYTHONPATH": str(Path(funcnet.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def words(text):
    return " ".join(text.split())


def perturb(monkeypatch):
    def perturbed(*args):
        (params, buffers, optimizer_state), grads, output = steps_file.function_step(*args)
        return (map(lambda leaf: leaf + 0.5, params), buffers, optimizer_state), grads, output

    monkeypatch.setattr(training_file, "function_step", perturbed)


def test_the_report_of_the_training():
    result = run(*QUICK)
    assert result.exit_code == 0
    assert result.stderr == ""
    text = words(result.stdout)
    for part in (
        "funcnet compare: one model, stateful and stateless",
        "class NormedModel(nn.Module):",
        "def normed_model(p, x):",
        "def module_step(module, optimizer, x, labels):",
        "def function_step(net, state, x, labels, seed):",
        "torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, batch)",
        "outputs 0 gradients 0 buffers 0 weights 0",
        "Every difference is exactly 0",
    ):
        assert part in text


def test_a_difference_is_shown_and_fails(monkeypatch):
    perturb(monkeypatch)
    result = run(*QUICK)
    assert result.exit_code == 1
    text = words(result.stdout)
    assert "The two forms are NOT the same. BatchNorm, Dropout: outputs by" in text
    assert "weights by" in text
    assert "exactly 0" not in text


def test_json_of_the_training_is_all_there_is_on_stdout():
    result = run(*QUICK, "--json")
    assert result.exit_code == 0
    assert result.stderr == ""
    printed = json.loads(result.stdout)
    assert {"versions", "seed", "steps", "batch", "images", "training_step", "models", "identical"} <= set(printed)
    (model,) = printed["models"]
    assert set(model) == {
        "name",
        "title",
        "parameters",
        "programs",
        "largest_difference",
        "forward_seconds",
        "step_seconds",
        "peak_bytes",
        "per_sample",
        "effects",
        "gradient",
        "missing_modes",
        "accuracy",
        "identical",
        "passes",
    }
    assert model["largest_difference"] == {"outputs": 0, "gradients": 0, "buffers": 0, "weights": 0}
    assert set(model["step_seconds"]) == {"stateful", "stateless", "ratio"}
    assert {"line", "batch", "speed_up", "largest_difference", "agrees"} <= set(model["per_sample"])
    assert printed["steps"] == 2
    assert printed["identical"] is True


def test_json_of_a_difference_fails_too(monkeypatch):
    perturb(monkeypatch)
    result = run(*QUICK, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["models"][0]["largest_difference"]["weights"] >= 0.5


def test_the_report_of_a_module():
    result = run("compare", f"{ZOO}:Mixed(p=0.3)", "--input", "f32[4,3,8,8]")
    assert result.exit_code == 0
    text = words(result.stdout)
    for part in (
        "class Mixed(nn.Module):",
        "module = Mixed(p=0.3)",
        "net, params, buffers = fn.from_module(module)",
        "(fn.Wrapped): Mixed.",
        "outputs in eval mode 0 outputs in training mode 0 gradients 0 new buffers 0",
        "Every difference is exactly 0: fn.from_module keeps what Mixed computes",
    ):
        assert part in text


def test_what_cannot_be_measured_is_said():
    text = words(run("compare", f"{ZOO}:Branches", "-i", "f32[3,4]").stdout)
    assert "Gradients of single samples by vmap: not here, as it branches on data at tests/compare/zoo.py:" in text


def test_effects_stand_before_the_programs_and_in_the_conclusion():
    text = words(run("compare", f"{ZOO}:Careless", "-i", "f32[3,4]").stdout)
    effects = text[
        text.index("What a call does besides computing its output") : text.index("class Careless(nn.Module)")
    ]
    for kind, code in (("mutates input", "x += 1"), ("keeps state", "HISTORY.append("), ("branches on data", "if h.")):
        assert re.search(rf"{kind} tests/compare/zoo.py:\d+ .*{re.escape(code)}", effects)
    assert "instead: x = x + 1 for x += 1" in effects
    conclusion = text[text.index("Careless is no function of its arguments yet, in any form") :]
    assert "branches on data" in conclusion
    assert "Use the net where you want" not in conclusion


def test_a_model_without_effects_is_said_to_have_none():
    text = words(run("compare", "torch.nn:Linear(3, 4)", "-i", "f32[2,3]").stdout)
    assert "A call does nothing besides computing its output." in text
    assert "Use the net where you want to transform it" in text


def test_the_gradient_stands_beside_finite_differences():
    text = words(run("compare", f"{ZOO}:Scale", "-i", "f32[3,4]").stdout)
    assert "Derivative in one direction, float64 nn.Module funcnet" in text
    assert re.search(r"by backward (\S+) \1 by finite differences (\S+) \2 error, in units of rounding", text)
    assert "The gradients of both forms are those of finite differences." in text


def test_a_wrong_gradient_of_the_module_is_in_the_conclusion():
    text = words(run("compare", f"{ZOO}:Attends", "-i", "f32[1,4,5,5]").stdout)
    assert text.count("The gradient of the module is WRONG, and that of the net is right") == 2
    assert "please report it" not in text


def test_many_effects_of_a_kind_are_shortened(monkeypatch):
    monkeypatch.setattr("funcnet.cli._effects_list.MOST_OF_A_KIND", 1)
    text = words(run("compare", f"{ZOO}:Careless", "-i", "f32[3,4]").stdout)
    assert "and in 1 more lines, all in --json" in text


def test_json_of_a_module():
    result = run("compare", f"{ZOO}:bert", "--input", "input_ids=int64[2,8]<50", "--json", "--seed", "5")
    assert result.exit_code == 0
    printed = json.loads(result.stdout)
    assert printed["name"] == f"{ZOO}:bert"
    assert printed["inputs"] == ["input_ids=int64[2,8]<50"]
    assert printed["seed"] == 5
    assert set(printed["largest_difference"].values()) == {0.0}
    assert {"parts", "notes", "programs", "forward_seconds", "step_seconds", "peak_bytes", "per_sample"} <= set(printed)


def test_a_module_that_prints_does_not_spoil_the_json(tmp_path, monkeypatch):
    (tmp_path / "talks.py").write_text("from torch import nn\nprint('hello')\nfc = nn.Linear(2, 2)\n")
    monkeypatch.chdir(tmp_path)
    result = run("compare", "talks:fc", "-i", "f32[3,2]", "--json")
    assert json.loads(result.stdout)["title"] == "Linear"
    assert result.stderr == "hello\n"


@pytest.mark.parametrize("columns", [60, 80, 100, 120, 160])
def test_reports_fit_the_terminal_and_have_no_colours_in_a_pipe(columns):
    for arguments in (QUICK, ["compare", f"{ZOO}:Mixed", "-i", "f32[4,3,8,8]"]):
        text = run(*arguments, columns=columns).stdout
        assert ANSI not in text
        assert max(map(len, text.splitlines())) <= columns


def test_programs_stand_beside_each_other_where_there_is_room():
    def beside(columns):
        lines = run(*QUICK, columns=columns).stdout.splitlines()
        return any("class NormedModel" in line and "@fn.compose(" in line for line in lines)

    assert beside(100)
    assert not beside(60)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["torch.nn.Linear(3,4)"], 'Did you mean "torch.nn:Linear(3,4)"?'),
        (["torch.nn:Linar(3,4)", "-i", "f32[2,3]"], "Did you mean 'Linear'"),
        (["torch.nn:Linear(3,4)", "-i", "flot32[2,3]"], "Did you mean 'float32'?"),
        (["torch.nn:Linear(3,4)", "-i", "f32[2,5]"], "mat1 and mat2 shapes cannot be multiplied (2x5 and 3x4)"),
        (["torch.nn:Linear(3,4)"], "needs inputs to be called with"),
        (["nosuch:Net", "-i", "f32[2]"], "there is no module 'nosuch'"),
        ([f"{ZOO}:broken", "-i", "f32[2]"], "weights not found in any folder"),
        ([f"{ZOO}:forty_two", "-i", "f32[2]"], "something of type int, not an nn.Module"),
        (["torch.nn:Linear(3,4)", "-i", "f32[2,3]", "--steps", "3"], "--model and --steps are for the training"),
        (["--input", "f32[2,3]"], "--input needs a TARGET"),
        (["--model", "cnov"], "Did you mean 'conv'?"),
        (["--steps", "0"], "a training takes at least 1"),
    ],
)
def test_errors_are_one_paragraph_and_exit_with_2(arguments, message):
    result = run("compare", *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.startswith("funcnet compare: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr


def test_brackets_in_an_error_are_kept():
    assert "'f32[a]'" in run("compare", "torch.nn:ReLU", "-i", "f32[a]").stderr


def test_help_and_version():
    assert "--input" in run("compare", "--help").stdout
    assert "compare" in run("--help").stdout
    assert run("--version").stdout == f"funcnet {funcnet.__version__}\n"


def test_without_the_extra_the_command_says_how_to_install_it(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("funcnet.cli.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r'funcnet: the command needs typer, .* pip install "funcnet\[cli\]"\n', err)


def test_without_scikit_learn_the_training_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    result = run("compare")
    assert result.exit_code == 2
    assert 'pip install "funcnet[cli]"' in result.stderr


def test_the_module_runs_as_a_command(tmp_path):
    (tmp_path / "mine.py").write_text("from torch import nn\nfc = nn.Linear(2, 2)\n")
    done = python("-m", "funcnet", "compare", "mine:fc", "--input", "f32[2]", "--input", "f32[2]", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "'mine:fc' cannot be compared in either mode: the module raised TypeError" in done.stderr


def test_importing_funcnet_imports_neither_the_comparison_nor_its_tools():
    code = """
import sys
import funcnet
assert not {"funcnet.compare", "funcnet.cli"} & set(sys.modules)
import funcnet.compare
assert not {"typer", "rich", "sklearn", "matplotlib"} & set(sys.modules)
"""
    done = python("-c", code)
    assert (done.returncode, done.stderr) == (0, "")


def test_of_what_a_module_prints_the_first_lines_are_shown(tmp_path, monkeypatch):
    lines = ("from torch import nn", "class Talks(nn.Linear):", "    def forward(self, x):", "        print('hello')")
    (tmp_path / "chatters.py").write_text("\n".join((*lines, "        return super().forward(x)", "")))
    monkeypatch.chdir(tmp_path)
    result = run("compare", "chatters:Talks(2, 2)", "-i", "f32[3,2]", "--json")
    assert json.loads(result.stdout)["title"] == "Talks"
    assert result.stderr.count("hello\n") == 20
    assert "What the model prints from here on is left out." in result.stderr


# --- the page ---


def test_a_report_is_one_file_and_what_is_printed_stays(tmp_path):
    file = tmp_path / "deep" / "out.html"
    result = run("compare", f"{ZOO}:Scale", "-i", "f32[3,4]", "--report", str(file))
    assert result.exit_code == 0
    assert "Every difference is exactly 0" in words(result.stdout)
    assert "The page is in" in words(result.stderr)
    text = file.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "<title>Scale, stateful and stateless</title>" in text
    assert 'data-path="scale"' in text


def test_a_report_of_a_training_and_its_json(tmp_path):
    file = tmp_path / "out.html"
    result = run(*QUICK, "--report", str(file), "--json")
    assert result.exit_code == 0
    printed = json.loads(result.stdout)
    assert printed["comparison"]["models"][0]["name"] == "batchnorm"
    assert printed["studies"][0]["largest_difference"]["traced"]["gradients"] == 0
    assert "over 2 steps of training" in file.read_text(encoding="utf-8")


def test_a_report_that_cannot_be_written_says_so_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("funcnet.cli._compare_command.compare_module", lambda *a, **k: pytest.fail("it was measured"))
    (tmp_path / "file").write_text("")
    result = run("compare", "torch.nn:ReLU", "-i", "f32[2]", "--report", str(tmp_path / "file" / "out.html"))
    assert result.exit_code == 2
    assert "the page cannot be written to" in words(result.stderr)


def test_a_comparison_that_fails_leaves_no_empty_page_and_an_old_one_as_it_is(tmp_path):
    new, old = tmp_path / "new.html", tmp_path / "old.html"
    old.write_text("a page of yesterday")
    for file in (new, old):
        assert run("compare", "torch.nn:Linear(3, 4)", "-i", "f32[2,5]", "--report", str(file)).exit_code == 2
    assert not new.exists()
    assert old.read_text() == "a page of yesterday"


def test_without_matplotlib_a_report_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("compare", "torch.nn:ReLU", "-i", "f32[2]", "--report", str(tmp_path / "out.html"))
    assert result.exit_code == 2
    assert 'pip install "funcnet[cli]"' in words(result.stderr)
