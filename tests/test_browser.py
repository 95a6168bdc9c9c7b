"""The notebooks as a person meets them: a real JupyterLab in a real browser, cells run, controls moved by keyboard.

Skips, visibly, where there is no Chromium. Everything that is started here is stopped here.
"""

import os
import urllib.error
import urllib.request
from pathlib import Path

import browsing
import nbformat
import pytest
from browsing import CONTROLS, move_by_keyboard, there_and_back, walk_through

from vqcore.app.exhibits import EXHIBITS

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
WIDGET = "application/vnd.jupyter.widget-view+json"

# What stands out of its output, where it would be cut off.
CLIPPED = """() => Array.from(document.querySelectorAll(
    "img.vqcore-picture, canvas.vqcore-plane, canvas.vqcore-weights, .widget-slider, .widget-dropdown, .vqcore-button"))
  .filter((part) => {
    const output = part.closest(".jp-OutputArea-output").getBoundingClientRect(), own = part.getBoundingClientRect();
    return own.right > output.right + 1 || own.width < 20;
  }).map((part) => part.className)"""
EXPLORERS = [exhibit.make.__name__ for exhibit in EXHIBITS[1:]]  # the first one is a canvas of its own
SAY = """async (code) => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const reply = await kernel.requestExecute({ code, silent: false, store_history: false }).done;
  if (reply.content.status !== "ok") throw new Error(reply.content.evalue);
}"""
MARKUP = "<img src=x onerror=window.acted=1>"

pytestmark = browsing.needs_chromium


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
    nbformat.write(naughty(), folder / "notebooks" / "naughty.ipynb")
    for name in EXPLORERS:
        made = [f"from vqcore.app import exhibits\nexplorer = exhibits.{name}(400, 6)", "explorer"]
        nbformat.write(notebook_of(*made), folder / "notebooks" / f"cut_{name}.ipynb")
    with browsing.jupyterlab(folder, folder / "notebooks") as entrance:
        yield entrance


def notebook_of(*sources):
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def naughty():
    """A notebook whose names, laws, files and errors hold markup that acts if a page takes it for markup."""
    setting = f"""
import numpy as np
import vqcore as vq
from vqcore import view
from vqcore.app import Dashboard
from vqcore.app.exhibits import Exhibit
text = {MARKUP!r}
points = np.random.default_rng(0).normal(size=(60, 2))
fit = vq.fit_lloyd(points, 3, n_steps=3)
class Law(vq.Normal):
    __repr__ = lambda self: text
def fail(**sizes):
    raise OSError(text)
"""
    shown = [
        "view.StepExplorer(points, fit, name=text)", "view.LawExplorer(Law(), largest=3)",
        "view.RunExplorer({text: vq.Normal()}, n_codewords=3, n_steps=5)",
        "view.LearningExplorer(points, {text: fit.codebooks, 'other' + text: fit.codebooks})",
        "Dashboard([Exhibit(text, text, text, fail)])",
        "fig, ax = view.figure(); ax.set_title(text); view.show(fig, text)",
        "try: vq.load(text)\nexcept Exception: get_ipython().showtraceback()",
        "vq.fit_lloyd(points, 3, start=text)",
    ]  # fmt: skip
    return notebook_of(setting, *shown)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with browsing.chromium(tmp_path_factory.mktemp("profile")) as context:
        yield context


def test_nobody_enters_without_the_token(lab):
    address, token = lab
    assert browsing.answers(f"{address}/api/kernels?token={token}")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{address}/api/kernels", timeout=10)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs_and_its_controls_answer_the_keyboard(lab, browser, path):
    page = browser.new_page()
    watcher = browsing.Watcher(page)
    page.set_default_timeout(60_000)
    try:
        cells = browsing.open_notebook(page, *lab, path.name)
        cells = [cell for cell in cells if cell["cell_type"] == "code"]
        assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
        for cell in cells:
            assert not any(o["output_type"] == "error" or o.get("name") == "stderr" for o in cell["outputs"]), cell
        if any(WIDGET in output.get("data", {}) for cell in cells for output in cell["outputs"]):
            page.locator("img.vqcore-picture, canvas.vqcore-plane").first.wait_for()
            page.wait_for_timeout(500)  # each view is made on its own
            # A widget whose view fails stays silent in the notebook: a box with an icon stands in its place.
            assert not page.locator(".jupyter-widgets-error-widget").count(), "a widget could not be shown"
        explorers = page.locator(".vqcore-explorer")
        assert explorers.count() == page.locator("img.vqcore-picture").count()
        for explorer in explorers.all():
            explorer.locator(CONTROLS).first.focus()
            assert walk_through(page, explorer)
        for canvas in page.locator("canvas.vqcore-plane").all():
            move_by_keyboard(page, canvas, canvas)
            drag(page, canvas)
        page.set_viewport_size({"width": 1024, "height": 576})  # 1280 x 720 at 125 %, a projector
        page.wait_for_timeout(300)
        assert page.evaluate(CLIPPED) == []
        for picture in page.locator("img.vqcore-picture").all():
            assert len(picture.get_attribute("alt")) > 20, "a picture without words"
        if os.environ.get("VQCORE_SCREENSHOTS"):
            page.screenshot(path=Path(os.environ["VQCORE_SCREENSHOTS"]) / f"{path.stem}.png")
        watcher.check()
    finally:
        page.close()


