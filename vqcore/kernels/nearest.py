"""The compiled search for the nearest codeword: fast scores that screen, exact distances that decide.

Scores in bfloat16 (`halves`) are looked at first, where the processor has them; the points that they leave in doubt see
scores in the precision of the points (`scores`); and where these lie within their rounding bound, the direct form
(x - c)^2 in float64 decides, lowest index first. So the codes are those of exact arithmetic, at any offset; only the
time depends on how often two codewords are nearly equally far.
"""

from typing import NamedTuple

import numpy as np

from vqcore.kernels.compiling import njit
from vqcore.kernels.halves import RANKS, error_of_halves, search_halves
from vqcore.kernels.scores import Screen, parted, root_of, search
from vqcore.kernels.vectors import LANES

EPS32 = float(np.finfo(np.float32).eps)
IN_DOUBT, UNSURE, LOOKED_AT, LEFT = range(4)
ON_LINE = 256  # points whose places on a line are halved together


class Found(NamedTuple):
    """What is known of all points: code, squared distance, and a lower bound on the distance of all other codewords.

    (n,) each; the bounds may have no entry where nobody asks for them.
    """

    codes: np.ndarray
    sq_dists: np.ndarray
    bounds: np.ndarray


class Queue(NamedTuple):
    """Points that wait until LANES of them can be looked at together: how many of both kinds, and which.

    Attributes:
        waiting: how many are IN_DOUBT, and how many UNSURE, which halves left in doubt; how many points were LOOKED_AT
            by halves so far, and how many of these became unsure: were LEFT.
        doubtful, unsure: indices of points, ascending.
    """

    waiting: np.ndarray
    doubtful: np.ndarray
    unsure: np.ndarray


def queue_for(size):
    """An empty Queue for `size` more points in doubt at a time."""
    return Queue(np.zeros(4, np.int64), np.empty(size + LANES, np.int64), np.empty(2 * LANES, np.int64))


@njit(cache=True, nogil=True)
def nearest(first, last, points, codebook, screen, found, room):
    """Find the nearest codewords of some points (n, dim) in a float64 codebook (n_codewords, dim), by scores alone."""
    codes, sq_dists = found.codes, found.sq_dists
    for start in range(first, last, LANES):
        some = _in_order(room, start, min(LANES, last - start))
        search(points, some, 0, screen, room)
        _decide_close(points, some, codebook, room)
        for lane in range(len(some)):
            codes[start + lane] = room.codes[lane]
            sq_dists[start + lane] = sq_dist(points, start + lane, codebook, room.codes[lane])


@njit(cache=True, nogil=True)
def nearest_by_halves(first, last, points, codebook, screen, halves, found, queue, rooms):
    """As `nearest`, after a first look at halves."""
    for start in range(first, last, LANES):
        end, waiting = min(start + LANES, last), queue.waiting[IN_DOUBT]
        for i in range(start, end):
            queue.doubtful[waiting + i - start] = i
        queue.waiting[IN_DOUBT] = waiting + end - start
        settle(points, codebook, screen, halves, queue, found, rooms, end == last)


@njit(nogil=True)
def settle(points, codebook, screen, halves, queue, found, rooms, all_of_them):
    """Find the nearest codewords of the points in doubt, LANES at a time; fewer wait on, unless `all_of_them` are due.

    The rooms are those for scores and for halves.
    """
    waiting, doubtful, unsure, done = queue.waiting, queue.doubtful, queue.unsure, 0
    by_scores, by_halves = rooms
    while True:
        left = waiting[IN_DOUBT] - done
        by_halves_left = waiting[UNSURE] >= LANES or (all_of_them and left == 0 and waiting[UNSURE] > 0)
        if by_halves_left:
            some = unsure[: min(LANES, waiting[UNSURE])]
        elif left >= LANES or (all_of_them and left > 0):
            some = doubtful[done : done + min(left, LANES)]
            done += len(some)
            if halves is not None:
                # Halves that leave half the points in doubt cost more than they spare.
                if waiting[LOOKED_AT] < 4 * LANES or 2 * waiting[LEFT] < waiting[LOOKED_AT]:
                    before = waiting[UNSURE]
                    search_halves(points, some, halves, by_halves)
                    _settle_by_halves(points, some, codebook, screen.floor, halves, queue, found, by_scores, by_halves)
                    waiting[LOOKED_AT] += len(some)
                    waiting[LEFT] += waiting[UNSURE] - before
                    continue
        else:
            break
        search(points, some, 0, screen, by_scores)
        _decide_close(points, some, codebook, by_scores)
        _keep(points, some, by_scores.codes, by_scores.bounds, codebook, queue, found)
        if by_halves_left:
            waiting[UNSURE] -= len(some)
            for i in range(waiting[UNSURE]):
                unsure[i] = unsure[LANES + i]
    waiting[IN_DOUBT] -= done
    for i in range(waiting[IN_DOUBT]):
        doubtful[i] = doubtful[done + i]


