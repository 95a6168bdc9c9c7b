"""A picture that is replaced while one looks at it, and that says in words what it shows."""

from importlib import resources

import anywidget
import traitlets


class Picture(anywidget.AnyWidget):
    """Bytes of a PNG or JPEG as an image on the page, with an alternative text that changes along.

    (The Image of ipywidgets has no alternative text, and in 8.1.9 one with a tooltip fails in the browser.)
    """

    _esm = resources.files("vqcore.view") / "picture.js"
    value = traitlets.Bytes().tag(sync=True)
    alt = traitlets.Unicode().tag(sync=True)
    at = traitlets.Dict().tag(sync=True)  # model id of every control to [name of a trait, its value]: what is shown
    # What may come next, and where: the browser shows it before anybody asks Python.
    ahead = traitlets.Bytes().tag(sync=True)
    ahead_alt = traitlets.Unicode().tag(sync=True)
    ahead_at = traitlets.Dict().tag(sync=True)
    format = traitlets.Enum(("png", "jpeg"), "png").tag(sync=True)
    width = traitlets.Int().tag(sync=True)  # on the page, in pixels; less where there is less room

    def show(self, value, alt, at):
        """Replace bytes and text, those of controls that stand so, in one message."""
        with self.hold_sync():
            self.value, self.alt, self.at = value, alt, at

    def offer(self, value, alt, at):
        """Hand over what is to be shown as soon as the controls stand so."""
        with self.hold_sync():
            self.ahead, self.ahead_alt, self.ahead_at = value, alt, at

    def __repr__(self):
        return f"Picture({self.alt!r})"
