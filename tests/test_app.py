"""The dashboard: its exhibits, and the page that Voilà makes of it, as a visitor meets it."""

import ast
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import browsing
import psutil
import pytest
from studies import wait_until

from vqcore.app import Dashboard, exhibits
from vqcore.app.exhibits import EXHIBITS, Exhibit
from vqcore.app.page import SIZES

ROOT = Path(__file__).resolve().parents[1]


class Plain:
    def __init__(self, widget):
        self.widget = widget


def test_an_exhibit_leads_to_a_notebook_and_teaches_in_one_sentence():
    assert len({exhibit.title for exhibit in EXHIBITS}) == len(EXHIBITS) == 12
    for exhibit in EXHIBITS:
        assert (ROOT / "notebooks" / f"{exhibit.notebook}.ipynb").exists()
        assert re.fullmatch(r"[A-Z][^.]*\.", exhibit.teaches) and len(exhibit.title) < 25


@pytest.mark.parametrize("exhibit", EXHIBITS[:-2], ids=lambda e: e.title)  # the last two are long: see the page below
def test_every_explorer_is_made_and_moves(exhibit):
    explorer = exhibit.make(n_points=400, n_codewords=6)
    before = explorer.summary()
    if not hasattr(explorer, "controls"):
        explorer.step()
        assert explorer.summary() != before
        return
    for name, control in explorer.controls.items():
        options, picture, value = list(getattr(control, "_options_values", ())), explorer.picture.value, control.value
        first, last = getattr(control, "min", False), getattr(control, "max", True)
        first, last = (options[0], options[-1]) if options else (first, last)
        explorer.set(**{name: last if value != last else first})
        assert explorer.picture.value != picture and explorer.summary() != before, f"{name} changes nothing"
        assert explorer.picture.alt == explorer.summary()
        explorer.set(**{name: value})
        assert explorer.picture.value == picture and explorer.summary() == before


@pytest.mark.parametrize("sizes", [{"n_points": 400, "n_codewords": 6}, SIZES], ids=["small", "as shown"])
def test_empty_cells_begin_where_what_one_does_about_them_shows(sizes):
    explorer = exhibits.empty(**sizes)
    explorer.set(step=0)
    assert " 1 idle, " in explorer.summary()
    ends = {}
    for policy in ("keep", "split", "farthest"):
        explorer.set(policy=policy, step=12)
        fit = explorer.fit(explorer.state["x"], explorer.state["y"], policy)
        ends[policy] = fit.distortion
        assert len(explorer.idle(fit.codebook)) == (policy == "keep")
    assert ends["split"] < 0.95 * ends["keep"] and ends["farthest"] < 0.95 * ends["keep"]
    assert f"{1 - ends['farthest'] / ends['keep']:.1%} less than with keep, which leaves 1 idle at the end" in repr(explorer)


def test_explorers_are_made_when_they_are_asked_for_and_once():
    import ipywidgets

    made = []

    def maker(name):
        return lambda **_: made.append(name) or Plain(ipywidgets.HTML(name))

    exhibits = [Exhibit(name, f"Teaches {name}.", "00_start_here", maker(name)) for name in "abc"]
    dashboard = Dashboard(exhibits)
    assert made == ["a"]
    for number in (2, 0, 2):
        dashboard.choice.value = number
        assert dashboard.stage.children[0].value == exhibits[number].title
        assert f"Teaches {exhibits[number].title}." in dashboard.words.value
    assert made == ["a", "c"]


def test_one_that_cannot_be_made_says_so_as_text():
    def fail(**_):
        raise RuntimeError("<img src=x onerror=alert(1)>")

    dashboard = Dashboard([Exhibit("<b>", "<i>", "<u>", fail)])
    for shown in (dashboard.stage.children[0].value, dashboard.words.value):
        assert not re.search("<(img|b|i|u)>?", shown.replace("<img", "<img>"))
    assert "RuntimeError: &lt;img src=x" in dashboard.stage.children[0].value


# --- served


def serve(folder, *options):
    """A server over the notebooks, its address with the token, and what it writes."""
    port, token = browsing.free_port(), os.urandom(12).hex()
    command = [sys.executable, "-m", "vqcore", "app", "--no-browser", f"--port={port}",
               f"--notebooks={ROOT / 'notebooks'}", *options]  # fmt: skip
    env = browsing.environment(folder) | {"VQCORE_APP_TOKEN": token}
    with open(folder / "app.log", "wb") as log:
        server = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    browsing.wait_for(server, f"{address}/voila/files/00_start_here.ipynb", folder / "app.log")
    return server, address, token


