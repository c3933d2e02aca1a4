"""Both pages in a real browser: whole, quiet, legible at any width and in both schemes, and deaf to what a corpus says.

Skipped where there is no chromium with its driver (Debian: `apt-get install chromium chromium-driver`).
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import run_prep
from launch import run
from runs import eval_line, start_line, train_line, write_run

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="there is no chromium and chromedriver here")

HOSTILE = (
    "<script>document.title='hacked'</script> <img src=http://x.invalid/a.png onerror=alert(1)> \x1b[31mred\x07 & \u202ertl"
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --disable-quic"
)
WIDTHS, SCHEMES = (360, 1280), ("light", "dark")

WRONG_PLACES = """
const width = document.documentElement.clientWidth, wrong = [];
if (document.documentElement.scrollWidth > width) wrong.push('the page scrolls sideways');
for (const e of document.querySelectorAll('body *')) {
  if (e instanceof SVGElement && e.tagName !== 'svg') continue;
  const r = e.getBoundingClientRect();
  if (r.width && (r.left < -0.5 || r.right > width + 0.5)) wrong.push(e.className + ': ' + e.textContent.slice(0, 60));
}
for (const plot of document.querySelectorAll('.plot')) for (const kind of ['.x', '.y']) {
  const labels = [...plot.querySelectorAll(kind)].map(e => [e.textContent, e.getBoundingClientRect()]);
  labels.forEach(([text, a], i) => labels.slice(i + 1).forEach(([other, b]) => {
    if (a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom) wrong.push(`${text} lies over ${other}`);
  }));
}
return wrong;
"""

CONTRASTS = """
const parse = c => c.match(/[\\d.]+/g).map(Number);
const linear = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
const behind = e => {
  for (; e; e = e.parentElement) {
    const colour = parse(getComputedStyle(e).backgroundColor);
    if (colour.length < 4 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
};
const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
const found = {text: [99, ''], shapes: [99, '']};
const note = (kind, value, what) => { if (value < found[kind][0]) found[kind] = [value, what]; };
for (const e of document.querySelectorAll('body *')) {
  const style = getComputedStyle(e), back = behind(e);
  if (e instanceof SVGElement) {
    if (e.matches('.line:not(.pale), .dots')) note('shapes', ratio(parse(style.stroke), back), e.getAttribute('class'));
    if (e.matches('rect:not(.track)')) note('shapes', ratio(parse(style.fill), back), e.getAttribute('class'));
  } else if ([...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) {
    note('text', ratio(parse(style.color), back), e.textContent.slice(0, 60));
  }
}
return found;
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def data_set_page(tmp_path_factory: pytest.TempPathFactory, paragraphs: list[str]) -> Path:
    """The page of a corpus that holds markup and escapes in all its sentences, in a file and a folder whose names do too."""
    folder = tmp_path_factory.mktemp("page")
    documents = [" ".join(f"So {word} says {HOSTILE} again." for word in text.split()[:30]) for text in paragraphs[:200]]
    (folder / "<b>a&b.txt").write_text("\n".join(documents), encoding="utf8")
    out = folder / "<i>out&\x1b[31m"
    places = ("--corpus", folder / "<b>a&b.txt", "--out", out, "--scratch", folder / "scratch")
    done = run_prep("build", *places, "--tokenizer", "train:1000", "--workers", 1, "--eval-fraction", 0.1)
    assert done.returncode == 0, done.stderr
    done = run_prep("report", out, "--html", folder / "page.html")
    assert done.returncode == 0 and "\x1b" not in done.stdout and "\u202e" not in done.stdout, done.stderr
    return folder / "page.html"


@pytest.fixture(scope="module")
def runs_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of seven runs, one of them with everything that can happen in it, a name with markup, settings with escapes."""
    folder = tmp_path_factory.mktemp("runs")
    steps = [train_line(step, skipped=int(step == 60), loss=None if step == 60 else 3.0) for step in range(10, 101, 10)]
    lines = [start_line(0), *steps[:5], eval_line(50), start_line(50, world_size=3), *steps[5:], eval_line(100)]
    runs = [write_run(folder / "<b>run & more", lines, model=HOSTILE)]
    runs += [write_run(folder / f"a-run-with-quite-a-long-name-{number}", lr=number * 1e-4) for number in range(6)]
    code, out, err = run(0, *runs, "--html", folder / "page.html", module="train.report")
    assert code == 0 and "\x1b" not in out and "\u202e" not in out, err
    return folder / "page.html"


@pytest.fixture(scope="module")
def run_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of one run that went well."""
    folder = tmp_path_factory.mktemp("run")
    code, _, err = run(0, write_run(folder / "good"), "--html", folder / "page.html", module="train.report")
    assert code == 0, err
    return folder / "page.html"


def look(browser: Any, page: Path, width: int, scheme: str) -> tuple[list[str], list[str]]:
    """Opens the page; returns what the console said and what was asked of the network."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(page.as_uri())
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return [entry["message"] for entry in browser.get_log("browser")], asked


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["data_set_page", "run_page", "runs_page"])
def test_a_page_is_quiet_in_its_bounds_and_legible(
    name: str, width: int, scheme: str, browser: Any, request: pytest.FixtureRequest
) -> None:
    page: Path = request.getfixturevalue(name)
    console, asked = look(browser, page, width, scheme)
    assert console == []
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    assert browser.execute_script("return innerWidth") == width
    assert browser.execute_script(WRONG_PLACES) == []
    contrasts = browser.execute_script(CONTRASTS)
    assert contrasts["text"][0] >= 4.5 and contrasts["shapes"][0] >= 3.0, contrasts
    dark = browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
    assert dark == (scheme == "dark")


@pytest.mark.parametrize("name", ["data_set_page", "runs_page"])
def test_what_a_corpus_or_a_name_says_is_text(name: str, browser: Any, request: pytest.FixtureRequest) -> None:
    page: Path = request.getfixturevalue(name)
    look(browser, page, 1280, "light")
    for tag in ("script", "img", "main b:not(.legend b)", "main i:not(.key i)", "a", "iframe"):
        assert browser.execute_script("return document.querySelectorAll(arguments[0]).length", tag) == 0, tag
    shown = browser.execute_script("return document.body.innerText")
    assert "hacked" not in browser.title
    for said in ("<i>out&\\x1b[31m", " < ") if name == "data_set_page" else ("<script>document.title", "<b>run & more"):
        assert said in shown
    assert not {c for c in shown if not c.isprintable() and not c.isspace()}


def test_the_checks_see_what_is_wrong(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text(
        "<title>t</title><body style='background:#fff'><p style='color:#bbb'>pale</p><p style='width:2000px'>wide</p>"
        "<div class=plot><span class=x>one</span><span class=x style='margin-left:-9px'>two</span></div>"
        "<script>console.error('no')</script><img src='http://127.0.0.1:9/x.png'>"
    )
    console, asked = look(browser, tmp_path / "bad.html", 360, "light")
    assert any("no" in line for line in console) and "http://127.0.0.1:9/x.png" in asked
    assert browser.execute_script(CONTRASTS)["text"][0] < 4.5
    wrong = browser.execute_script(WRONG_PLACES)
    assert any("wide" in line for line in wrong) and "one lies over two" in wrong
