"""Linear support vector machines on one code each, all solved at once from prefix sums.

SAP trains one machine for every pair of code and factor, and scikit-learn's ``LinearSVC`` is one
binary problem a class: over a thousand small problems. Each has two unknowns, and the rows that
enter its loss lie on one side of a threshold of the code, so with the code sorted their sums are
differences of prefix sums: an exact Newton step costs a binary search, not a pass over the rows.
"""

from typing import NamedTuple

import numpy as np

_MAX_STEPS = 100
_TOLERANCE = 1e-10


class _Problems(NamedTuple):
    """One binary problem a code and class (of all factors), flattened to (codes * classes,).

    Prefix sums are complex: of x in the real part, of x^2 in the imaginary one, which one pass adds
    up.

    Attributes:
        values: Sorted training codes, (codes, rows).
        keys: ``problem * rows + rank`` of the rows of each class, ascending, (codes * factors *
            rows,).
        own: Prefix sums in the order of ``keys``, those of each code from 0, (codes, factors * rows
            + 1).
        start: Where each problem's class begins in ``keys``.
        everything: Prefix sums over all rows, (codes, rows + 1).
        cost: Weight of the squared hinge of rows in the class, and of the others, two arrays.
    """

    values: np.ndarray
    keys: np.ndarray
    own: np.ndarray
    start: np.ndarray
    everything: np.ndarray
    cost: tuple[np.ndarray, np.ndarray]


def one_code_accuracy(
    train_codes: np.ndarray,
    train_levels: np.ndarray,
    test_codes: np.ndarray,
    test_levels: np.ndarray,
    sizes: tuple[int, ...],
    *,
    cost: float = 0.01,
) -> np.ndarray:
    """Test accuracy of a linear SVM that predicts a factor from one code: (codes, factors).

    The machine is ``sklearn.svm.LinearSVC(C=cost, class_weight="balanced")``: one against the rest,
    squared hinge, the intercept penalised like the slope, solved here to the optimum. For each
    class it minimises (w^2 + b^2)/2 + cost * sum_n a_n max(0, 1 - y_n (w x_n + b))^2, with a the
    balanced weight N / (K N_c) for rows of the class and 1 for the others (of two classes both are
    balanced).

    Args:
        train_codes: (rows, codes).
        train_levels: (rows, factors), integers below ``sizes``.
        test_codes: (test rows, codes).
        test_levels: (test rows, factors).
        sizes: Number of levels of each factor.
        cost: The C of the machine.
    """
    slope, intercept = _minimise(_problems(train_codes, train_levels, sizes, cost))
    num_codes, ends = train_codes.shape[1], np.cumsum(sizes)
    slopes, intercepts = (
        np.split(lines.reshape(num_codes, -1), ends[:-1], axis=1) for lines in (slope, intercept)
    )
    accuracy = np.empty((num_codes, len(sizes)))
    for j, (w, b) in enumerate(zip(slopes, intercepts, strict=True)):
        if sizes[j] == 2:  # One machine: its sign decides.
            w, b = w[:, 1:] * [0.0, 1.0], b[:, 1:] * [0.0, 1.0]
        low, high = _where_largest(w, b)
        level = test_levels[:, j]
        own_low, own_high = (np.take(end.T, level, axis=0, mode="clip") for end in (low, high))
        inside = (own_low <= test_codes) & (test_codes <= own_high)
        accuracy[:, j] = np.mean(inside & (level >= 0)[:, None], axis=0)
    return accuracy


