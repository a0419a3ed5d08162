"""The doors of the package: public names only, one line of help for each function, and light to import."""

from __future__ import annotations

import builtins
import importlib
import inspect
import pickle
import pkgutil
import re
import subprocess
import sys
from functools import cache

import pytest

import funcnet
import funcnet as fn
from funcnet.cli._app import COMMANDS

PACKAGES = [
    "funcnet",
    *(
        info.name
        for info in pkgutil.walk_packages(funcnet.__path__, "funcnet.")
        if info.ispkg and "._" not in info.name and info.name != "funcnet.cli"
    ),
]


@pytest.fixture(params=PACKAGES)
def package(request):
    return importlib.import_module(request.param)


def python(code: str, *args: str) -> str:
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True).stdout


@cache
def modules_after(code: str) -> frozenset[str]:
    return frozenset(python(f"{code}\nimport sys; print(); print(*sys.modules)").splitlines()[-1].split())


# --- public names ---


def test_every_public_name_is_there_and_documented(package):
    assert package.__doc__
    for name in package.__all__:
        value = getattr(package, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, f"{package.__name__}.{name} has no docstring"
            assert value.__module__.startswith("funcnet"), f"{package.__name__}.{name} is not funcnet's own"


def test_every_public_function_and_class_has_an_example(package):
    values = {name: getattr(package, name) for name in package.__all__}
    described = {name: v.__doc__ for name, v in values.items() if inspect.isclass(v) or inspect.isfunction(v)}
    without = [name for name, text in described.items() if ">>> " not in text]
    assert not without, "the docstring of each needs an example that runs as a doctest"


def test_dir_lists_public_names_only(package):
    names = {name for name in dir(package) if not name.startswith("_")}
    in_star_import = set(package.__all__)
    assert in_star_import <= names
    assert names - in_star_import <= ({"random"} if package is fn else set())


def test_help_has_a_line_for_each_function(package):
    functions = {name for name in package.__all__ if inspect.isfunction(getattr(package, name))}
    lines = package.__doc__.splitlines()
    missing = {name for name in functions if not any(re.match(rf"\W*(:func:`)?{name}\b.* \w", line) for line in lines)}
    assert not missing, f"the docstring of {package.__name__} has no line that starts with one of these"


def test_a_star_import_shadows_nothing_that_hurts():
    names = {}
    exec("from funcnet import *", names)
    assert {*fn.__all__} <= names.keys()
    assert not {*fn.__all__} & vars(builtins).keys()
    # "trace" is a way to follow a program in the standard library, which a file that imports both would name in full.
    assert {*fn.__all__} & sys.stdlib_module_names == {"trace"}


def test_the_table_of_names_is_what_type_checkers_read():
    block = inspect.getsource(fn).partition("if TYPE_CHECKING:")[2].partition("else:")[0]
    imported = set(re.findall(r"import (\w+) as \1$", block, re.MULTILINE))
    assert imported | {*fn.layers.__all__} == {*fn.__all__, "random"}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'funcnet' has no attribute 'Lineear'"):
        fn.Lineear  # noqa: B018


# --- light to import ---

HEAVY = {
    "jinja2",
    "matplotlib",
    "rich",
    "safetensors",
    "sklearn",
    "tensordict",
    "torch._dynamo",
    "torch._inductor",
    "transformers",
    "typer",
}


def test_importing_funcnet_imports_nothing_else():
    added = modules_after("import funcnet") - modules_after("import importlib, typing")
    assert added == {"funcnet"}


def test_the_first_layer_loads_only_the_rooms_that_layers_stand_on():
    added = modules_after("import torch, funcnet; funcnet.Linear") - modules_after("import torch, optree")
    rooms = {name.split(".")[1] for name in added if name.startswith("funcnet.")}
    assert {name for name in rooms if not name.startswith("_")} == {
        "combinators",
        "kernels",
        "core",
        "init",
        "layers",
        "random",
        "ranks",
        "tree",
    }
    assert not {name for name in added if not name.startswith("funcnet")} - {"typing_extensions", "secrets", "hmac"}
    assert len(added) <= 136


def test_what_only_some_need_is_not_imported_for_all():
    assert not HEAVY & modules_after("import funcnet as fn; fn.from_module, fn.trace, fn.effects, fn.checkpoint.load")


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_of_the_command_need_no_torch(option):
    code = f"""
import sys
sys.argv = ["funcnet", "{option}"]
try:
    __import__("funcnet.cli").cli.main()
except SystemExit as end:
    assert not end.code
"""
    loaded = modules_after(code)
    assert "funcnet.cli._app" in loaded
    assert not {"torch", "numpy", "optree"} & loaded


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_the_function_of_each_says(name):
    function = getattr(importlib.import_module(f"funcnet.cli._{name}_command"), f"{name}_command")
    assert " ".join(inspect.getdoc(function).partition("\n\n")[0].split()) == COMMANDS[name]


def test_a_pickled_net_opens_where_nothing_is_loaded_yet():
    data = pickle.dumps(fn.Sequential(fn.Linear(2, 3), fn.ReLU()))
    assert python("import pickle, sys; print(pickle.loads(bytes.fromhex(sys.argv[1])))", data.hex()).startswith(
        "Sequential("
    )
