"""``funcnet convert``, ``inspect``, ``diff`` and ``verify``: what they print, and their exit codes."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import funcnet
from funcnet.checkpoint import load, save
from funcnet.cli._app import app
from tests.checkpoint.trees import bits_by_name

RULES = """
[[rule]]
op = "fuse"
sources = ["h.{i}.q", "h.{i}.k"]
target = "h.{i}.qk"
sizes = [4, 2]

[[rule]]
op = "rename"
source = "head"
target = "lm_head.weight"
"""


def run(*arguments, columns=160):
    arguments = [str(argument) for argument in arguments]
    return CliRunner().invoke(app, arguments, env={"COLUMNS": str(columns)}, catch_exceptions=False)


def words(text):
    return " ".join(text.split())


@pytest.fixture
def src(tmp_path):
    torch.manual_seed(0)
    tree = {f"h.{i}.{key}": torch.randn(rows, 3) for i in range(2) for key, rows in (("q", 4), ("k", 2))}
    tree |= {"embed": torch.randn(5, 3), "steps": torch.tensor(3), "epoch": 2}
    tree["head"] = tree["embed"]
    save(tmp_path / "src.safetensors", tree)
    (tmp_path / "rules.toml").write_text(RULES)
    return tmp_path / "src.safetensors"


def test_convert_there_and_back(src, tmp_path):
    done = run("convert", src, tmp_path / "dst.pt", "--rules", tmp_path / "rules.toml")
    assert done.exit_code == 0
    assert "4 tensors, 212 B, written to" in words(done.stdout)
    assert "Proved: each of 52 elements goes to one place and comes back." in words(done.stdout)
    theirs = torch.load(tmp_path / "dst.pt", weights_only=True)
    assert list(theirs) == ["h.0.qk", "h.1.qk", "embed", "steps", "lm_head.weight", "epoch"]
    assert theirs["lm_head.weight"] is theirs["embed"]
    back = run("convert", tmp_path / "dst.pt", tmp_path / "back.npz", "-r", tmp_path / "rules.toml", "--inverse")
    assert back.exit_code == 0
    comparison = run("diff", src, tmp_path / "back.npz")
    assert comparison.exit_code == 0
    assert "7 tensors, every bit the same." in comparison.stdout


def test_convert_shows_the_plan_and_writes_nothing(src, tmp_path):
    before = sorted(os.listdir(tmp_path))
    done = run("convert", src, tmp_path / "dst.pt", "--rules", tmp_path / "rules.toml", "--dry-run")
    assert done.exit_code == 0
    text = words(done.stdout)
    for part in ("h.0.qk [6, 3] float32 72 B join h.0.q, h.0.k", "lm_head.weight tie embed", "would go from"):
        assert part in text
    printed = json.loads(run("convert", src, tmp_path / "x.pt", "--dry-run", "--json").stdout)
    assert printed["done"] is False
    assert printed["bijection"] is True
    assert {tensor["how"] for tensor in printed["tensors"]} == {"copy"}
    assert sorted(os.listdir(tmp_path)) == before


def test_convert_in_place_in_shards_and_a_part_of_it(src, tmp_path):
    before = bits_by_name(load(src))
    assert run("convert", src, src).exit_code == 0
    assert bits_by_name(load(src)) == before
    assert run("convert", src, tmp_path / "shards", "--shard-size", "60", "-s", "h.*", "-s", "!**.k").exit_code == 0
    assert list(load(tmp_path / "shards")) == ["h.0.q", "h.1.q"]
    assert len(load(tmp_path / "shards").files) == 3
    assert run("convert", src, tmp_path / "dcp", "--format", "dcp", "-s", "!0.k", "--part", "h").exit_code == 0
    assert load(tmp_path / "dcp").format == "dcp"
    assert list(load(tmp_path / "dcp")) == ["0.q", "1.q", "1.k"]


def test_casts_are_exact_or_declared(src, tmp_path):
    done = run("convert", src, tmp_path / "dst.pt", "--dtype", "bfloat16")
    assert done.exit_code == 2
    assert "'h.0.q' has values of torch.float32 that torch.bfloat16 cannot hold" in words(done.stderr)
    assert not (tmp_path / "dst.pt").exists()
    done = run("convert", src, tmp_path / "dst.pt", "--dtype", "bfloat16", "--lossy")
    assert done.exit_code == 0
    assert "Proved but for what the rules declare: rounded: " in words(done.stdout)
    widened = run("convert", tmp_path / "dst.pt", tmp_path / "wide.pt", "--dtype", "float32")
    assert widened.exit_code == 0
    assert load(tmp_path / "wide.pt").specs["steps"].dtype is torch.int64
    assert torch.equal(load(tmp_path / "wide.pt")["embed"], load(src)["embed"].bfloat16().float())


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["convert", "nothing.pt", "dst.pt"], "No such file"),
        (["convert", "SRC", "dst.xyz/"], None),
        (["convert", "SRC", "dst.pt", "--rules", "nothing.toml"], "No such file"),
        (["convert", "SRC", "dst.pt", "--dtype", "float31"], "is not a dtype of checkpoints"),
        (["convert", "SRC", "dst.pt", "--shard-size", "1GB"], "shards need a folder"),
        (["convert", "SRC", "dst.pt", "--part", "model"], "has no part 'model'"),
        (["convert", "SRC", "dst", "--shard-size", "9" * 400 + "e9GB"], "is not a size"),
        (["convert", "SRC", "dst.pt", "--select", "embde"], "'embde' matches nothing. Near it: 'embed'"),
        (["convert", "SRC", "dst.pt", "--certificate", "SRC"], "has the name of a checkpoint"),
        (["convert", "SRC", "dst.pt", "--certificate", "dst.pt"], "has the name of a checkpoint"),
        (["convert", "SRC", "dst.pt", "-r", "rules.toml", "--certificate", "rules.toml"], "is another file of this"),
        (["convert", "SRC", "dst.pt", "--certificate", "no/c.json"], "its folder is not there"),
        (["convert", "SRC", "dst.pt", "--certificate", "."], "is a folder"),
        (["inspect", "SRC", "--select", "embde"], "'embde' matches nothing. Near it: 'embed'"),
        (["diff", "SRC", "SRC", "--select", "embde"], "'embde' matches nothing. Near it: 'embed'"),
        (["match", "SRC", "SRC", "--output", "SRC"], "has the name of a checkpoint"),
        (["inspect", "nothing.pt"], "No such file"),
        (["diff", "SRC", "nothing.pt"], "No such file"),
        (["verify", "nothing.json"], "No such file"),
        (["verify", "SRC"], "is no certificate"),
    ],
)
def test_what_cannot_be_done_exits_with_2_and_leaves_nothing(arguments, match, src, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir(tmp_path))
    done = run(*(src if argument == "SRC" else argument for argument in arguments))
    if match is None:
        assert done.exit_code == 0
        return
    assert done.exit_code == 2
    assert done.stdout == ""
    assert match in words(done.stderr)
    assert sorted(os.listdir(tmp_path)) == before


def test_inspect(src):
    text = words(run("inspect", src).stdout)
    for part in (
        "h.0.q [4, 3] float32 48 B",
        "steps [] int64 8 B",
        "head tie to embed",
        "epoch = 2",
        "6 tensors, 1 ties, 52 elements, 212 B, safetensors",
    ):
        assert part in text


def test_inspect_stats_and_json(tmp_path):
    values = torch.tensor([float("nan"), float("inf"), -2.0, 4.0])
    save(tmp_path / "a.pt", {"w": values, "c": torch.ones(2, dtype=torch.complex64), "e": torch.empty(0)})
    printed = json.loads(run("inspect", tmp_path / "a.pt", "--stats", "--json").stdout)
    assert printed["tensors"][0]["stats"] == {"min": -2.0, "max": 4.0, "mean": 1.0, "nan": 1, "inf": 1}
    assert printed["tensors"][1]["stats"]["min"] is None
    assert printed["tensors"][2]["stats"] == {"min": None, "max": None, "mean": None, "nan": 0, "inf": 0}
    assert printed["elements"] == 6
    assert "w [4] float32 16 B -2 4 1 1 1" in words(run("inspect", tmp_path / "a.pt", "--stats").stdout)


def test_diff_says_what_differs_and_exits_with_1(src, tmp_path):
    tree = dict(load(src)) | {"new": torch.ones(1), "steps": torch.tensor(3, dtype=torch.int32)}
    tree["h.0.q"] = tree["h.0.q"] + torch.tensor([0, 0, 0.5])
    tree["h.1.q"] = tree["h.1.q"][:2]
    del tree["h.1.k"]
    save(tmp_path / "other.npz", tree)
    done = run("diff", src, tmp_path / "other.npz")
    assert done.exit_code == 1
    text = words(done.stdout)
    for part in (
        "h.1.k missing only in the first",
        "new new only in the second",
        "h.0.q value largest difference 0.5 in 4 of 12 elements",
        "h.1.q shape [4, 3] against [2, 3]",
        "steps dtype torch.int64 against torch.int32",
        "head tie a tie to 'embed' against stored",
        "6 differences.",
    ):
        assert part in text
    printed = json.loads(run("diff", src, tmp_path / "other.npz", "--json").stdout)
    assert printed["same"] is False
    assert {difference["kind"] for difference in printed["differences"]} == {
        "missing",
        "new",
        "value",
        "shape",
        "dtype",
        "tie",
    }


def test_diff_sees_bits_where_values_are_equal(tmp_path):
    save(tmp_path / "a.pt", {"w": torch.tensor([0.0, float("nan")])})
    save(tmp_path / "b.pt", {"w": torch.tensor([-0.0, float("nan")])})
    printed = json.loads(run("diff", tmp_path / "a.pt", tmp_path / "b.pt", "--json").stdout)
    assert printed["differences"][0]["largest"] == 0
    assert printed["differences"][0]["elements"] == 1
    assert run("diff", tmp_path / "a.pt", tmp_path / "a.pt").exit_code == 0


def test_verify(src, tmp_path):
    dst, certificate = tmp_path / "dst.pt", tmp_path / "c.json"
    rules = ["--rules", tmp_path / "rules.toml", "--certificate", certificate]
    assert run("convert", src, dst, *rules).exit_code == 0
    assert run("verify", certificate).exit_code == 0
    moved = tmp_path / "moved.pt"
    dst.rename(moved)
    assert run("verify", certificate).exit_code == 2
    assert run("verify", certificate, "--target", moved).exit_code == 0
    tree = load(moved).tree() | load(moved).extras
    tree["h"]["0"]["qk"][1, 1] += 1
    save(moved, tree)
    done = run("verify", certificate, "--target", moved, "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout) == {"holds": False, "wrong": ["target: the bytes of 'h.0.qk' are others"]}


def test_a_certificate_that_was_changed_does_not_hold(src, tmp_path):
    certificate = tmp_path / "c.json"
    run("convert", src, tmp_path / "dst.pt", "--rules", tmp_path / "rules.toml", "--certificate", certificate)
    printed = json.loads(certificate.read_text())
    assert {"rules", "proof", "source", "target"} <= set(printed)
    assert set(printed["source"]["tensors"]["h.0.q"]) == {"shape", "dtype", "sha256"}
    for change, match in (
        (lambda c: c["rules"][0].update(sizes=[2, 4]), "do not prove"),
        (lambda c: c["rules"].pop(), "the ties of the plan are others"),
        (lambda c: c["source"]["tensors"]["h.0.q"].update(sha256="0"), "source: the bytes of 'h.0.q' are others"),
        (lambda c: c["target"]["tensors"]["embed"].update(sha256="0"), "target: the bytes of 'embed' are others"),
        (lambda c: c["target"]["aliases"].clear(), "the ties of the target are others"),
        (lambda c: c["target"].update(format="npz"), "the format of the target is pt, expected npz"),
        (lambda c: c["proof"].update(bijection=False), "proof: bijection is True, and the certificate says False"),
        (lambda c: c["proof"].update(lost=["embed"]), "proof: lost is []"),
        (lambda c: c["proof"].update(elements=1), "proof: elements is 52"),
        (lambda c: c["proof"].update(more="trust me"), "proof: more is None"),
        (lambda c: c.update(proof="yes"), "says nothing of a proof"),
    ):
        changed = json.loads(certificate.read_text())
        change(changed)
        (tmp_path / "changed.json").write_text(json.dumps(changed))
        done = run("verify", tmp_path / "changed.json")
        assert done.exit_code == 1
        assert match in words(done.stdout)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(select=5),
        lambda c: c.update(part=[1]),
        lambda c: c.update(certificate=True),
        lambda c: c["source"]["aliases"].update(x=["embed"]),
        lambda c: c["source"].update(path="a\0b"),
        lambda c: c.pop("proof"),
    ],
)
def test_what_is_no_certificate_cannot_be_verified(change, src, tmp_path):
    certificate = tmp_path / "c.json"
    run("convert", src, tmp_path / "dst.pt", "--certificate", certificate)
    changed = json.loads(certificate.read_text())
    change(changed)
    certificate.write_text(json.dumps(changed))
    assert run("verify", certificate).exit_code == 2


def test_a_difference_in_what_only_one_of_two_has_is_a_difference(src, tmp_path):
    save(tmp_path / "other.pt", {"embed": load(src)["embed"]})
    assert run("diff", src, tmp_path / "other.pt", "--select", "h").exit_code == 1


def test_names_cannot_colour_or_move_what_is_printed(tmp_path):
    names = ["\x1b[31mred", "[bold]fc[/bold]", "[/nothing]", "line\nbreak"]
    save(tmp_path / "a.safetensors", {name: torch.ones(2) for name in names})
    save(tmp_path / "b.safetensors", {name: torch.zeros(2) for name in names})
    for arguments in (["inspect"], ["convert", "--dry-run", tmp_path / "c.pt"], ["diff", tmp_path / "b.safetensors"]):
        shown = run(arguments[0], tmp_path / "a.safetensors", *arguments[:0:-1]).stdout
        assert "\x1b" not in shown
        for name in (r"\x1b[31mred", "[bold]fc[/bold]", "[/nothing]", r"line\nbreak"):
            assert name in shown


@pytest.mark.skipif(not hasattr(os, "fork"), reason="has no such signal")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_told_to_end_cleans_up(number, tmp_path):
    save(tmp_path / "a.safetensors", {str(i): torch.ones(1024, 1024) for i in range(30)})
    root = Path(funcnet.__file__).parents[1]
    command = [sys.executable, "-m", "funcnet", "convert", tmp_path / "a.safetensors", tmp_path / "out.npz"]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not list(tmp_path.glob(".out*")):
            time.sleep(0.001)
        process.send_signal(number)
    if process.returncode:  # it may have been done already
        assert process.returncode == 128 + number
        assert os.listdir(tmp_path) == ["a.safetensors"]


def test_objects_that_hold_tensors_are_shown_and_said_to_be_left_where_they_cannot_be_kept(tmp_path):
    torch.save({"model": torch.nn.Linear(2, 1), "args": argparse.Namespace(lr=0.1)}, tmp_path / "a.pt")
    shown = run("inspect", tmp_path / "a.pt").stdout
    assert "model is a torch.nn.modules.linear.Linear, read as its tensors" in shown
    assert "args = <argparse.Namespace lr=0.1>" in shown
    assert "Only the tensors" not in run("convert", tmp_path / "a.pt", tmp_path / "b.pt").stdout
    done = run("convert", tmp_path / "a.pt", tmp_path / "c.safetensors", "--part", "model")
    assert "Only the tensors of what was saved are there, and no torch.nn.modules.linear.Linear." in words(done.stdout)
