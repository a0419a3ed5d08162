"""Programs as HTML: the text is unchanged and escaped, and parts link to their rows."""

import html
import inspect
import re

import pytest

from funcnet.compare import _models
from funcnet.report._linked_code import KnownPaths, link_parts
from tests.compare import zoo

KNOWN = KnownPaths(
    {"conv1": "Conv2d", "blocks": "Sequential", "blocks.0": "BatchNorm2d", "head": "Linear"},
    frozenset({"conv1.weight", "conv1.bias", "blocks.0.weight", "blocks.1.weight", "head.weight"}),
    "Stack",
)
ROW_IDS = {"conv1": "r1", "conv1.weight": "r2"}


def links(code):
    """The text of every link, its path, and whether the path is relative."""
    pattern = r'<a class="part"[^>]* data-path="([^"]*)"( data-relative)?[^>]*>(.*?)</a>'
    matches = re.findall(pattern, link_parts(code, KNOWN, ROW_IDS))
    return [(text_of(text), path, bool(relative)) for path, relative, text in matches]


def text_of(markup):
    return html.unescape(re.sub("<[^>]*>", "", str(markup)))


@pytest.mark.parametrize("source", [_models, zoo, zoo.Stack, inspect], ids=lambda source: source.__name__)
def test_nothing_of_a_program_is_lost(source):
    code = inspect.getsource(source)
    assert text_of(link_parts(code, KNOWN, ROW_IDS)) == code.rstrip("\n").rstrip()


def test_text_that_is_no_python_comes_out_as_it_is():
    code = "def f(:\n  <b>&'\n"
    assert text_of(link_parts(code, KNOWN, ROW_IDS)) == code
    assert "<b>" not in link_parts(code, KNOWN, ROW_IDS)


def test_what_a_class_says_of_its_parts_is_linked():
    code = "class Stack:\n    def forward(self, x):\n        return self.head(self.conv1.weight + self.other(x.self))\n"
    assert links(code) == [("self.head", "head", False), ("self.conv1.weight", "conv1.weight", False)]


def test_what_a_function_says_of_its_params_is_linked():
    code = 'def forward(params, x):\n    return f(params["conv1"]["weight"], params["blocks"][i], params["no"])\n'
    assert links(code) == [
        ('params["conv1"]["weight"]', "conv1.weight", False),
        ('params["blocks"]', "blocks", False),
    ]


def test_a_helper_speaks_of_any_block():
    block, forward = 'def block(params):\n    params["weight"]\n', 'def forward(params):\n    params["conv1"]\n'
    code = f"{block}\n\n{forward}"
    assert links(code) == [('params["weight"]', "weight", True), ('params["conv1"]', "conv1", False)]


def test_layers_in_a_row_have_their_numbers():
    code = "class Stack:\n    def __init__(self):\n        self.blocks = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())\n"
    assert links(code) == [("self.blocks", "blocks", False), ("nn.BatchNorm2d", "blocks.0", False)]


def test_parts_of_a_composed_net_are_linked():
    code = "@fn.compose(conv1=fn.Conv2d(1, 2, 3), size=3)\ndef stack(p, x):\n    return p.conv1(x)\n"
    assert links(code) == [("conv1", "conv1", False), ("p.conv1", "conv1", False)]


def test_a_part_without_a_row_can_have_the_focus_all_the_same():
    (with_row,) = re.findall("<a [^>]*>", link_parts("self.conv1", KNOWN, ROW_IDS))
    (without,) = re.findall("<a [^>]*>", link_parts("self.head", KNOWN, ROW_IDS))
    assert 'href="#r1"' in with_row
    assert 'tabindex="0"' in without and "href" not in without


def test_other_characters_do_not_shift_links():
    assert links('class Stack:\n    def f(self):\n        self.blocks = é("ü", nn.Sequential(1)), self.head\n') == [
        ("self.blocks", "blocks", False),
        ("self.head", "head", False),
    ]
