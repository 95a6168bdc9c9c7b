"""What every explorer is: controls, a pure state, a picture drawn from it, and its numbers as a sentence.

Only value widgets and `observe`: the picture is a widget whose bytes are replaced. A subclass says how its
figure is made, what stays, what moves with the state, and how the state is described.
"""

import asyncio
import functools
import html
import io

import ipywidgets
import matplotlib as mpl
import numpy as np
from matplotlib.text import Text
from PIL import Image

from vqcore.errors import InputError
from vqcore.view import figures, roles
from vqcore.view.lettering import Titles
from vqcore.view.picture import Picture

# A frame has more pixels than the page shows, so that it is sharp on a projector at 125 %.
FRAME_DPI = 125
MOST_FRAMES = 400
MOST_TOLD = 16  # values of a list in an error
N_OWN = 140  # colours of a frame that are its own
BESIDE = {"style": {"description_width": "8px"}, "layout": {"width": "220px"}}  # a check box, with room for its focus
# Seconds after a move until what may come next is drawn: the picture must be on its way, which a busy process delays.
REST = 0.02


class Explorer:
    """Controls above a picture above its numbers; shown by ending a cell in it.

    A subclass sets its own attributes, then calls this constructor with its controls, and defines

        new_figure()                a figure and its Axes, of whatever kind it likes
        draw_still(axes)            what no control changes
        draw_moving(axes, state)    what they do change: artists and titles, no limits, no new Axes
        describe(state)             one sentence with the numbers behind the picture

    Attributes:
        kind: of the frames, "png" or "jpeg".
        controls: the value widgets by name; setting `.value` from code moves the picture as a hand does.
        widget: all of it, as one ipywidgets box.
    """

    kind = "png"

    def __init__(self, controls, also=()):
        self.controls = dict(controls)
        self._canvas, self._frames, self._ahead = None, {}, None
        first = self.frame(self.state)
        self.picture = Picture(value=first, format=self.kind, alt=self.summary(), width=self._canvas.width,
                               at=self._places(self.state))  # fmt: skip
        self.caption = ipywidgets.HTML()
        row = ipywidgets.HBox([*also, *self.controls.values()], layout=ipywidgets.Layout(flex_flow="row wrap"))
        self.widget = ipywidgets.VBox([row, self.picture, self.caption])
        self.widget.add_class("vqcore-explorer")
        for control in self.controls.values():
            control.observe(self._follow, names="value")
        self._follow()

    @property
    def state(self):
        """The values of the controls by name."""
        return {name: control.value for name, control in self.controls.items()}

    def set(self, **values):
        """Move controls by name, as a hand would; a value they do not allow is refused."""
        for name, value in values.items():
            if name not in self.controls:
                raise InputError(f"{name}={value!r}: the controls are {', '.join(self.controls)}")
            control = self.controls[name]
            listed = [False, True] if isinstance(control, ipywidgets.Checkbox) else _listed(control)
            if listed and value not in listed:
                told = f"{listed[0]} to {listed[-1]}" if len(listed) > MOST_TOLD else ", ".join(map(str, listed))
                raise InputError(f"{name}={value!r}: the control allows {told}")
            before, control.value = control.value, value
            if control.value != value:  # a slider clips silently
                allowed, control.value = control.value, before
                raise InputError(f"{name}={value!r}: the nearest value that the control allows is {allowed!r}")

    def summary(self):
        """The numbers behind the picture as one stable sentence."""
        return self.describe(self.state)

    def figure(self):
        """The static twin: the same picture as a figure for `show` or `save`."""
        fig, axes = self.new_figure()
        with figures.look():
            self.draw_still(axes)
            self.draw_moving(axes, self.state)
        return fig

    def frame(self, state):
        """PNG bytes of the picture in a state; drawn once."""
        key = tuple(state.items())
        if key not in self._frames:
            if len(self._frames) >= MOST_FRAMES:
                del self._frames[next(iter(self._frames))]
            self._canvas = self._canvas or _Canvas(self)
            self._frames[key] = self._canvas.png(state)
        return self._frames[key]

    def _follow(self, change=None):
        summary = self.summary()
        self.picture.show(self.frame(self.state), summary, self._places(self.state))
        # The numbers come from laws, names and files: text, never markup. A screen reader speaks a status.
        self.caption.value = f'<div role="status" style="line-height:1.4">{html.escape(summary)}</div>'
        self._look_ahead(change)

    def _look_ahead(self, change):
        """Draw while nobody waits what comes next if a control goes on as it went, dragged, played or by keys."""
        if self._ahead is not None:
            self._ahead.cancel()
        following = self._following(change) if change else None
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # a script: nobody moves on by hand
        if following is not None:
            self._ahead = loop.call_later(REST, self._offer, following)

    def _offer(self, following):
        """Draw what follows a move, and lay it ready in the browser."""
        self.picture.offer(self.frame(following), self.describe(following), self._places(following))

    def _places(self, state):
        """A state as the browser knows it: the model id of each control to a trait and its value."""
        places = {}
        for name, control in self.controls.items():
            values = _listed(control)  # a list speaks of places in it
            place = ["index", values.index(state[name])] if values else ["value", state[name]]
            places[control.model_id] = place
        return places

    def _following(self, change):
        """The state in which the changed control has gone once more as far, or None."""
        control, state = change["owner"], self.state
        (name,) = (name for name, other in self.controls.items() if other is control)
        options = _listed(control)
        before, now = (options.index(change[which]) if options else change[which] for which in ("old", "new"))
        if isinstance(now, bool):
            return None
        after = 2 * now - before
        if options:
            return state | {name: options[after]} if 0 <= after < len(options) else None
        after = round(after, 10)  # as a slider rounds its decimals
        return state | {name: after} if control.min <= after <= control.max else None

    def __repr__(self):
        return self.summary()

    def _repr_mimebundle_(self, include=None, exclude=None):
        """The live widget, and beside it the picture and its numbers for who sees no widgets."""
        fig = self.figure()
        bundle = self.widget._repr_mimebundle_() | figures.mimebundle(fig, self.summary())
        return bundle, figures.mimedata(fig, self.summary())


