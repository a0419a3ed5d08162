"""The page as text: it is complete in itself, shows the numbers of the run, and escapes foreign text."""

import dataclasses
import re
from html.parser import HTMLParser

import pytest

from funcnet.compare import FoundEffect, GradientCheck, NotPossible
from funcnet.report import page

VOID = {"meta", "link", "br", "img", "input", "path", "use", "circle", "rect"}


class Tags(HTMLParser):
    """Collects attributes, and tags that are closed without being open."""

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.unbalanced = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append((tag, self.getpos()))


@pytest.fixture(scope="module")
def text(laboratory):
    return page(laboratory)


def test_it_is_one_well_formed_page(text):
    assert text.startswith("<!doctype html>")
    tags = Tags(text)
    assert tags.unbalanced == []
    assert tags.open == []


def test_it_needs_nothing_from_elsewhere(text):
    attributes = Tags(text).attributes
    away = {(tag, name) for tag, name, value in attributes if re.match("(?i)(https?:|//)", value or "")}
    assert away <= {("svg", "xmlns:xlink"), ("svg", "xmlns")}
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", text)
    assert {name for _, name, _ in Tags(text).attributes if name.startswith("on")} == set()


def test_it_says_what_the_run_found(text, laboratory):
    (study,) = laboratory.studies
    for value in laboratory.machine.values():
        assert value in text
    assert f"<dd>{laboratory.versions['torch']}</dd>" in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<script>alert(1)" not in text
    for capability in study.capabilities:
        assert capability.name in text
    for entry in study.entries:
        assert f'data-path="{entry.path}"' in text
    assert "no time" not in text
    assert text.count('<figure class="panel">') == len(study.curves)
    assert study.curves["step_depth"].forms


def test_foreign_text_is_escaped_everywhere(hostile):
    text = page(hostile)
    assert "<script>document" not in text
    assert "<b onload" not in text
    assert Tags(text).unbalanced == []


def test_a_difference_is_no_small_print(laboratory):
    (study,) = laboratory.studies
    gaps = {**study.largest_difference, "native": {"outputs, eval": 0.25, "gradients": None}}
    changed = dataclasses.replace(laboratory, studies=(dataclasses.replace(study, largest_difference=gaps),))
    text = page(changed)
    assert "The forms are NOT the same" in text
    assert '<td class="no">2.5e-01</td>' in text
    assert "bit for bit: the form changes nothing" not in text


def test_equal_bits_are_claimed_of_no_compiled_code_that_rounds(laboratory, text):
    assert "the form changes nothing in what a model computes." in text
    (study,) = laboratory.studies
    gaps = {**study.largest_difference, "compiled": {"outputs, eval": 3e-7, "gradients": 0.0}}
    rounded = dataclasses.replace(laboratory, studies=(dataclasses.replace(study, largest_difference=gaps),))
    assert "what a model computes, but for compiled code, which differs by up to 3e-07." in page(rounded)


def test_numbers_say_of_how_many_rounds_they_are(text):
    assert re.search(r"Medians of \d+ (to \d+ )?rounds, with the quartiles in brackets", text)


def test_what_could_not_be_had_says_why(laboratory):
    (study,) = laboratory.studies
    curves = {**study.curves, "ensemble": NotPossible("there are no params")}
    less = dataclasses.replace(study, stateless=NotPossible("it branches on <numbers>"), curves=curves, entries=())
    text = page(dataclasses.replace(laboratory, studies=(less,)))
    assert "Cannot be written as one program: it branches on &lt;numbers&gt;." in text
    assert "Not measured: there are no params." in text
    assert "has no params and no buffers" in text


def test_equal_laboratories_give_equal_pages(laboratory, text):
    assert page(laboratory) == text


def test_effects_come_first_with_line_and_cure(laboratory):
    (study,) = laboratory.studies
    effects = (
        FoundEffect("mutates input", "net.py:3", "x += <1>", ("add_ writes x",), ("",), ("eval",), "x = x + 1"),
        FoundEffect("keeps state", "net.py:4", "SEEN.append(x)", ("grows",), ("a.b",), ("training",), "an input"),
    )
    text = page(dataclasses.replace(laboratory, studies=(dataclasses.replace(study, effects=effects),)))
    first = text.index("is no function of its arguments yet, in any form: it keeps state between calls (net.py:4)")
    assert first < text.index('class="stamp')
    assert 'class="effect-list mend"' in text
    table = text[text.index('<table class="effects">') : text.index("Two programs")]
    assert all(part in table for part in ("net.py:3", "x += &lt;1&gt;", "add_ writes x", "x = x + 1", "(eval mode)"))
    assert all(part in table for part in ("net.py:4", "SEEN.append(x)", "a.b", "an input"))


def test_a_model_without_effects_says_so_and_one_that_was_not_looked_at_why(laboratory):
    (study,) = laboratory.studies
    for effects, words in (
        ((), "Nothing, as far as one call in each mode shows."),
        (NotPossible("it <raised>"), "It could not be looked at: it &lt;raised&gt;."),
    ):
        text = page(dataclasses.replace(laboratory, studies=(dataclasses.replace(study, effects=effects),)))
        assert words in text
        assert '<table class="effects">' not in text


def test_the_gradient_is_shown_beside_finite_differences(laboratory, text):
    assert "The gradients of both forms are those of finite differences." in text
    (study,) = laboratory.studies
    wrong = GradientCheck(2.0, 1e-10, 3.0, {"nn.Module": {"channels-last": 2.5}, "funcnet": {"channels-last": 2.0}})
    for gradient, words in (
        (wrong, '<td class="no">5e+09</td><td>channels-last</td>'),
        (NotPossible("it has no <float64>"), "Not compared with finite differences: it has no &lt;float64&gt;."),
    ):
        changed = dataclasses.replace(study, gradient=gradient)
        assert words in page(dataclasses.replace(laboratory, studies=(changed,)))
