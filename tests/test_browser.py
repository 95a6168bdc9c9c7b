"""The notebooks as a person meets them: a real JupyterLab in a real browser, cells run, a slider moved by keyboard.

Skips, visibly, where there is no Chromium. Everything that is started here is stopped here.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = os.environ.get("VQCORE_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-quic",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
SECONDS_TO_START = 60

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium: install it, or name it in VQCORE_CHROMIUM")

# Runs all cells of the open notebook; when the promise is kept, every cell has ended.
RUN_ALL = """async () => {
  const panel = window.jupyterapp.shell.currentWidget;
  await panel.context.ready;
  await panel.sessionContext.ready;
  await window.jupyterapp.commands.execute('notebook:run-all-cells');
  return panel.content.model.sharedModel.toJSON();
}"""
# Several pictures may be on the page: the one that belongs to a slider stands in the same output.
WIDGET = "application/vnd.jupyter.widget-view+json"
OUTPUT = "xpath=ancestor::*[contains(@class, 'jp-OutputArea-output')][1]"


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


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address and token of a JupyterLab over a copy of the notebooks whose outputs are removed."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "notebooks").mkdir()
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, folder / "notebooks" / path.name)
    port, token = free_port(), os.urandom(12).hex()
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
        "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={folder / 'notebooks'}", "--LabApp.expose_app_in_browser=True",
    ]  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    with open(folder / "lab.log", "wb") as log:
        server = subprocess.Popen(command, env=environment(folder), stdout=log, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + SECONDS_TO_START
            while not answers(f"{address}/api/status?token={token}"):
                if server.poll() is not None or time.monotonic() > end:
                    pytest.fail(f"JupyterLab did not start:\n{(folder / 'lab.log').read_text()[-3000:]}")
                time.sleep(0.1)
            yield address, token
        finally:
            stop(server, f"{address}/api/shutdown?token={token}")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with playwright.sync_playwright() as play:
        profile = str(tmp_path_factory.mktemp("profile"))
        context = play.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, headless=True, args=QUIET, viewport={"width": 1300, "height": 1400}
        )
        try:
            yield context
        finally:
            context.close()


def test_nobody_enters_without_the_token(lab):
    address, token = lab
    assert answers(f"{address}/api/kernels?token={token}")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{address}/api/kernels", timeout=10)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs_and_its_sliders_answer_the_keyboard(lab, browser, path):
    address, token = lab
    page, faults = browser.new_page(), []
    page.set_default_timeout(60_000)
    page.on("pageerror", lambda fault: faults.append(str(fault)))
    try:
        page.goto(f"{address}/lab/tree/{path.name}?token={token}&reset")
        page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        cells = [cell for cell in page.evaluate(RUN_ALL)["cells"] if cell["cell_type"] == "code"]
        assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
        for cell in cells:
            assert not any(o["output_type"] == "error" or o.get("name") == "stderr" for o in cell["outputs"]), cell
        if any(WIDGET in output.get("data", {}) for cell in cells for output in cell["outputs"]):
            page.locator(".jp-OutputArea-output .jupyter-widgets, canvas.vqcore-plane").first.wait_for()
            page.wait_for_timeout(500)  # each view is made on its own
            # A widget whose view fails stays silent in the notebook: a box with an icon stands in its place.
            assert not page.locator(".jupyter-widgets-error-widget").count(), "a widget could not be shown"
        for handle in page.locator(".jp-OutputArea-output .widget-slider .noUi-handle").all():
            move_by_keyboard(page, handle, handle.locator(OUTPUT).locator("img.vqcore-picture, canvas").first)
        for canvas in page.locator("canvas.vqcore-plane").all():
            move_by_keyboard(page, canvas, canvas)
        if os.environ.get("VQCORE_SCREENSHOTS"):
            page.screenshot(path=Path(os.environ["VQCORE_SCREENSHOTS"]) / f"{path.stem}.png")
        assert not faults
    finally:
        page.close()


def move_by_keyboard(page, control, picture):
    """One arrow key on a control must change the pixels of the picture that belongs to it."""
    control.scroll_into_view_if_needed()
    before = picture.screenshot()
    now, last = (control.get_attribute(f"aria-value{which}") for which in ("now", "max"))
    control.focus()
    page.keyboard.press("ArrowLeft" if now and now == last else "ArrowRight")
    for _ in range(50):
        if picture.screenshot() != before:
            return
        page.wait_for_timeout(100)
    pytest.fail("a control moved and its picture did not")
