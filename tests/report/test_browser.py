"""The page in a real browser: it fits, it makes no requests, its links light up, and everyone can read it."""

import itertools
import json

import pytest

from funcnet.report import page
from tests.report.browser import LOW_CONTRAST, OVERLAPS, needs_chromium, show, start

pytestmark = needs_chromium
pytest.importorskip("selenium", reason="needs selenium")
WIDTHS = (1280, 390)


@pytest.fixture(scope="module")
def driver():
    driver = start()
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def file(laboratory, tmp_path_factory):
    file = tmp_path_factory.mktemp("report") / "out.html"
    file.write_text(page(laboratory), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def hostile_file(hostile, tmp_path_factory):
    file = tmp_path_factory.mktemp("report") / "hostile.html"
    file.write_text(page(hostile), encoding="utf-8")
    return file


def lit(driver):
    """The elements that are lit: tag and path of each."""
    script = "return [...document.querySelectorAll('.lit')].map((e) => `${e.tagName} ${e.dataset.path}`)"
    return set(driver.execute_script(script))


@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_without_sideways_scrolling_and_nothing_overlaps(driver, file, width):
    show(driver, file, width)
    for opened in (False, True):
        driver.execute_script(f"document.querySelectorAll('details').forEach((e) => e.open = {json.dumps(opened)})")
        scroll, inner = driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert scroll <= inner == width
        assert driver.execute_script(OVERLAPS) == []


def test_the_checks_see_what_they_look_for(driver, file):
    show(driver, file, 390)
    driver.execute_script("document.querySelector('.stamp').style.marginTop = '-3rem'")
    driver.execute_script("document.querySelector('.lead').style.whiteSpace = 'nowrap'")
    driver.execute_script("document.querySelector('.kind').style.color = '#aaa'")
    problems = driver.execute_script(OVERLAPS)
    assert any("P.stamp" in line and "|" in line for line in problems)
    assert any(line.startswith("leaves its box: P.lead") for line in problems)
    assert [line for line in driver.execute_script(LOW_CONTRAST) if "funcnet compare" in line]


@pytest.mark.parametrize("width", WIDTHS)
def test_hostile_text_is_shown_and_nothing_of_it_runs(driver, hostile_file, width):
    show(driver, hostile_file, width)
    assert driver.title.startswith("Title </code><script>document.title='taken'</script>")
    scroll, inner = driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert scroll <= inner
    assert driver.execute_script("return document.querySelectorAll('script').length") == 1


def test_nothing_is_asked_of_a_network_and_the_console_is_silent(driver, file):
    for kind in ("performance", "browser"):
        driver.get_log(kind)
    show(driver, file, 1280)
    point = "(e) => e.dispatchEvent(new MouseEvent('mouseover', {bubbles: true}))"
    driver.execute_script(f"document.querySelectorAll('.study [data-path]').forEach({point})")
    assert driver.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("file://", "data:"))] == []
    assert [url for url in asked if url.startswith("file://")] in ([], [file.as_uri()])


def test_pointing_at_a_part_lights_its_places_and_rows(driver, file):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    show(driver, file, 1280)
    stateful, stateless = driver.find_elements(By.CSS_SELECTOR, ".programs .program")
    part = next(e for e in stateful.find_elements(By.CSS_SELECTOR, "a.part") if e.text == "self.conv1")
    ActionChains(driver).move_to_element(part).perform()
    assert {"A conv1", "A conv1.weight", "A conv1.bias", "TR conv1", "TR conv1.weight", "TR conv1.bias"} <= lit(driver)
    assert not any("head" in path or "blocks" in path for path in lit(driver))
    shown = [e.text for e in stateless.find_elements(By.CSS_SELECTOR, ".lit")]
    assert 'params["conv1"]["weight"]' in shown
    ActionChains(driver).move_to_element(driver.find_element(By.TAG_NAME, "h1")).perform()
    assert lit(driver) == set()


def test_a_part_within_repeated_blocks_lights_with_each_of_them(driver, file):
    from selenium.webdriver.common.by import By

    show(driver, file, 1280)
    link = driver.find_element(By.CSS_SELECTOR, "a.part[data-path='head.weight']")
    driver.execute_script("arguments[0].dataset.path = 'weight'; arguments[0].dataset.relative = ''", link)
    for path, fits in (("conv1", True), ("blocks", True), ("blocks.0.weight", True), ("blocks.0.bias", False)):
        row = driver.find_element(By.CSS_SELECTOR, f"button[data-path='{path}']")
        driver.execute_script("arguments[0].focus()", row)
        assert ("lit" in link.get_attribute("class")) == fits, path
    driver.execute_script("arguments[0].focus()", link)
    assert {"TR conv1.weight", "TR blocks.1.weight", "TR head.weight", "A conv1"} <= lit(driver)
    assert "TR conv1.bias" not in lit(driver)