def end(server):
    """End a server by its process alone, and return what it has left behind."""
    children = psutil.Process(server.pid).children(recursive=True)
    server.send_signal(signal.SIGTERM)
    server.wait(30)
    _, alive = psutil.wait_procs(children, timeout=10)
    for process in alive:
        process.kill()
    return alive


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    server, address, token = serve(folder, "--visitors=1")
    try:
        yield address, token, folder
    finally:
        left = end(server)
    assert not left, "kernels outlived their server"


@pytest.fixture(scope="module")
def page(app, tmp_path_factory):
    with browsing.chromium(tmp_path_factory.mktemp("profile"), viewport={"width": 1280, "height": 720}) as context:
        page = context.new_page()
        page.set_default_timeout(60_000)
        watcher = browsing.Watcher(page)
        page.goto(f"{app[0]}/?token={app[1]}")
        page.locator("canvas.vqcore-plane").wait_for()
        yield page
        watcher.check()


@browsing.needs_chromium
def test_the_page_shows_no_source(page):
    assert page.get_by_role("heading", level=1).text_content() == "Vector quantization under your hand"
    text = page.content()
    assert "from vqcore.app" not in text and "Dashboard()" not in text
    assert page.locator(".jp-InputArea, .jp-CodeMirrorEditor, .highlight").count() == 0


@browsing.needs_chromium
@pytest.mark.parametrize("number", range(len(EXHIBITS)), ids=[exhibit.title for exhibit in EXHIBITS])
def test_every_exhibit_answers_the_keyboard(page, number):
    exhibit = EXHIBITS[number]
    button = page.get_by_role("button", name=exhibit.title, exact=True)
    button.focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", level=2, name=exhibit.title).wait_for()
    shown = page.locator(f".vqcore-exhibit-{number}")
    picture = shown.locator("img.vqcore-picture, canvas.vqcore-plane").first
    picture.wait_for()
    if number:
        page.locator(".vqcore-dashboard a[download]").focus()
        assert browsing.walk_through(page, shown) >= 1
    else:
        browsing.move_by_keyboard(page, picture, picture)
    if os.environ.get("VQCORE_SCREENSHOTS"):
        page.screenshot(path=Path(os.environ["VQCORE_SCREENSHOTS"]) / f"app_{number:02d}.png")
    # At 125 % the window is 1024 pixels wide: nothing may stand out of it.
    page.set_viewport_size({"width": 1024, "height": 576})
    width = page.evaluate("document.scrollingElement.scrollWidth")
    page.set_viewport_size({"width": 1280, "height": 720})
    assert width <= 1024


# What the Tab key stops at, in its order (nothing here has a tabindex above 0).
STOPS = """() => Array.from(document.querySelectorAll("a[href], button, input, select, textarea, [tabindex]"))
  .filter((part) => part.tabIndex >= 0 && !part.disabled && part.getClientRects().length)
  .map((part) => part.className)"""
INSIDE = "number => !!document.activeElement.closest(`.vqcore-exhibit-${number}`)"


@browsing.needs_chromium
@pytest.mark.parametrize("number", [0, 4])
def test_the_first_stop_of_tab_leads_past_all_buttons_to_the_controls(page, number):
    button = page.get_by_role("button", name=EXHIBITS[number].title, exact=True)
    button.click()
    page.locator(f".vqcore-exhibit-{number}").locator("img.vqcore-picture, canvas.vqcore-plane").first.wait_for()
    stops = page.evaluate(STOPS)
    assert "vqcore-skip" in stops[0] and len(stops) > len(EXHIBITS)
    link = page.get_by_role("link", name="Skip to the controls")
    assert link.bounding_box()["x"] < -100  # out of the way of those who do not need it
    link.focus()
    place = link.bounding_box()
    assert place["x"] >= 0 and place["y"] >= 0 and place["width"] > 100
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate(INSIDE, number)
    page.keyboard.press("Shift+Tab")
    assert not page.evaluate(INSIDE, number)  # it was the first of them


@browsing.needs_chromium
def test_after_hasty_keys_the_picture_is_that_of_the_controls(page):
    """Pictures that lay ready in the browser must not stay when the controls have moved on."""
    page.get_by_role("button", name="Lloyd, step by step", exact=True).click()
    shown = page.locator(".vqcore-exhibit-2")
    handle, picture = shown.locator(".noUi-handle").first, shown.locator("img.vqcore-picture")
    handle.focus()
    for keys in ("RRRRLRLLRRRL", "RLRLRL", "RRLL", "LLRRRRRR", "RL"):
        for key in keys:
            page.keyboard.press({"R": "ArrowRight", "L": "ArrowLeft"}[key])
        page.wait_for_timeout(600)
        step = int(float(handle.get_attribute("aria-valuenow")))
        assert f"step {step} of" in picture.get_attribute("alt")