def _listed(control):
    """The values from which a control takes one, or an empty list: any in its range."""
    return list(getattr(control, "_options_values", ()))


class _Canvas:
    """A figure of which only the moving part is drawn anew: what stays is kept as pixels."""

    def __init__(self, explorer):
        self.explorer = explorer
        fig, self.axes = explorer.new_figure()
        with figures.look():
            explorer.draw_still(self.axes)
            self.fig, self.width = fig, round(fig.get_figwidth() * figures.PIXELS_PER_INCH)
            fig.set_dpi(FRAME_DPI)
            moving = self._add_moving(explorer.state)
            fig.canvas.draw()  # with everything in place, once, so that the layout leaves room for it
            self.palette = _palette(np.asarray(fig.canvas.buffer_rgba()))
            fig.set_layout_engine("none")
            self._remove(moving)
            fig.canvas.draw()
        self.background = fig.canvas.copy_from_bbox(fig.bbox)
        self.titles = Titles(fig.canvas.get_renderer())

    def pixels(self, state):
        """The picture in a state, (height, width, 4) bytes, until the next one is drawn."""
        with figures.look():
            self.fig.canvas.restore_region(self.background)
            moving = self._add_moving(state)
            for artist in sorted(moving, key=lambda artist: artist.get_zorder()):
                if isinstance(artist, Text) and artist in _titles(artist.axes):
                    self.titles.draw(artist)
                else:
                    artist.axes.draw_artist(artist)
            self._remove(moving)
        return np.asarray(self.fig.canvas.buffer_rgba())

    def png(self, state):
        encoded = io.BytesIO()
        # One palette for all frames: a seventh of the time of true colours, and less than half of the bytes.
        frame = Image.fromarray(self.pixels(state)).convert("RGB")
        frame = frame.quantize(palette=self.palette, dither=Image.Dither.NONE)
        frame.save(encoded, "png", compress_level=1)
        return encoded.getvalue()

    def _add_moving(self, state):
        """Draw a state, and the artists (titles included) that were added, each with what undoes it."""
        still = {id(artist) for ax in self.fig.axes for artist in ax.get_children()}
        texts = {title: title.get_text() for ax in self.fig.axes for title in _titles(ax)}
        self.explorer.draw_moving(self.axes, state)
        added = [artist for ax in self.fig.axes for artist in ax.get_children() if id(artist) not in still]
        undo = {artist: artist.remove for artist in added}
        for title, text in texts.items():
            if title.get_text() != text:
                undo[title] = functools.partial(title.set_text, text)
        return undo

    def _remove(self, moving):
        for undo in moving.values():
            undo()


def _palette(pixels):
    """256 colours as a Pillow image: every role, those of a quantity, full and pale, and those of a first frame."""
    quantized = Image.fromarray(pixels).convert("RGB").quantize(N_OWN, method=Image.Quantize.MEDIANCUT)
    own = np.array(quantized.getpalette()[: 3 * N_OWN]).reshape(-1, 3)
    # Pillow looks colours up in boxes, where a nearly white entry would be taken for white.
    own = np.where(own.min(axis=1, keepdims=True) > 247, 255, own).ravel().tolist()
    named = [round(255 * share) for role in roles.ROLES.values() for share in mpl.colors.to_rgb(role)]
    ramp = mpl.colormaps[roles.QUANTITY](np.linspace(0, 1, 50))[:, :3]
    ramps = np.uint8(np.rint(255 * np.concatenate([ramp, roles.pale(ramp)]))).ravel().tolist()
    image = Image.new("P", (1, 1))
    image.putpalette((named + ramps + own)[: 3 * 256])
    return image


def _titles(ax):
    return ax.title, ax._left_title, ax._right_title
