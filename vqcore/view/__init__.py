"""Pictures: one look, one function per role, `show` for notebooks, explorers to play with."""

from vqcore.view.bits import draw_bits, draw_rounding, draw_words, field_places
from vqcore.view.draw import (
    box_around,
    draw_arrows,
    draw_bound,
    draw_cells,
    draw_codebook,
    draw_distortions,
    draw_edges,
    draw_error,
    draw_intervals,
    draw_law,
    draw_now,
    draw_plane,
    draw_points,
    draw_step,
    draw_weights,
)
from vqcore.view.figures import figure, look, mosaic, plain, save, show
from vqcore.view.images import assemble, draw_patches, draw_picture, draw_rate_distortion, show_photograph
from vqcore.view.ratios import draw_growth, draw_ratios, draw_roofline

_EXPLORERS = {"Explorer": "explorer", "StepExplorer": "steps", "LawExplorer": "laws", "PlaneExplorer": "plane",
              "RunExplorer": "runs",
              "ProductExplorer": "products", "draw_parts": "products",
              "EmptyCellExplorer": "empty", "SoftExplorer": "soft",
              "LearningExplorer": "learning", "draw_gradients": "learning", "draw_tiles": "learning",
              "BitsExplorer": "bit_explorers", "RoundingExplorer": "bit_explorers",
              "ImageExplorer": "image_explorer", "NetworkExplorer": "network"}  # fmt: skip

__all__ = [
    "box_around", "draw_arrows", "draw_bits", "draw_bound", "draw_cells", "draw_codebook", "draw_distortions", "draw_edges",
    "draw_error", "draw_intervals", "draw_law", "draw_now", "draw_plane", "draw_points", "draw_rounding", "draw_step",
    "draw_weights", "draw_words", "field_places",
    "assemble", "draw_patches", "draw_picture", "draw_rate_distortion", "show_photograph",
    "draw_growth", "draw_ratios", "draw_roofline",
    "figure", "look", "mosaic", "plain", "save", "show", *_EXPLORERS,
]  # fmt: skip


def __getattr__(name):
    # Explorers import the widget packages; a figure does not need them.
    if name in _EXPLORERS:
        from importlib import import_module

        return getattr(import_module(f"vqcore.view.{_EXPLORERS[name]}"), name)
    raise AttributeError(f"module 'vqcore.view' has no attribute {name!r}")