@browsing.needs_chromium
def test_a_slider_that_is_pulled_by_the_mouse_ends_where_it_is_let_go(page):
    page.get_by_role("button", name="Lloyd, step by step", exact=True).click()
    shown = page.locator(".vqcore-exhibit-2")
    handle, picture = shown.locator(".noUi-handle").first, shown.locator("img.vqcore-picture")
    last = int(float(handle.get_attribute("aria-valuemax")))
    for share in (1.0, 0.0, 0.4):
        track, knob = shown.locator(".noUi-target").first.bounding_box(), handle.bounding_box()
        page.mouse.move(knob["x"] + knob["width"] / 2, knob["y"] + knob["height"] / 2)
        page.mouse.down()
        page.mouse.move(track["x"] + share * track["width"], knob["y"] + knob["height"] / 2, steps=25)
        page.mouse.up()
        page.wait_for_timeout(800)
        step = int(float(handle.get_attribute("aria-valuenow")))
        assert step == pytest.approx(share * last, abs=1.5)
        assert f"step {step} of" in picture.get_attribute("alt") and f"step {step} of" in shown.inner_text()


def test_no_explorer_uses_what_hangs_a_notebook_or_swallows_its_errors():
    names = re.compile(r"\b(interact|interactive|interactive_output|Output)\b")
    for path in [*(ROOT / "vqcore" / "view").glob("*.py"), *(ROOT / "vqcore" / "app").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "attr", None) or getattr(node, "id", None)
            assert not (name and names.fullmatch(name)), f"{path.name}, line {node.lineno}: {name}"


MESSAGES = """async ([address, id, code]) => {
  const socket = new WebSocket(`${address.replace("http", "ws")}/api/kernels/${id}/channels`), heard = [];
  socket.onmessage = (e) => { if (typeof e.data === "string") heard.push(JSON.parse(e.data).msg_type); };
  await new Promise((resolve, reject) => { socket.onopen = resolve; socket.onerror = reject; });
  const tell = (kind, content) => socket.send(JSON.stringify({
    channel: "shell", parent_header: {}, metadata: {}, content,
    header: { msg_id: kind, msg_type: kind, session: "visitor", username: "", version: "5.3", date: "2026-01-01T00:00:00Z" },
  }));
  tell("execute_request", { code, silent: false, store_history: false, user_expressions: {}, allow_stdin: false });
  tell("kernel_info_request", {});
  const end = performance.now() + 10000;
  while (!heard.includes("kernel_info_reply") && performance.now() < end) await new Promise((r) => setTimeout(r, 50));
  socket.close();
  return heard;
}"""


@browsing.needs_chromium
def test_a_visitor_moves_controls_and_runs_no_code(app, page):
    address, _, folder = app
    kernel = page.evaluate("JSON.parse(document.getElementById('jupyter-config-data').textContent).kernelId")
    heard = page.evaluate(MESSAGES, [address, kernel, f"open({str(folder / 'mine')!r}, 'w')"])
    assert "kernel_info_reply" in heard  # it was listened to
    assert "execute_reply" not in heard and not (folder / "mine").exists()


def test_nobody_enters_without_the_token(app):
    answer = urllib.request.urlopen(app[0], timeout=10)
    assert "/login" in answer.url and "vqcore" not in answer.read().decode()
    for path in ("explorers.ipynb", "../data/voila/templates/vqcore/index.html.j2"):
        with pytest.raises(urllib.error.HTTPError, match="40[34]"):
            urllib.request.urlopen(f"{app[0]}/voila/files/{path}", timeout=10)


@browsing.needs_chromium
def test_visitors_beyond_the_places_are_refused(app, page):
    with pytest.raises(urllib.error.HTTPError, match="503.*All 1 places are taken"):
        urllib.request.urlopen(f"{app[0]}/?token={app[1]}", timeout=10)


def test_it_listens_on_the_loopback_address_alone(app):
    port = int(app[0].rpartition(":")[2])
    listening = {c.laddr.ip for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port}
    assert listening == {"127.0.0.1"}


@browsing.needs_chromium
def test_a_page_that_is_left_frees_its_place(page, tmp_path):
    server, address, token = serve(tmp_path, "--visitors=2")
    visitor = page.context.new_page()

    def is_kernel(process):
        try:
            return "ipykernel_launcher" in " ".join(process.cmdline())
        except psutil.Error:  # it has just ended
            return False

    def kernels():
        return list(filter(is_kernel, psutil.Process(server.pid).children()))

    def visit(act):
        act()
        visitor.locator("canvas.vqcore-plane").wait_for(timeout=60_000)
        assert wait_until(lambda: len(kernels()) == 1, 20), kernels()

    try:
        visit(lambda: visitor.goto(f"{address}/?token={token}"))
        for _ in range(3):
            visit(visitor.reload)
        visitor.goto("about:blank")
        assert wait_until(lambda: not kernels(), 20)
    finally:
        visitor.close()
        left = end(server)
    assert not left