@njit(nogil=True)
def _settle_by_halves(points, some, codebook, floor, halves, queue, found, by_scores, by_halves):
    """Keep what the lowest scores tell of some points; the others become unsure."""
    scores, tags, measures, errors = by_halves.lowest, by_halves.tags, by_halves.measures, by_halves.errors
    tag, codes, bounds, dim = np.uint32(halves.tag), by_scores.codes, by_scores.bounds, points.shape[1]
    largest, half_error, slack, n_tags = halves.largest, halves.error, halves.slack, halves.tag
    for lane in range(LANES):
        sq_norm, sq_error = np.float64(measures[lane]), np.float64(measures[LANES + lane])
        errors[lane] = error_of_halves(sq_norm, sq_error, dim, largest, half_error, slack, n_tags, floor)
    shrunk = 1 - (dim + 6) * EPS32
    for lane in range(len(some)):
        best, error = scores[lane], errors[lane]
        rank = 1  # how many may be the nearest
        while rank < RANKS and not parted(best, scores[rank * LANES + lane], error):
            rank += 1
        if rank == RANKS:
            codes[lane] = -1
            continue
        codes[lane] = np.int64(tags[lane] & tag)
        bounds[lane] = shrunk * np.float64(measures[lane]) + 2 * np.float64(scores[rank * LANES + lane]) - error
        if rank > 1:
            candidates = tags[lane : rank * LANES : LANES]
            codes[lane], second = decide_among(points, some[lane], codebook, candidates, tag)
            bounds[lane] = min(bounds[lane], second)
    for lane in range(LANES):
        bounds[lane] = root_of(bounds[lane])
    _keep(points, some, codes, bounds, codebook, queue, found)


@njit(nogil=True)
def _keep(points, some, codes, bounds, codebook, queue, found):
    """Keep the codes of some points, their squared distances, and bounds; a code of -1 makes a point unsure.

    A codeword that was neither chosen nor measured has at least the lowest score that was not, less what one score may
    err by, or lies farther than one that has.
    """
    all_codes, sq_dists, all_bounds = found.codes, found.sq_dists, found.bounds
    unsure, n_unsure, bounded = queue.unsure, queue.waiting[UNSURE], len(found.bounds) > 0
    for lane in range(len(some)):
        i, code = some[lane], codes[lane]
        if code < 0:
            unsure[n_unsure] = i
            n_unsure += 1
            continue
        if not bounded or code != all_codes[i]:
            all_codes[i], sq_dists[i] = code, sq_dist(points, i, codebook, code)
        if bounded:
            all_bounds[i] = bounds[lane]
    queue.waiting[UNSURE] = n_unsure


@njit(cache=True, nogil=True)
def nearest_parts(first, last, points, codebooks, screens, codes, room):
    """Fill codes (n, n_parts) of the n_parts runs of columns of points (n, dim), each with a codebook of its own.

    What a Screen knows has one more axis in front, but for the last two. A point is read once for all its parts.
    """
    shifts, scores_by, half_norms, largest, slacks, floor, eps = screens
    n_parts, _, width = codebooks.shape
    for start in range(first, last, LANES):
        some = _in_order(room, start, min(LANES, last - start))
        for m in range(n_parts):
            screen = Screen(shifts[m], scores_by[m], half_norms[m], largest[m], slacks[m], floor, eps)
            search(points, some, m * width, screen, room)
            _decide_close(points[:, m * width : (m + 1) * width], some, codebooks[m], room)
            for lane in range(len(some)):
                codes[start + lane, m] = room.codes[lane]


