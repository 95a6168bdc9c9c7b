"""How long from a key, or a drag, to new pixels? Every explorer in JupyterLab in a headless browser (`make latency`).

5,000 points and 64 codewords where an explorer has them; some of them by name: `make latency ARGS="images network"`.
Every slider is moved onward by single steps, up to twelve, as when it is played or pulled, and fourteen times as nobody
could foresee; the clock starts when the browser hears the key or the pointer and stops when it has painted the new
picture. What is dragged or played should take less than 50 ms in the median, everything else less than 100 ms. The last
lines tell what the machine takes, today, from key to pixels when a picture is ready (if that is far above 40 ms, it is
busy with something else), and how many pictures never came.
"""

import statistics
import sys
import tempfile
from pathlib import Path

import browsing
import nbformat

N_MOVES = 12
READY = []  # times of pictures that were drawn before: what the way to the browser and back takes by itself
LOST = []  # what was moved and showed no new picture

START = """([picture, kind]) => {
  window.measured = new Promise((resolve) => {
    let begin = null;
    document.addEventListener(kind, (e) => { begin = e.timeStamp; }, { capture: true, once: true });
    const painted = () => requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => resolve(performance.now() - begin);
      channel.port2.postMessage(null);
    });
    const loaded = () => picture.decode().then(painted);
    if (picture.tagName === "IMG") picture.addEventListener("load", loaded, { once: true });
    else new MutationObserver((_, me) => { me.disconnect(); painted(); }).observe(picture, { attributes: true });
  });
}"""
# Of a slider its place: what it says is rounded.
VALUE = "part => part.type ? [part.checked, part.selectedIndex].join() : part.parentElement.style.transform"
AWAIT = "() => Promise.race([window.measured, new Promise((resolve) => setTimeout(() => resolve(null), 1500))])"


def notebook(names):
    """One cell for each explorer."""
    cells = [nbformat.v4.new_code_cell("from vqcore.app import exhibits")]
    cells += [nbformat.v4.new_code_cell(f"exhibits.{name}(5_000, 64)") for name in names]
    made = nbformat.v4.new_notebook(cells=cells)
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return made


def timed(page, picture, act, kind="keydown"):
    """Milliseconds from the event to the painted picture, or None if the picture stays."""
    page.evaluate(START, [picture.element_handle(), kind])
    act()
    taken = page.evaluate(AWAIT)
    page.wait_for_timeout(120)
    return taken


def pressed(page, control, picture, keys):
    """Times of those keys that move a control: at its end there is nothing to be seen."""
    times = []
    for key in keys:
        before = page.evaluate(VALUE, control.element_handle())
        page.evaluate(START, [picture.element_handle(), "keydown"])
        page.keyboard.press(key)
        if page.evaluate(VALUE, control.element_handle()) == before:
            continue
        times.append(page.evaluate(AWAIT))
        if times[-1] is None:
            LOST.append(key)
        page.wait_for_timeout(120)
    return times


def of_slider(page, handle, picture):
    """Steps onward, back where all pictures are ready, and moves of changing length and direction."""
    handle.focus()
    page.keyboard.press("Home")
    page.wait_for_timeout(400)
    onward = pressed(page, handle, picture, ["ArrowRight"] * N_MOVES)
    READY.extend(pressed(page, handle, picture, ["ArrowLeft"] * (len(onward) - 1)))
    page.keyboard.press("End")
    page.wait_for_timeout(400)
    keys = ["PageDown", "ArrowLeft"] * 3 + ["PageUp", "ArrowLeft", "PageDown", "ArrowRight"] * 2
    return onward[1:], pressed(page, handle, picture, keys)  # the first step has no direction yet


def of_choice(page, control, picture):
    """A list, gone through and back."""
    n_options = control.locator("option").count()
    control.focus()
    return [], pressed(page, control, picture, ["ArrowDown"] * n_options + ["ArrowUp"] * n_options)


def of_box(page, control, picture):
    control.focus()
    return [], pressed(page, control, picture, ["Space"] * 4)


def of_plane(page, canvas):
    """Keys, and a drag in twenty pieces."""
    canvas.focus()
    keys = [timed(page, canvas, lambda: page.keyboard.press("ArrowRight")) for _ in range(N_MOVES)]
    x, y = page.evaluate("c => { const r = c.getBoundingClientRect(); return c.dataset.places.split(' ').slice(0, 2)"
                         ".map((v, i) => Number(v) + (i ? r.top : r.left)); }", canvas.element_handle())  # fmt: skip
    page.mouse.move(x, y)
    page.mouse.down()
    drags = [
        timed(page, canvas, lambda i=i: page.mouse.move(x + 4 * i, y + 3 * i), "pointermove") for i in range(1, N_MOVES)
    ]
    page.mouse.up()
    return keys, drags


def measure(page, names):
    """Yields (what, onward, jumps) for every control of every explorer."""
    outputs = page.locator(".jp-Notebook .jp-Cell")
    for i, name in enumerate(names):
        cell = outputs.nth(i + 1)
        cell.scroll_into_view_if_needed()
        if name == "plane":
            yield "plane: keys, drag", *of_plane(page, cell.locator("canvas.vqcore-plane"))
            continue
        picture = cell.locator("img.vqcore-picture")
        picture.scroll_into_view_if_needed()
        labels = [text.strip() for text in cell.locator(".widget-label").all_text_contents() if text.strip()]
        for kind, act in ((".noUi-handle", of_slider), ("select", of_choice), ("input[type=checkbox]", of_box)):
            for control in cell.locator(kind).all():
                label = control.locator("xpath=ancestor::*[contains(@class, 'widget-inline-hbox')][1]").inner_text()
                label = label.replace("\u200b", "")  # of a check box that is indented
                yield f"{name}: {label.split()[0] if label.split() else labels[-1]}", *act(page, control, picture)


def middle(found):
    found = [one for one in found if one is not None]
    return (f"{statistics.median(found):7.0f}", f"{max(found):5.0f}", len(found)) if found else ("      -", "    -", 0)


def main(names):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "notebooks").mkdir()
        nbformat.write(notebook(names), folder / "notebooks" / "latency.ipynb")
        lab, browser = browsing.jupyterlab(folder, folder / "notebooks"), browsing.chromium(folder / "profile")
        with lab as (address, token), browser as context:
            page = context.new_page()
            page.set_default_timeout(120_000)
            cells = browsing.open_notebook(page, address, token, "latency.ipynb")
            for cell in cells:
                for output in cell["outputs"]:
                    assert output["output_type"] != "error", "\n".join(output["traceback"])
            page.wait_for_timeout(2_000)
            print(f"{'milliseconds to new pixels':34s} onward: median  most   jumps: median  most")
            for what, onward, jumps in measure(page, names):
                (a, b, _), (c, d, _) = middle(onward), middle(jumps)
                print(f"{what:34s}        {a} {b}          {c} {d}", flush=True)
            a, b, n = middle(READY)
            print(f"a picture that is ready: median {a.strip()}, most {b.strip()}, of {n}")
            print(f"pictures that never came: {len(LOST)}")


if __name__ == "__main__":
    main(sys.argv[1:] or "plane laws runs steps empty soft learning products bits rounding images network".split())
