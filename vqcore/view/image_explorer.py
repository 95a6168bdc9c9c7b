"""An explorer of a coded photograph: patch size and number of codewords against the picture, bytes and PSNR."""

import ipywidgets
import numpy as np

from vqcore import checks
from vqcore.errors import InputError
from vqcore.rates import psnr
from vqcore.view import draw, figures, images, roles
from vqcore.view.explorer import Explorer, _Canvas

FRAME_QUALITY = 90


class ImageExplorer(Explorer):
    """Two sliders, patch size and number of codewords: the picture they give, and the best JPEG of as many bytes.

    Args:
        image: (height, width, 3) of values from 0 to 255.
        coded: (patch_size, n_codewords) -> (n_bytes, picture), for all pairs; nothing is computed again.
        jpegs: pairs (n_bytes, picture).

    Raises:
        InputError: a pair is missing, or no JPEG is there.
    """

    kind = "jpeg"

    def __init__(self, image, coded, jpegs):
        self.image = checks.as_table(image, "image", (None, None, 3))
        sizes, numbers = (sorted({pair[i] for pair in coded}) for i in (0, 1))
        if not coded or len(coded) != len(sizes) * len(numbers):
            raise InputError(f"coded has {len(coded)} pairs: for {len(sizes)} patch sizes and {len(numbers)} numbers of "
                             f"codewords there must be {len(sizes) * len(numbers)}, and at least one")  # fmt: skip
        if not len(jpegs):
            raise InputError("jpegs is empty: pass at least one pair (n_bytes, picture)")
        self.coded = {pair: self._measured(*coded[pair]) for pair in sorted(coded)}
        self.jpegs = sorted((self._measured(*jpeg) for jpeg in jpegs), key=lambda jpeg: jpeg[0])
        wide = {"layout": ipywidgets.Layout(width="380px"), "style": {"description_width": "90px"}}
        super().__init__({
            "patch_size": ipywidgets.SelectionSlider(options=sizes, description="patch size", **wide),
            "n_codewords": ipywidgets.SelectionSlider(options=numbers, description="codewords", **wide),
        })  # fmt: skip

    def frame(self, state):
        """JPEG bytes of the picture in a state; drawn once."""
        self._canvas = self._canvas or _Photographs(self)
        return super().frame(state)

    def new_figure(self):
        return figures.mosaic([["coded", "plane"], ["jpeg", "plane"]], (8.8, 5.5), width_ratios=[1.05, 1])

    def draw_still(self, axes):
        for name in ("coded", "jpeg"):
            images.draw_picture(axes[name], np.full(self.image.shape, 255.0), "\n")
        points = np.array([[n_bytes, quality] for n_bytes, quality, _ in self.coded.values()])
        jpegs = np.array([[n_bytes, quality] for n_bytes, quality, _ in self.jpegs])
        plane = axes["plane"]
        images.draw_rate_distortion(plane, {"JPEG": jpegs.T})
        plane.lines[0].set(color=roles.CURVE, markersize=3)
        plane.texts[0].set(color=roles.CURVE)
        plane.plot(*points.T, "s", color=roles.POINT, markersize=3.5, zorder=2)
        plane.set_title("Up and to the left is better")

    def draw_moving(self, axes, state):
        n_bytes, quality, picture = self.coded[state["patch_size"], state["n_codewords"]]
        row = np.array([e[:2] for (size, _), e in self.coded.items() if size == state["patch_size"]])
        jpeg_bytes, jpeg_quality, jpeg = self._jpeg_at(n_bytes)
        plane = axes["plane"]
        plane.plot(*row.T, "-s", color=roles.LAW, markersize=4.5, linewidth=1.3, zorder=4)
        draw.draw_now(plane, n_bytes, quality)
        draw.draw_now(plane, jpeg_bytes, jpeg_quality)
        images.draw_picture(axes["coded"], picture, f"{_title(state)}\n{n_bytes:,} bytes, {quality:.2f} dB")
        images.draw_picture(axes["jpeg"], jpeg, f"{self._relation(n_bytes)}\n{jpeg_bytes:,} bytes, {jpeg_quality:.2f} dB")

    def describe(self, state):
        n_bytes, quality, _ = self.coded[state["patch_size"], state["n_codewords"]]
        jpeg_bytes, jpeg_quality, _ = self._jpeg_at(n_bytes)
        text = f"{_title(state)}: {n_bytes} bytes, {8 * n_bytes / self.image[..., 0].size:.3f} bits per pixel, "
        return f"{text}PSNR {quality:.2f} dB. {self._relation(n_bytes)}: {jpeg_bytes} bytes, PSNR {jpeg_quality:.2f} dB"

    def _measured(self, n_bytes, picture):
        n_bytes = checks.as_count(n_bytes, "n_bytes")
        picture = checks.as_table(picture, "picture", self.image.shape)
        return n_bytes, psnr(self.image, picture, 255), np.uint8(np.clip(np.rint(picture), 0, 255))

    def _jpeg_at(self, n_bytes):
        """The best JPEG of at most so many bytes, or the smallest of all."""
        small = [jpeg for jpeg in self.jpegs if jpeg[0] <= n_bytes]
        return max(small, key=lambda jpeg: jpeg[1]) if small else self.jpegs[0]

    def _relation(self, n_bytes):
        return "The best JPEG that is no larger" if self.jpegs[0][0] <= n_bytes else "The smallest JPEG, larger"

    def _repr_mimebundle_(self, include=None, exclude=None):
        """The live widget, and beside it the picture in true colours and its numbers for who sees no widgets."""
        fig = self.figure()
        bundle = self.widget._repr_mimebundle_() | images.photograph_bundle(fig, self.summary())
        return bundle, images.photograph_data(fig, self.summary())


class _Photographs(_Canvas):
    """A canvas whose frames keep their colours: few would hide the difference that is to be seen."""

    def png(self, state):
        return images.as_jpeg(self.pixels(state)[..., :3].copy(), FRAME_QUALITY, optimize=False)


def _title(state):
    size, number = state["patch_size"], state["n_codewords"]
    return f"{number} colours" if size == 1 else f"{number} patches of {size} × {size} pixels"