@njit(nogil=True)
def _in_order(room, start, size):
    """Indices of points that follow each other."""
    for lane in range(size):
        room.some[lane] = start + lane
    return room.some[:size]


@njit(nogil=True)
def _decide_close(points, some, codebook, room):
    """Where another codeword may be as near as that of the lowest score, exact distances say which it is."""
    close, codes = room.close, room.codes
    if len(codebook) > 1:
        for lane in range(len(some)):
            if close[lane]:
                codes[lane] = decide(points, some[lane], codebook)


@njit(nogil=True)
def decide_among(points, i, codebook, tags, tag):
    """The nearest of the few codewords whose numbers are the last bits of the tags, and the squared distance of the next;
    a tie goes to the lowest index.
    """
    nearest_code, lowest, second = np.int64(-1), np.inf, np.inf
    for candidate in tags:
        code = np.int64(candidate & tag)
        here = sq_dist(points, i, codebook, code)
        if here < lowest or (here == lowest and code < nearest_code):
            nearest_code, lowest, second = code, here, lowest
        else:
            second = min(second, here)
    return nearest_code, second


@njit(nogil=True)
def decide(points, i, codebook):
    """The codeword nearest to point i by the direct form in float64; a tie goes to the lowest index."""
    nearest_code, lowest = 0, np.inf
    for code in range(len(codebook)):
        here = sq_dist(points, i, codebook, code)
        if here < lowest:
            nearest_code, lowest = code, here
    return nearest_code


# Reassociation lets the sum run in SIMD lanes; the order is fixed when the kernel is compiled.
@njit(fastmath={"reassoc", "contract", "nsz"}, nogil=True)
def sq_dist(points, i, codebook, code):
    """Squared distance of point i from a codeword, in float64."""
    total = 0.0
    for d in range(points.shape[1]):
        apart = np.float64(points[i, d]) - codebook[code, d]
        total += apart * apart
    return total


@njit(cache=True, nogil=True)
def nearest_on_line(first, last, points, ascending, n_codewords, index, codes, sq_dists):
    """Fill codes (n,) and sq_dists (n,) for points (n,) by bisection in distinct ascending codewords.

    Args:
        ascending: n_codewords of them, then infinite ones up to a power of two less one.
    """
    for start in range(first, last, ON_LINE):
        stop = min(start + ON_LINE, last)
        some, places, values = points[start:stop], codes[start:stop], sq_dists[start:stop]
        for i in range(len(some)):
            places[i], values[i] = 0, np.float64(some[i])
        half = (len(ascending) + 1) // 2
        while half > 0:
            # How many codewords lie below the point. Unsigned indices, or numba asks whether they are negative.
            for i in range(len(some)):
                places[i] += half if ascending[np.uint64(places[i] + half - 1)] < values[i] else 0
            half //= 2
        for i in range(len(some)):
            x = values[i]
            left, right = np.uint64(max(places[i] - 1, 0)), np.uint64(min(places[i], n_codewords - 1))
            # Differences, not squares: those of a far point round to the same value.
            below, above = abs(x - ascending[left]), abs(ascending[right] - x)
            at = left if (below < above) | ((below == above) & (index[left] < index[right])) else right
            places[i], values[i] = index[at], (x - ascending[at]) ** 2


@njit(cache=True, nogil=True)
def nearer(first, last, points, codewords, sq_dists, result):
    """Fill result (n,) with the smaller of sq_dists and the squared distance to the nearest of a few codewords, float64."""
    points, sq_dists, result, dim = points[first:last], sq_dists[first:last], result[first:last], points.shape[1]
    for i in range(len(points)):
        lowest = sq_dists[i]
        for code in range(len(codewords)):
            total = 0.0
            for d in range(dim):
                total += (np.float64(points[i, d]) - codewords[code, d]) ** 2
            lowest = min(lowest, total)
        result[i] = lowest
