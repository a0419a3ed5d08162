"""A headless Chromium, and scripts that check a page in it."""

from __future__ import annotations

import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs Chromium and chromedriver: apt-get install chromium chromium-driver"
)


def start():
    """Start a browser that logs its console messages and its network requests."""
    from selenium.webdriver import Chrome
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = CHROMIUM
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "hide-scrollbars", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return Chrome(options=options, service=Service(DRIVER))


def show(driver, file, width, scheme="light", **features):
    """Open a page at a width, in a colour scheme."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wanted = [{"name": "prefers-color-scheme", "value": scheme}]
    wanted += [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": wanted})
    driver.get(file.as_uri())


OVERLAPS = """
// Siblings that are laid out in normal flow and share more than a pixel, and text that leaves its box.
const found = [];
const name = (e) => `${e.tagName}.${e.className.baseVal ?? e.className}: ${e.textContent.trim().slice(0, 40)}`;
const scrolls = (e) => e.closest(".scroll, pre, .hidden, .skip, svg, details:not([open])");
const parents = "body, main, section, header, nav, div, ul, dl, figure, tr, li, table";
for (const parent of document.querySelectorAll(parents)) {
  if (scrolls(parent)) continue;
  const boxes = [...parent.children].filter((e) => !scrolls(e) || e.matches(".scroll, pre, .panel > svg"))
    .map((e) => [e, e.getBoundingClientRect()]).filter(([, b]) => b.width > 1 && b.height > 1);
  for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
    const [a, p] = boxes[i], [b, q] = boxes[j];
    const wide = Math.min(p.right, q.right) - Math.max(p.left, q.left);
    const high = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
    if (wide > 1 && high > 1) found.push(`${name(a)} | ${name(b)}`);
  }
}
for (const e of document.querySelectorAll("h1, h2, h3, h4, p, li, td, th, dd, dt, summary, figcaption")) {
  const box = e.getBoundingClientRect();
  const leaves = box.right > innerWidth + 1 || (e.clientWidth && e.scrollWidth > e.clientWidth + 1);
  if (!scrolls(e) && box.width > 1 && leaves)
    found.push(`leaves its box: ${name(e)}`);
}
return found;
"""

LOW_CONTRAST = """
// Text whose colour has less than 4.5 to 1 against what it stands on.
const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
const light = (rgb) => {
  const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const [r, g, b] = rgb.slice(0, 3).map((v) => linear(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (e) => {
  for (; e; e = e.parentElement) {
    const rgb = parse(getComputedStyle(e).backgroundColor);
    if (rgb.length === 3 || rgb[3] > 0.99) return rgb;
  }
  return [255, 255, 255];
};
const found = new Set();
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const text = walker.currentNode, e = text.parentElement;
  if (!text.data.trim() || e.closest("script, style, .hidden")) continue;
  const style = getComputedStyle(e);
  const [a, b] = [light(parse(e.closest("svg") ? style.fill : style.color)), light(behind(e))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) found.add(`${ratio.toFixed(2)} ${e.tagName} ${text.data.trim().slice(0, 30)}`);
}
return [...found];
"""
