"""The dashboard: a button for every exhibit, what it teaches, and the explorer, made when it is first asked for."""

import html

import ipywidgets

from vqcore.app.exhibits import EXHIBITS

TITLE = "Vector quantization under your hand"
# Past the buttons to what belongs to one explorer: the first stop of the Tab key, seen while it has the focus.
SKIP = "<a class='vqcore-skip' href='#vqcore-controls'>Skip to the controls</a>"
CONTROLS = "<div id='vqcore-controls' tabindex='-1'></div>"
SIZES = {"n_points": 1_500, "n_codewords": 12}


class Dashboard:
    """Buttons above one explorer; an explorer is made once, when its button is first pressed.

    Args:
        exhibits: of `vqcore.app.exhibits`, at least one; the first is shown first.

    Attributes:
        choice: the buttons; setting `.value` to a number of an exhibit shows it.
        widget: all of it.
    """

    def __init__(self, exhibits=EXHIBITS):
        self.exhibits, self._made = tuple(exhibits), {}
        self.choice = ipywidgets.ToggleButtons(
            options=[(exhibit.title, i) for i, exhibit in enumerate(self.exhibits)],
            tooltips=[exhibit.teaches for exhibit in self.exhibits],
            style={"button_width": "auto"},
        )
        self.words, self.stage = ipywidgets.HTML(), ipywidgets.VBox()
        title, controls = ipywidgets.HTML(f"{SKIP}<h1>{TITLE}</h1>"), ipywidgets.HTML(CONTROLS)
        self.widget = ipywidgets.VBox([title, self.choice, self.words, controls, self.stage])
        self.widget.add_class("vqcore-dashboard")
        self.choice.observe(self._follow, names="value")
        self._follow()

    def _follow(self, change=None):
        number = self.choice.value
        exhibit = self.exhibits[number]
        text = "<h2>{}</h2><p>{} <a href='voila/files/{}' download>Notebook {}</a> explains it.</p>"
        quoted = (exhibit.title, exhibit.teaches, exhibit.notebook + ".ipynb", exhibit.notebook)
        self.words.value = text.format(*map(html.escape, quoted))
        if number not in self._made:
            self.stage.children = [_said("One moment: it is being computed.")]
        self.stage.children = [self._explorer(number)]

    def _explorer(self, number):
        if number not in self._made:
            try:
                made = self.exhibits[number].make(**SIZES)
            except Exception as error:  # one that cannot be made must not take the others along
                return _said(f"This one cannot be made here. {type(error).__name__}: {error}")
            self._made[number] = getattr(made, "widget", made)
            self._made[number].add_class(f"vqcore-exhibit-{number}")
        return self._made[number]

    def _repr_mimebundle_(self, include=None, exclude=None):
        return self.widget._repr_mimebundle_()

    def __repr__(self):
        return f"Dashboard of {len(self.exhibits)} explorers"


def _said(text):
    """A text of whatever source: shown, never taken for markup."""
    return ipywidgets.HTML(f'<p role="status">{html.escape(text)}</p>')