def test_the_keyboard_does_what_pointing_does_and_it_is_said(driver, file):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    show(driver, file, 1280)
    row = driver.find_element(By.CSS_SELECTOR, "button[data-path='head.weight']")
    driver.execute_script("arguments[0].focus()", row)
    assert {"TR head.weight", "TR head", "A head", "A head.weight"} <= lit(driver)
    assert not any("conv1" in path or path.endswith("head.bias") for path in lit(driver))
    spoken = driver.find_element(By.ID, "spoken").get_attribute("textContent")
    assert spoken.startswith("head.weight: ") and "rows in the tree" in spoken
    row.send_keys(Keys.ESCAPE)
    assert lit(driver) == set()
    part = next(e for e in driver.find_elements(By.CSS_SELECTOR, "a.part") if e.text == "self.head")
    driver.execute_script("arguments[0].focus()", part)
    part.send_keys(Keys.ENTER)
    assert driver.execute_script("return document.querySelector(':target').dataset.path") == "head"


def test_the_first_tab_offers_to_skip_to_the_report(driver, file):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    show(driver, file, 390)
    driver.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    first = driver.switch_to.active_element
    assert first.text == "Skip to the report"
    assert first.location["y"] >= 0
    first.send_keys(Keys.ENTER)
    assert driver.switch_to.active_element.get_attribute("id") == "main"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_text_stands_out_in_both_schemes(driver, file, width, scheme):
    show(driver, file, width, scheme)
    driver.execute_script("document.querySelectorAll('details').forEach((e) => e.open = true)")
    assert driver.execute_script(LOW_CONTRAST) == []
    driver.execute_script("document.querySelectorAll('[data-path]').forEach((e) => e.classList.add('lit'))")
    assert driver.execute_script(LOW_CONTRAST) == []
    dark = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(20, 23, 26)") == (scheme == "dark")


def test_structure_for_those_who_do_not_see_it(driver, file):
    show(driver, file, 1280)
    levels = driver.execute_script(
        "return [...document.querySelectorAll('h1, h2, h3, h4')].map((e) => Number(e.tagName[1]))"
    )
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    asked = {
        "tables without a caption": "table:not(:has(caption))",
        "heads without a scope": "th:not([scope])",
        "figures without words": "figure > svg:not([role=img][aria-label])",
        "scrollers out of reach": ".scroll:not([tabindex='0'][role=region][aria-label])",
        "links to nowhere": "a[href='#']",
    }
    problems = driver.execute_script(
        "return Object.entries(arguments[0]).filter(([, s]) => document.querySelector(s)).map(([n]) => n)", asked
    )
    assert problems == []
    missing = "(e) => !document.getElementById(e.hash.slice(1))"
    links = "[...document.querySelectorAll('a[href^=\"#\"]')]"
    assert driver.execute_script(f"return {links}.filter({missing}).length") == 0
    ids = driver.execute_script("return [...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))


def test_those_who_want_no_motion_get_none(driver, file):
    script = "return getComputedStyle(document.documentElement).scrollBehavior"
    show(driver, file, 1280)
    assert driver.execute_script(script) == "smooth"
    show(driver, file, 1280, prefers_reduced_motion="reduce")
    assert driver.execute_script(script) == "auto"


def test_it_prints_all_of_the_programs(driver, file):
    show(driver, file, 1280)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    cut = "(e) => e.scrollHeight > e.clientHeight + 1 || e.scrollWidth > e.clientWidth + 1"
    boxes = "[...document.querySelectorAll('.programs pre, .tall')]"
    assert driver.execute_script(f"return {boxes}.filter({cut}).length") == 0
    assert driver.execute_script("return getComputedStyle(document.querySelector('nav')).display") == "none"


def test_no_table_is_cut_off_on_paper(driver, file):
    show(driver, file, 700)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    wide = (
        "return [...document.querySelectorAll('table')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1)"
    )
    assert driver.execute_script(f"{wide}.map((e) => e.className)") == []
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
