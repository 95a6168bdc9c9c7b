"""The explorers of the suite as exhibits: what each shows and teaches, where it is explained, and how it is made."""

import io
from dataclasses import dataclass
from typing import Callable

import numpy as np

from vqcore import view
from vqcore.bits import pack
from vqcore.coding import encode
from vqcore.data import blobs, patches, photograph
from vqcore.lloyd import fit_lloyd
from vqcore.online import fit_clvq
from vqcore.sources import Normal

N_EPOCHS = 30


@dataclass(frozen=True)
class Exhibit:
    """An explorer before it is made.

    Attributes:
        title: a few words, for a button.
        teaches: one sentence.
        notebook: file name of the notebook that explains it.
        make: (n_points, n_codewords) -> an explorer; what an exhibit has no use for is ignored.
    """

    title: str
    teaches: str
    notebook: str
    make: Callable


def plane(n_points, n_codewords, seed=0):
    """Codewords to be dragged, from a random start."""
    points = blobs(n_points, 2, 6, 0.25, seed=seed)[0]
    start = np.random.default_rng(seed).choice(points, n_codewords, replace=False)
    best = min(fit_lloyd(points, n_codewords, n_steps=300, seed=s).distortion for s in range(5))
    return view.PlaneExplorer(points, start, best=best)


def laws(n_points, n_codewords, seed=0):
    """The cells of the optimal codebooks of the normal law."""
    return view.LawExplorer(Normal(), largest=max(2, n_codewords))


