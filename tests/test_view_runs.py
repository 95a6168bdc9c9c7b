"""The explorer of Lloyd's algorithm on laws: its half-steps, its rate, and what it refuses."""

import numpy as np
import pytest

import vqcore as vq
from vqcore import view
from vqcore.errors import InputError


@pytest.fixture(scope="module")
def explorer():
    return view.RunExplorer(n_codewords=6, n_steps=40)


@pytest.mark.parametrize("law", ["normal", "uniform", "Laplace", "exponential"])
@pytest.mark.parametrize("start", ["random", "companding", "crowded"])
def test_half_steps_never_raise_the_distortion_and_agree_with_integrals(explorer, law, start):
    run = explorer.run(law, start, 6)
    told = np.array([explorer._excess(run, *divmod(half, 2)) for half in range(81)])
    assert (np.diff(told) <= 1e-12).all() and told[-1] > -1e-12
    # After half a step the codewords are means, the cells still the old ones.
    edges, means = run.cells[3].edges, run.cells[3].means
    x = np.array(explorer.laws[law].ppf((np.arange(400_000) + 0.5) / 400_000))
    codes = np.searchsorted(edges[1:-1] if len(edges) == 7 else edges, x)
    by_points = np.mean((x - means[codes]) ** 2) / run.best - 1
    assert told[7] == pytest.approx(by_points, abs=2e-3 * (1 + by_points))


def test_the_last_steps_fall_by_the_square_of_the_spectral_radius():
    explorer = view.RunExplorer(n_codewords=4, n_steps=80)
    run = explorer.run("normal", "random", 4)
    falls = run.excess[41:61] / run.excess[40:60]
    assert falls == pytest.approx(run.rate**2, rel=0.02)
    assert run.newton[-1] < 1e-14 and len(run.newton) < 12


@pytest.mark.parametrize("law", ["normal", "uniform", "Laplace", "exponential"])
@pytest.mark.parametrize("start", ["random", "companding", "crowded"])
def test_lloyd_and_newton_start_from_one_codebook(explorer, law, start):
    for n_codewords in (2, 9, 12, 64):
        explorer.set(law=law, start=start, n_codewords=n_codewords, half=0)
        run = explorer.run(law, start, n_codewords)
        assert run.newton[0] == pytest.approx(run.excess[0], rel=1e-9, abs=1e-13)
        lloyd, newton = explorer.figure().axes[1].lines[0], explorer.figure().axes[1].lines[2]
        assert newton.get_marker() == "s"
        assert newton.get_ydata()[0] == pytest.approx(lloyd.get_ydata()[0], rel=1e-9, abs=1e-13)
        needed = int((run.newton < 1e-12).argmax())
        assert run.newton.min() < 1e-12 and f"from the same start, needs {needed} steps" in explorer.summary()
        # Memoryless halves follow the middle edge wherever it drifts.
        assert ("singular" in explorer.summary()) == (law == "Laplace" and n_codewords % 2 == 0)


def test_every_control_changes_the_picture_and_the_sentence(explorer):
    explorer.set(law="normal", start="random", n_codewords=6, half=0)
    seen = {bytes(explorer.picture.value): explorer.summary()}
    for change in ({"half": 1}, {"half": 2}, {"n_codewords": 20}, {"start": "crowded"}, {"law": "exponential"}):
        explorer.set(**change)
        seen[bytes(explorer.picture.value)] = explorer.summary()
    assert len(seen) == len(set(seen.values())) == 6
    assert "a half, codewords at the means of the old cells" in list(seen.values())[1]
    assert "exponential, 20 codewords, crowded start, step 1:" in explorer.summary()


def test_codewords_beyond_the_picture_are_counted(explorer):
    explorer.set(law="exponential", n_codewords=40, start="companding", half=0)
    out = int((explorer.run("exponential", "companding", 40).codebooks[0] > explorer.range[1]).sum())
    ax = explorer.figure().axes[0]
    assert out > 1 and [artist.texts for artist in ax.artists if hasattr(artist, "texts")] == [[f"{out} further out"]]
    explorer.set(law="normal", n_codewords=6)
    assert not [artist for artist in explorer.figure().axes[0].artists if hasattr(artist, "texts")]


def test_what_makes_no_run_is_refused():
    for wrong in ({"laws": {}}, {"laws": {"normal": 3}}, {"n_codewords": 1}, {"n_codewords": 65}, {"start": "best"}):
        with pytest.raises(InputError):
            view.RunExplorer(**wrong)
    with pytest.raises(InputError, match="best"):
        view.RunExplorer({"mine": vq.Normal()}, start="best")
