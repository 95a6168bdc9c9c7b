"""What a colour means, in one place. Hues are Okabe and Ito's (2008, "Color Universal Design").

Every role is at least 3:1 against white (a test measures it). Orange, sky and yellow are not, so they
only fill shapes that have a dark edge. A quantity is always viridis.
"""

POINT = "#777777"  # a dot, small and quiet
POINT_OVER_FILL = "#4D4D4D"  # the same where a quantity lies under it
CODEWORD = "#D55E00"  # vermillion: a diamond with a white edge
CELL = "#4D4D4D"  # edges only
CODE = "#000000"  # the integer, bold, beside its codeword
QUERY = "#000000"  # a star
RECONSTRUCTION = "#0072B2"  # blue: a ring
ERROR = "#0072B2"  # a thin segment from query to reconstruction
CURVE = "#000000"  # a distortion curve, with dots
NOW = "#D55E00"  # the ring around the current step
BOUND = "#757575"  # theory, dashed
LAW = "#0072B2"  # a density
SERIES = ("#0072B2", "#D55E00", "#007A5A", "#A9497F", "#000000")  # green and purple darkened to reach 3:1
SERIES_MARKERS = ("o", "s", "^", "v", "D")  # so that colour is never the only carrier
FILLS = ("#E69F00", "#56B4E9", "#F0E442")  # with a dark edge only
QUANTITY = "viridis"
PALE = 0.4  # of a quantity that lies under points and edges; the rest is white

ROLES = {
    name: value for name, value in globals().items() if name.isupper() and isinstance(value, str) and value[0] == "#"
}


def pale(colours):
    """Colours (n, 3), 0 to 1, as they are where they lie under points."""
    return PALE * colours + 1 - PALE


def contrast(colour, background="#FFFFFF"):
    """Contrast ratio from 1 to 21 of two "#RRGGBB" colours (WCAG 2.2, "contrast ratio")."""
    lighter, darker = sorted((_luminance(colour), _luminance(background)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour):
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
