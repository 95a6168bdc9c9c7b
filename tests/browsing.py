"""A real browser and real servers for tests: started here, asked to end here, and nothing is left behind."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = os.environ.get("VQCORE_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-quic",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
SECONDS_TO_START = 60

needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no Chromium: install it, or name it in VQCORE_CHROMIUM")

# Runs all cells of the open notebook; when the promise is kept, every cell has ended.
RUN_ALL = """async () => {
  const panel = window.jupyterapp.shell.currentWidget;
  await panel.context.ready;
  await panel.sessionContext.ready;
  await window.jupyterapp.commands.execute('notebook:run-all-cells');
  return panel.content.model.sharedModel.toJSON();
}"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(address):
    try:
        urllib.request.urlopen(address, timeout=2).close()
    except OSError:
        return False
    return True


def environment(folder):
    """The environment of a server that reads and writes nothing outside `folder`."""
    places = {
        "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython",
    }  # fmt: skip
    # Without this a pop-up asks whether to fetch news.
    asked = folder / "settings" / "@jupyterlab" / "apputils-extension"
    asked.mkdir(parents=True)
    (asked / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    return os.environ | {name: str(folder / place) for name, place in places.items()}


def wait_for(server, address, log):
    """Until the address answers; a server that has ended or takes too long fails the test with its last words."""
    end = time.monotonic() + SECONDS_TO_START
    while not answers(address):
        if server.poll() is not None or time.monotonic() > end:
            pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")
        time.sleep(0.1)


def stop(server, address):
    """Ask the server to end, which ends its kernels; insist if it does not."""
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="POST", data=b""), timeout=10).close()
        server.wait(20)
    except (OSError, subprocess.TimeoutExpired):
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait(10)


@contextlib.contextmanager
def jupyterlab(folder, notebooks):
    """The address and token of a JupyterLab over a folder of notebooks, which reads and writes in `folder` alone."""
    port, token = free_port(), os.urandom(12).hex()
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
        "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={notebooks}",
        "--LabApp.expose_app_in_browser=True",
    ]  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    with open(folder / "lab.log", "wb") as log:
        server = subprocess.Popen(command, env=environment(folder), stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(server, f"{address}/api/status?token={token}", folder / "lab.log")
            yield address, token
        finally:
            stop(server, f"{address}/api/shutdown?token={token}")


@contextlib.contextmanager
def chromium(folder, **options):
    """A headless browser with a profile of its own in `folder`."""
    options = {"viewport": {"width": 1300, "height": 1400}} | options
    with playwright.sync_playwright() as play:
        context = play.chromium.launch_persistent_context(
            str(folder), executable_path=CHROMIUM, headless=True, args=QUIET, **options
        )
        try:
            yield context
        finally:
            context.close()


# Said by JupyterLab 4.6 and Voilà 0.5 themselves, with any notebook, with or without widgets.
HARMLESS = ()


class Watcher:
    """Listens to a page from its beginning: faults and errors in its console, and requests that leave the machine.

    Requests to other machines are refused, so that a test shows the page as someone without a network sees it.
    """

    def __init__(self, page):
        self.faults, self.left = [], []
        page.on("pageerror", lambda fault: self.faults.append(f"uncaught: {fault}"))
        page.on("console", self._console)
        page.route(lambda url: not url.startswith(("http://127.0.0.1:", "data:", "blob:")), self._refuse)

    def _console(self, message):
        if message.type == "error" and not any(known in message.text for known in HARMLESS):
            self.faults.append(f"{message.text} ({message.location.get('url', '')})")

    def _refuse(self, route):
        self.left.append(route.request.url)
        route.abort()

    def check(self):
        assert not self.left, f"requests left the machine: {self.left}"
        assert not self.faults, f"errors in the console: {self.faults}"


def open_notebook(page, address, token, name):
    """Open a notebook in JupyterLab, run all of it, and return its cells as they are then."""
    page.goto(f"{address}/lab/tree/{name}?token={token}&reset")
    page.locator(".jp-Notebook .jp-Cell").first.wait_for()
    return page.evaluate(RUN_ALL)["cells"]


CONTROLS = ".noUi-handle, select, input[type=checkbox], button"
# What it is, the key that moves it on, and the key that moves it back.
KEYS = """part => {
  const kind = part.getAttribute("role") || part.type, now = part.getAttribute("aria-valuenow");
  const last = now ? now === part.getAttribute("aria-valuemax") : part.selectedIndex === part.length - 1;
  const keys = { slider: ["ArrowRight", "ArrowLeft"], "select-one": ["ArrowDown", "ArrowUp"] }[kind];
  return [part.title || kind, ...(keys ? (last ? keys.reverse() : keys) : ["Space", "Space"])];
}"""


def walk_through(page, explorer):
    """Tab reaches every control of an explorer, keys move it, the picture follows there and back; how many there are."""
    controls = [control for control in explorer.locator(CONTROLS).all() if control.is_visible()]
    for control in controls:
        reach(page, control)
        there_and_back(page, explorer, control)
    return len(controls)


def there_and_back(page, explorer, control, patience=50):
    """Keys move a control that has the focus, and its picture follows; then both go back."""
    picture, (name, onward, back) = explorer.locator("img.vqcore-picture"), control.evaluate(KEYS)
    before = until(page, picture, lambda now, last: now == last, f"{name} has not come to rest")
    page.keyboard.press(onward)
    if name == "stop":  # back to the first step, which may be where it is
        playwright.expect(explorer.locator(".noUi-handle").last).to_have_attribute("aria-valuenow", "0.0")
        return
    until(page, picture, lambda now, last: now != before, f"{name} moved, its picture did not", patience)
    page.keyboard.press(back)
    if name != "play":  # which goes on from where it was stopped
        until(page, picture, lambda now, last: now == before, f"{name} moved back, its picture did not", patience)


def reach(page, control):
    """From one control to the next lies at most what a slider shows as its number."""
    for _ in range(3):
        if control.evaluate("part => part === document.activeElement"):
            return
        page.keyboard.press("Tab")
    pytest.fail(f"Tab does not lead to {control.evaluate('part => part.outerHTML')[:200]}")


def until(page, picture, is_there, complaint, patience=50):
    """The pixels of a picture as soon as they, and those a little before, are as they should be."""
    last = None
    for _ in range(patience):
        now = picture.screenshot()
        if is_there(now, last):
            return now
        last = now
        page.wait_for_timeout(60)
    pytest.fail(complaint)


def move_by_keyboard(page, control, picture):
    """One arrow key on a control must change the pixels of the picture that belongs to it."""
    control.scroll_into_view_if_needed()
    before = picture.screenshot()
    control.focus()
    page.keyboard.press("ArrowRight")
    until(page, picture, lambda now, last: now != before, "a control moved and its picture did not")