def _where_largest(slope: np.ndarray, intercept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The interval of x on which each line is the largest, (codes, lines); empty as [inf, -inf].

    Lines cross once, so a class is predicted on an interval, found without a look at the rows. Of
    equal lines the first wins.
    """
    rise = slope[:, :, None] - slope[:, None, :]
    lead = intercept[:, :, None] - intercept[:, None, :]
    parallel = rise == 0
    crossing = -lead / np.where(parallel, 1.0, rise)
    low = np.where(rise > 0, crossing, -np.inf).max(axis=2)
    high = np.where(rise < 0, crossing, np.inf).min(axis=2)
    first = np.tri(slope.shape[1], k=-1, dtype=bool)[None]  # [line, other]: the other comes first.
    beaten = (parallel & ((lead < 0) | ((lead == 0) & first))).any(axis=2)
    return np.where(beaten, np.inf, low), np.where(beaten, -np.inf, high)


def _problems(codes, levels, sizes, cost) -> _Problems:
    rows, num_codes = codes.shape
    first = np.concatenate([[0], np.cumsum(sizes)])
    classes = levels + first[:-1]
    counts = np.bincount(classes.ravel(), minlength=first[-1])
    balanced = rows / (np.repeat(sizes, sizes) * np.maximum(counts, 1))
    # Of two classes the machine is one problem, in which the rest has its own balanced weight.
    of_two = np.repeat(np.array(sizes) == 2, sizes)
    rest = np.where(of_two, rows / (2 * np.maximum(rows - counts, 1)), 1.0)
    # Sorting integers of 8 or 16 bits stably is a radix sort.
    of_row = np.ascontiguousarray(classes.T.astype(np.min_scalar_type(first[-1])))
    # The classes in order are the same for every code.
    begin = np.repeat(np.arange(first[-1]), counts).reshape(len(sizes), rows) * rows
    values = np.empty((num_codes, rows))
    keys = np.empty(
        (num_codes, len(sizes), rows), np.min_scalar_type(-num_codes * first[-1] * rows)
    )
    own = np.zeros((num_codes, len(sizes) * rows + 1), complex)
    everything = np.zeros((num_codes, rows + 1), complex)
    # A code at a time: what it needs stays in the cache.
    for i, column in enumerate(codes.T):
        order = np.argsort(column)
        values[i] = column[order]
        rank = np.argsort(np.take(of_row, order, axis=1), axis=1, kind="stable")
        keys[i] = begin + rank + i * first[-1] * rows
        moments = values[i] + 1j * values[i] ** 2
        np.cumsum(moments, out=everything[i, 1:])
        np.cumsum(np.take(moments, rank.ravel()), out=own[i, 1:])
    return _Problems(
        values,
        keys.ravel(),
        own,
        np.concatenate([[0], np.cumsum(np.tile(counts, num_codes))[:-1]]),
        everything,
        (cost * np.tile(balanced, num_codes), cost * np.tile(rest, num_codes)),
    )


def _minimise(problems: _Problems) -> tuple[np.ndarray, np.ndarray]:
    """Newton's method on every problem, halving a step that does not descend."""
    point = np.zeros((len(problems.start), 2))
    value, target = _newton(problems, point)
    size = np.ones(len(point))
    for _ in range(_MAX_STEPS):
        trial = point + size[:, None] * (target - point)
        trial_value, trial_target = _newton(problems, trial)
        better = trial_value <= value + _TOLERANCE * np.abs(value)
        moved = np.abs(target - point).max(axis=1) > _TOLERANCE * (1 + np.abs(point).max(axis=1))
        point = np.where(better[:, None], trial, point)
        value = np.where(better, trial_value, value)
        target = np.where(better[:, None], trial_target, target)
        size = np.where(better, 1.0, size / 2)
        if not moved.any():
            break
    return point[:, 0], point[:, 1]


def _newton(problems: _Problems, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Objective at (slope, intercept), and the minimum of its quadratic piece there."""
    w, b = point[:, 0], point[:, 1]
    own, _ = _sums_below(problems, w, b)  # Rows of the class with w x + b < 1,
    others = np.subtract(*_sums_below(problems, -w, -b)[::-1])  # others with w x + b > -1.
    value = (w * w + b * b) / 2
    linear, curvature = np.zeros((2, len(w))), np.zeros((3, len(w)))
    for sign, cost, sums in ((1.0, problems.cost[0], own), (-1.0, problems.cost[1], others)):
        s0, s1, s2 = cost * sums
        # sum of cost * (sign - (w x + b))^2
        value += s0 * (sign - b) ** 2 - 2 * (sign - b) * w * s1 + w * w * s2
        linear += 2 * sign * np.stack([s1, s0])
        curvature += 2 * np.stack([s0, s1, s2])
    bb, wb, ww = curvature + np.array([[1.0], [0.0], [1.0]])
    determinant = ww * bb - wb * wb
    slope = (linear[0] * bb - linear[1] * wb) / determinant
    return value, np.stack([slope, (linear[1] * ww - linear[0] * wb) / determinant], axis=1)


def _sums_below(problems: _Problems, w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of (1, x, x^2) over rows with w x + b < 1, of the class and of all: (3, problems)."""
    codes, rows = problems.values.shape
    flat = w == 0
    threshold = np.where(flat, np.inf, (1 - b) / np.where(flat, 1.0, w)).reshape(codes, -1)
    ranks = [np.searchsorted(v, t) for v, t in zip(problems.values, threshold, strict=True)]
    rank, of_code = np.concatenate(ranks), np.repeat(np.arange(codes), threshold.shape[1])
    wanted = (np.arange(len(rank)) * rows + rank).astype(problems.keys.dtype)
    cut = np.searchsorted(problems.keys, wanted)
    end = np.append(problems.start[1:], len(problems.keys))
    rising = (w > 0) | (flat & (b < 1))
    # The rows below the threshold, or those above it.
    own = np.where(rising, problems.start, cut), np.where(rising, cut, end)
    of_all = np.where(rising, 0, rank), np.where(rising, rank, rows)
    before = of_code * (problems.own.shape[1] - 1)
    own_moments, all_moments = (
        sums[of_code, last] - sums[of_code, first]
        for sums, (first, last) in (
            (problems.own, (own[0] - before, own[1] - before)),
            (problems.everything, of_all),
        )
    )
    return (
        np.stack([own[1] - own[0], np.real(own_moments), np.imag(own_moments)]),
        np.stack([of_all[1] - of_all[0], np.real(all_moments), np.imag(all_moments)]),
    )
