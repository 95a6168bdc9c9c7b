"""From points to codes and back: the nearest codeword, and what it costs to stand for its cell."""

import numpy as np

from vqcore import checks
from vqcore.kernels import passes


def assign(points, codebook):
    """Code (n,) int64 and squared distance (n,) float64 of the codeword nearest to each point.

    The codes are those of exact arithmetic, far from the origin too; a tie goes to the lowest index.

    Args:
        points: (n, dim), or (n,) with a codebook (n_codewords,); any float or integer type, numpy or torch; or a dask
            array, then the answers are dask arrays that nothing has computed yet (`dask.compute` both at once).
        codebook: (n_codewords, dim) or (n_codewords,).

    Raises:
        InputError: shapes that do not fit, values that are not finite or leave the range of squares.
    """
    table, points = checks.as_points(points, in_blocks=True)
    return table.assign(points, checks.as_codebook(codebook, points))


def encode(points, codebook):
    """Code (n,) int64 of the codeword nearest to each point; a tie goes to the lowest index."""
    return assign(points, codebook)[0]


def decode(codes, codebook):
    """The codewords (..., dim), or (...) in one dimension, that the codes stand for.

    They have the codebook's float type; float16 comes back as float32, integers as float64. Codes in a dask array
    give a dask array.

    Raises:
        InputError: codes that are not integers in [0, n_codewords).
    """
    book_table, book = checks.as_points(codebook, "codebook")
    table, codes = checks.as_codes(codes, book.shape[0], in_blocks=True)
    if book_table is not table or str(getattr(book, "device", "")) != str(getattr(codes, "device", "")):
        book = table.from_host(book_table.to_host(book), codes)
    return passes.row_by_row(table, _codewords, codes, book)


def _codewords(table, codes, codebook):
    return codebook[codes]


def distortion(points, codebook, sample_weight=None):
    """Mean of the squared distance between a point and its nearest codeword, a float."""
    table, points = checks.as_points(points, in_blocks=True)
    codebook = checks.as_codebook(codebook, points)
    sample_weight = checks.as_sample_weight(sample_weight, points)
    return passes.shares(table, points, codebook, sample_weight)[2]


def edges_between(ascending):
    """Edges (n_codewords - 1,) between ascending codewords: the last float that is not nearer to the upper one.

    Between codewords far apart that is their midpoint; between neighbouring floats only this rule agrees with
    `assign`. The first of equal codewords owns their cell, so the edges between the copies are its upper end.
    """
    below, above = ascending[:-1], ascending[1:]
    if (below < above).all():
        return _edges(below, above)
    with np.errstate(invalid="ignore"):
        return _edges(below, np.append(ascending, np.inf)[np.searchsorted(ascending, below, side="right")])


def _edges(below, above):
    edges = (below + above) / 2
    far = edges - below > above - edges
    return np.where(far, np.nextafter(edges, -np.inf), edges) if far.any() else edges