def steps(n_points, n_codewords, seed=0):
    """Forty steps of Lloyd's algorithm from a poor start: all codewords in the left quarter of the points."""
    points = blobs(n_points, 2, 6, 0.25, seed=seed)[0]
    left = points[np.argsort(points[:, 0])][: n_points // 4]
    start = np.random.default_rng(seed).choice(left, n_codewords, replace=False)
    return view.StepExplorer(points, fit_lloyd(points, n_codewords, start=start, n_steps=40))


def runs(n_points, n_codewords, seed=0):
    """Lloyd's algorithm on laws."""
    return view.RunExplorer(n_codewords=n_codewords, seed=seed)


def empty(n_points, n_codewords, seed=0):
    """Two codewords on one spot at the rim, where the one that is kept idle stays so."""
    points = blobs(n_points, 2, 5, 0.18, seed=seed + 3)[0]
    start = np.random.default_rng(seed).choice(points, n_codewords, replace=False)
    explorer = view.EmptyCellExplorer(points, start, seed=seed)
    x, y = explorer.controls["x"], explorer.controls["y"]
    explorer.set(x=x.min + 10 * x.step, y=y.min + 32 * y.step)
    return explorer


def soft(n_points, n_codewords, seed=0):
    """Soft EM from hot to cold, all temperatures beforehand: hence at most 1,500 points and 24 codewords."""
    points = blobs(min(n_points, 1_500), 2, 6, 0.18, seed=seed + 3)[0]
    return view.SoftExplorer(points, min(n_codewords, 24), seed=seed)


def learning(n_points, n_codewords, seed=0):
    """Lloyd, mini-batches and single samples from one start, thirty epochs."""
    points = blobs(n_points, 2, 6, 0.25, seed=seed)[0]
    start = np.random.default_rng(seed).choice(points, n_codewords, replace=False)
    lloyd = list(fit_lloyd(points, n_codewords, start=start, n_steps=N_EPOCHS).codebooks)
    stories = {"Lloyd": lloyd + (N_EPOCHS + 1 - len(lloyd)) * lloyd[-1:]}
    for name, batch in (("batches of 100", 100), ("one at a time", 1)):
        fit = fit_clvq(points, n_codewords, N_EPOCHS * n_points, batch, seed, start=start)
        # Its checkpoints lie closer and closer: the one nearest to each epoch.
        nearest = [np.abs(np.array(fit.n_samples) - epoch * n_points).argmin() for epoch in range(N_EPOCHS + 1)]
        stories[name] = [fit.codebooks[i] for i in nearest]
    best = min(fit_lloyd(points, n_codewords, n_steps=300, seed=s).distortion for s in range(5))
    return view.LearningExplorer(points, stories, level=best)


def products(n_points, n_codewords, seed=0):
    """A tilted bar: coordinates that depend on each other."""
    flat = np.random.default_rng(seed).uniform(-1, 1, (max(n_points, 256), 2)) * (1.0, 0.3)
    tilt = np.pi / 6
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    return view.ProductExplorer(flat @ turn, seed=seed)


def bits(n_points, n_codewords, seed=0):
    """Sixteen codes in words of 64 bits."""
    return view.BitsExplorer()


def rounding(n_points, n_codewords, seed=0):
    """One value of a gradient between two levels."""
    return view.RoundingExplorer(seed=seed)


def images(n_points, n_codewords, seed=0):
    """A photograph in patches of 1 to 8 pixels, beside its JPEG files; bytes of codes and codebook, no header."""
    image = 255 * photograph()[::2, ::2]
    image = image[: len(image) // 24 * 24, : image.shape[1] // 24 * 24]
    coded = {}
    for size in (1, 2, 4, 8):
        rows = patches(image, size)
        for number in (2, 4, 8, 16, 32, 64):
            fit = fit_lloyd(rows[:: 1 + 2 * (size < 3)], number, n_steps=12, seed=seed)
            codes, codebook = encode(rows, fit.codebook), np.rint(fit.codebook)
            n_bytes = 8 * len(pack(codes, (number - 1).bit_length())) + codebook.size
            coded[size, number] = n_bytes, view.assemble(codebook[codes], image.shape)
    return view.ImageExplorer(image, coded, [_jpeg(image, quality) for quality in (1, 3, 5, 8, 12, 20, 30, 50, 70, 90)])


def _jpeg(image, quality):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.uint8(image)).save(file, "jpeg", quality=quality, optimize=True)
    return file.tell(), np.asarray(Image.open(file), dtype=float)


def network(n_points, n_codewords, seed=0):
    """A network that reads digits, its weights replaced by codes."""
    from vqcore.app.network import compressed

    return view.NetworkExplorer(*compressed(seed))


EXHIBITS = (
    Exhibit(
        "Drag codewords",
        "Drag a codeword, or use the arrow keys: its cell follows, its weight, and which way the distortion falls.",
        "00_start_here", plane,
    ),
    Exhibit(
        "Optimal cells of a law",
        "With more codewords the optimal cells follow the density, and the distortion nears its asymptote.",
        "01_voronoi_cells", laws,
    ),
    Exhibit(
        "Lloyd, step by step",
        "In the plane: every codeword moves to the mean of its cell, and the distortion never rises.",
        "01_voronoi_cells", steps,
    ),
    Exhibit(
        "Lloyd against Newton",
        "On a line: at last each step of Lloyd shrinks the error by one factor; Newton, from the same start, squares it.",
        "02_lloyd_convergence", runs,
    ),
    Exhibit(
        "Empty cells",
        "Of two codewords on one spot one has no points: what to do with it is a decision, and it shows at the end.",
        "03_em_and_empty_cells", empty,
    ),
    Exhibit(
        "Temperature",
        "Hot, all codewords are one; as it gets colder they part at critical temperatures, and cold soft EM is Lloyd.",
        "03_em_and_empty_cells", soft,
    ),
    Exhibit(
        "Ways to learn",
        "A batch, a hundred samples, one sample at a time: different ways down the same slope.",
        "04_learned_codebooks", learning,
    ),
    Exhibit(
        "Product quantization",
        "Codewords of a product stand in a grid: many from few stored numbers, and some where nobody is.",
        "05_product_quantization", products,
    ),
    Exhibit(
        "Bits of a code",
        "Codes of any width follow each other without gaps, over the edges of words.",
        "06_bit_packing", bits,
    ),
    Exhibit(
        "Random rounding",
        "The nearer a value is to a level, the more often it goes there: right on average, unless chances are swapped.",
        "06_bit_packing", rounding,
    ),
    Exhibit(
        "Images",
        "A palette or patches against the picture, byte for byte beside JPEG.",
        "07_images", images,
    ),
    Exhibit(
        "A network",
        "Fewer bytes, fewer right answers; training the codebooks gives some of them back.",
        "08_compressing_a_network", network,
    ),
)  # fmt: skip
