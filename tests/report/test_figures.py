"""Figures: colours of the page, real text, words for those who do not see them, and honest gaps."""

import re
from xml.etree import ElementTree

import pytest

from funcnet.compare import Curve, NotPossible, Spread
from funcnet.compare.internals import FORM_NAMES
from funcnet.report._figures import describe_curve, draw_curve
from funcnet.report._spread_text import list_missing


def curve(at=(2, 16, 64), **gaps):
    forms = {
        form: tuple(gaps.get(form) or Spread(0.001 * size * (index + 1), 0.0009 * size, 0.003 * size, 9) for size in at)
        for index, form in enumerate(FORM_NAMES)
    }
    return Curve("Forward", "a forward", "batch size", "seconds", at, forms)


@pytest.mark.parametrize("at", [(2, 16, 64), (2,)], ids=["lines", "dots"])
def test_a_figure_is_svg_that_takes_its_colours_from_the_page(at):
    text = str(draw_curve(curve(at), "a"))
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg")
    assert {f"var(--form-{index})" for index in range(5)} <= set(re.findall(r"var\(--form-\d\)", text))
    assert "currentColor" in text
    assert not re.findall(r"#0[0-9a-f]{5}\b", text)
    assert "DejaVu" not in text
    words = {element.text for element in root.iter() if element.tag.endswith("text")}
    assert ({"2", "16", "64", "batch size", "ms"} if len(at) > 1 else {*FORM_NAMES, "ms"}) <= words


def test_ids_of_two_figures_do_not_meet():
    def ids(salt):
        return set(re.findall(r'\bid="([^"]*)"', draw_curve(curve(), salt)))

    assert ids("a")
    assert not ids("a") & ids("b")


def test_a_figure_can_be_read_aloud():
    text = describe_curve(curve(traced=NotPossible("it branches")))
    assert "nn.Module: 2 ms (1.8 to 6) at 2, 64 ms (57.6 to 192) at 64" in text
    assert "traced: not measured" in text
    assert f'role="img" aria-label="{text}"' in draw_curve(curve(traced=NotPossible("it branches")), "a")


def test_what_is_missing_says_where_and_why():
    complete = curve(compiled=NotPossible("there is no compiler"))
    assert list_missing(complete) == ["compiled: not measured, as there is no compiler."]
    values = (*complete.forms["native"][:2], NotPossible("it is too large"))
    partly = Curve("F", "f", "batch", "seconds", complete.at, {"native": values})
    assert list_missing(partly) == ["native at 64: not measured, as it is too large."]


def test_foreign_text_in_a_figure_is_escaped():
    text = draw_curve(Curve("F", "<b>", 'a"x', "seconds", (1, 2), curve((1, 2)).forms), "a")
    assert "<b>" not in text
    ElementTree.fromstring(text)