def test_markup_in_names_files_and_errors_is_text(lab, browser):
    page = browser.new_page()
    page.set_default_timeout(60_000)
    cells = browsing.open_notebook(page, *lab, "naughty.ipynb")
    page.locator("img.vqcore-picture").nth(3).wait_for()
    page.wait_for_timeout(500)
    assert [cell["execution_count"] for cell in cells] == list(range(1, 10))
    assert sum(output["output_type"] == "error" for cell in cells for output in cell["outputs"]) == 2
    page.locator(".noUi-handle").first.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(500)
    assert page.evaluate("window.acted") is None, "markup acted"
    assert page.locator('img[src="x"]').count() == 0
    for status in page.locator("[role=status]", has_text="onerror").all():
        assert MARKUP in status.text_content() or "OSError" in status.text_content()
    assert page.locator("[role=status]", has_text=MARKUP).count() >= 4  # as words, where they belong
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPLORERS)
def test_a_control_that_is_cut_off_is_noticed(lab, browser, name):
    """The tests above would see it: with one control at a time disconnected, its picture stays."""
    page = browser.new_page()
    page.set_default_timeout(60_000)
    open_cells = browsing.open_notebook(page, *lab, f"cut_{name}.ipynb")
    assert not any(output["output_type"] == "error" for cell in open_cells for output in cell["outputs"])
    explorer = page.locator(".vqcore-explorer")
    handles = [one for one in explorer.locator(CONTROLS).all() if one.is_visible() and not one.get_attribute("title")]
    for i, handle in enumerate(handles):
        chosen = f"control = list(explorer.controls.values())[{i}]"
        page.evaluate(SAY, f"{chosen}; control.unobserve(explorer._follow, 'value')")
        page.wait_for_timeout(300)
        handle.focus()
        back = handle.evaluate(browsing.KEYS)[2]
        with pytest.raises(pytest.fail.Exception, match="moved, its picture did not"):
            there_and_back(page, explorer, handle, patience=15)
        page.evaluate(SAY, "control.observe(explorer._follow, 'value')")
        page.keyboard.press(back)
        page.wait_for_timeout(300)
        there_and_back(page, explorer, handle)
    page.evaluate(SAY, f"assert len(explorer.controls) == {len(handles)}")
    page.close()


def drag(page, canvas):
    """A codeword that is dragged follows the pointer, the cells and the distortion follow the codeword."""
    canvas.scroll_into_view_if_needed()
    places, frame = canvas.get_attribute("data-places").split(), canvas.bounding_box()
    x, y = frame["x"] + float(places[0]), frame["y"] + float(places[1])
    before, distortion = canvas.screenshot(), canvas.get_attribute("data-distortion")
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(frame["x"] + frame["width"] / 3, frame["y"] + frame["height"] / 3, steps=5)
    page.mouse.up()
    assert canvas.screenshot() != before and canvas.get_attribute("data-distortion") != distortion
    moved = [float(place) for place in canvas.get_attribute("data-places").split()[:2]]
    assert moved == pytest.approx([frame["width"] / 3, frame["height"] / 3], abs=1.5)


def test_the_watcher_hears_errors_and_refuses_to_leave_the_machine(browser):
    page = browser.new_page()
    watcher = browsing.Watcher(page)
    page.set_content('<script>console.error("one"); setTimeout(() => nothing.at.all)</script>')
    page.set_content('<img src="https://example.org/x.png">')
    page.wait_for_timeout(300)
    page.close()
    assert watcher.left == ["https://example.org/x.png"]
    assert any("one" in fault for fault in watcher.faults) and any("nothing is not" in fault for fault in watcher.faults)
