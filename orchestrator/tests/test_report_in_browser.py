"""The report as a browser shows it: width, theme, keys, print, accessibility, and that it asks for nothing.

Skipped where there is neither a Chromium on the PATH nor the one of `just browser`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from enginebench.judge.stored_run import StoredRun
from enginebench.report.html.page import html, report
from enginebench.store.result import read_result

from .browser.chromium import MODULES, Page, find_chromium, opened
from .large_run import REFERENCE, large_result
from .test_report import hostile

PHONE, DESKTOP = 360, 1280
AXE = MODULES / "axe-core" / "axe.min.js"
LEAST_CONTRAST = 4.5


@pytest.fixture(scope="module")
def large() -> dict[str, Any]:
    return large_result(n_launches=3)


@pytest.fixture(scope="module")
def file(large: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = tmp_path_factory.mktemp("page") / "report.html"
    page.write_text(html(report([StoredRun(large), StoredRun(read_result(REFERENCE))])))
    return page


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("no Chromium on the PATH, and none from `just browser`")
    with opened(chromium, tmp_path_factory.mktemp("profile")) as found:
        yield found


def complaints(page: Page) -> list[Any]:
    return page.told("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")


def requests(page: Page) -> list[str]:
    return [event["request"]["url"] for event in page.told("Network.requestWillBeSent")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_it_fits_its_window_and_asks_for_nothing(page: Page, file: Path, width: int, scheme: str) -> None:
    page.show(file, width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.querySelectorAll('svg')].every(s => s.getBoundingClientRect().width > 250)")
    assert page.evaluate("[...document.querySelectorAll('p, h1, h2, h3, h4, svg')].every(e => "
                         "e.getBoundingClientRect().right <= innerWidth)")  # fmt: skip
    assert requests(page) == [file.resolve().as_uri()]
    assert complaints(page) == []


def test_a_picture_and_a_script_would_be_refused_by_the_policy(page: Page, file: Path, tmp_path: Path) -> None:
    """The negative control of the one before: the browser does tell."""
    broken = tmp_path / "broken.html"
    inserted = '<img src="file:///nothing.png"><script>document.title = "ran"</script></footer>'
    broken.write_text(file.read_text().replace("</footer>", inserted))
    page.show(broken, DESKTOP)
    assert len(complaints(page)) >= 2
    assert page.evaluate("document.title") != "ran"


COLOURS = "(e => [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color])()"


def test_the_theme_follows_the_system_and_the_switch(page: Page, file: Path) -> None:
    page.show(file, DESKTOP, "light")
    light = page.evaluate(COLOURS)
    page.evaluate("document.querySelector('#theme-dark').click()")
    switched = page.evaluate(COLOURS)
    page.show(file, DESKTOP, "dark")
    assert page.evaluate(COLOURS) == switched != light
    page.evaluate("document.querySelector('#theme-light').click()")
    assert page.evaluate(COLOURS) == light


def test_the_first_key_leads_to_the_results_and_numbers_open_by_key(page: Page, file: Path) -> None:
    page.show(file, DESKTOP)
    page.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    page.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.evaluate("document.querySelector('figure summary').focus()")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.press("Enter")
    assert page.evaluate("document.querySelector('figure details').open")


def test_a_screen_reader_meets_titles_tables_and_landmarks(page: Page, file: Path) -> None:
    page.show(file, DESKTOP)
    nodes = page.ask("Accessibility.getFullAXTree")["nodes"]
    named = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"]]
    roles = [role for role, _ in named]
    assert [roles.count(role) for role in ("main", "banner", "navigation", "contentinfo")] == [1, 1, 1, 1]
    assert page.evaluate("document.querySelectorAll('h1').length") == 1
    pictures = [name for role, name in named if role in {"image", "img"}]
    assert any(name.startswith("Decode rate, tok/s Fastest: ") for name in pictures)
    assert all(pictures)
    assert page.evaluate("[...document.querySelectorAll('thead th')].every(h => h.scope === 'col')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page: Page, file: Path, scheme: str) -> None:
    if not AXE.is_file():
        pytest.skip("axe-core is not here: `just browser`")
    page.show(file, PHONE, scheme)
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run({resultTypes: ['violations']}).then(r => JSON.stringify(r.violations.map(v => "
                          "[v.id, v.nodes.length, v.nodes[0].html.slice(0, 200)])))")  # fmt: skip
    assert json.loads(found) == []
    page.evaluate(
        "document.querySelector('h1').removeAttribute('id'), document.documentElement.removeAttribute('lang')"
    )
    again = page.evaluate("axe.run({resultTypes: ['violations']}).then(r => r.violations.map(v => v.id))")
    assert again == ["html-has-lang"], "the rules do fire"


LUMINANCE = """(() => {
  const probe = document.createElement('span'); document.body.append(probe)
  const of = name => { probe.style.color = `var(--${name})`; return getComputedStyle(probe).color
    .match(/[0-9.]+/g).slice(0, 3).map(c => c / 255).map(c => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0) }
  const paper = of('paper'), ratio = l => (Math.max(l, paper) + .05) / (Math.min(l, paper) + .05)
  return ['ink', 'muted', 'link', 'c0', 'c1', 'c2', 'c3', 'c4', 'c5', 'c6', 'c7'].map(name => ratio(of(name))) })()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_and_lines_stand_out_from_the_paper(page: Page, file: Path, scheme: str) -> None:
    """WCAG: 4.5 for texts; lines beside others have a dash or a label too, and 2 at least."""
    page.show(file, DESKTOP, scheme)
    ratios = page.evaluate(LUMINANCE)
    assert min(ratios[:3]) >= LEAST_CONTRAST
    assert min(ratios[3:]) >= 2


def test_on_paper_it_is_light_and_nothing_is_cut(page: Page, file: Path) -> None:
    page.show(file, 720, "dark", media="print")
    assert page.evaluate(COLOURS) == ["rgb(255, 255, 255)", "rgb(0, 0, 0)"]
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert page.evaluate("document.documentElement.scrollWidth") <= 720


def test_hostile_words_do_nothing(page: Page, large: dict[str, Any], tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(html(report([StoredRun(hostile(large))])))
    page.show(bad, PHONE)
    assert requests(page) == [bad.resolve().as_uri()]
    assert complaints(page) == []
    assert page.evaluate("document.querySelectorAll('script, img, svg svg').length") == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE
