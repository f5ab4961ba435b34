"""Gradient-boosted classification trees, exact and fast: every class of every factor at once.

DCI reads its importances off scikit-learn's ``GradientBoostingClassifier``, which grows one small
regression tree a class and round, one after another: minutes for one representation. The trees of a
round do not depend on each other, so here they are columns of one array, over all classes of all
factors. It is the same algorithm (multinomial deviance, depth 3, 100 rounds, shrinkage 0.1, every
threshold tried, importance as impurity decrease), not a binned or subsampled one: binning changes
which single points a leaf can isolate, and with them the importances (D moved by up to 0.09).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

_BLOCK = 32
"""Sorted rows scanned inside one fused loop; between blocks go prefix sums."""

_EXACT = jax.lax.Precision.HIGHEST

_FEATURE_THRESHOLD = 1e-7
"""Values closer than this count as equal, as in scikit-learn."""


class Boosted(NamedTuple):
    """Boosted trees fitted to each factor.

    Attributes:
        importance: Share of the impurity decrease due to each code, (codes, factors); columns sum
            to one, or are zero where no tree split.
        train_accuracy: (factors,).
        test_accuracy: (factors,).
    """

    importance: np.ndarray
    train_accuracy: np.ndarray
    test_accuracy: np.ndarray


class _Sorted(NamedTuple):
    """The training codes, sorted once.

    Attributes:
        order: Row at each sorted position, (block, blocks, codes); ``rows`` where padded.
        splits: 1 where a threshold fits between this position and the next, else 0; same shape.
        train: Sorted position of each training row, (rows, codes).
        test: For each test row the number of training thresholds below it, (test rows, codes).
    """

    order: Array
    splits: Array
    train: Array
    test: Array


class _Forest(NamedTuple):
    """State between rounds.

    Attributes:
        train: Raw scores (log-odds) of the training rows, (rows, classes of all factors).
        test: Of the test rows.
        importance: Impurity decrease so far, (codes, factors).
    """

    train: Array
    test: Array
    importance: Array


class _Grown(NamedTuple):
    """Trees of one round while they grow.

    Attributes:
        node: Where each training row is, in each class's tree, (rows, classes of all factors).
        test_node: Of the test rows.
        importance: Impurity decrease so far, (codes, factors).
    """

    node: Array
    test_node: Array
    importance: Array


def fit_boosted_trees(
    train_codes: np.ndarray,
    train_levels: np.ndarray,
    test_codes: np.ndarray,
    test_levels: np.ndarray,
    sizes: tuple[int, ...],
    *,
    num_rounds: int = 100,
    depth: int = 3,
    learning_rate: float = 0.1,
) -> Boosted:
    """Fits one boosted classifier a factor, as scikit-learn's ``GradientBoostingClassifier`` does.

    Greedy function approximation (Friedman 2001, doi:10.1214/aos/1013203451): each round fits, for
    each class, a regression tree to the residual y - p by variance reduction, sets each leaf to one
    Newton step, (K - 1)/K sum r / sum p (1 - p), and adds it shrunk by the learning rate. Where
    scikit-learn breaks ties between codes at random the first code wins here.

    Args:
        train_codes: (rows, codes).
        train_levels: Factor levels, (rows, factors), integers below ``sizes``.
        test_codes: (test rows, codes).
        test_levels: (test rows, factors).
        sizes: Number of levels of each factor.
        num_rounds: Trees a class.
        depth: Of each tree.
        learning_rate: Shrinkage.
    """
    columns = _sort(np.asarray(train_codes, np.float32), np.asarray(test_codes, np.float32))
    member = np.repeat(np.eye(len(sizes), dtype=np.float32), sizes, axis=0)
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    target = np.zeros((len(train_levels), sum(sizes)), np.float32)
    np.put_along_axis(target, train_levels + offsets[None, :], 1.0, axis=1)
    prior = np.log(np.maximum(target.mean(axis=0, keepdims=True), np.finfo(np.float32).tiny))
    target, member = jnp.asarray(target), jnp.asarray(member)
    forest = _Forest(
        jnp.broadcast_to(prior, target.shape),
        jnp.broadcast_to(prior, (len(test_codes), sum(sizes))),
        jnp.zeros((train_codes.shape[1], len(sizes))),
    )
    # A loop of calls, not a scan: inside one, XLA would run each kernel on one core of a CPU.
    for _ in range(num_rounds):
        forest = _add_round(forest, columns, target, member, sizes, depth, learning_rate)
    importance = np.asarray(forest.importance, np.float64)
    total = importance.sum(axis=0, keepdims=True)
    return Boosted(
        importance / np.where(total > 0, total, 1.0),
        _accuracy(forest.train, train_levels, sizes),
        _accuracy(forest.test, test_levels, sizes),
    )


def _sort(train: np.ndarray, test: np.ndarray) -> _Sorted:
    rows, codes = train.shape
    order = np.argsort(train, axis=0, kind="stable").T
    values = np.take_along_axis(train.T, order, axis=1)
    splits = np.diff(values, axis=1) > _FEATURE_THRESHOLD
    midpoints = (values[:, 1:].astype(np.float64) + values[:, :-1]) / 2
    position = np.empty((codes, rows), np.float32)
    np.put_along_axis(position, order, np.arange(rows, dtype=np.float32)[None, :], axis=1)
    below = [np.searchsorted(m, t) for m, t in zip(midpoints, test.T, strict=True)]
    blocks = -(-rows // _BLOCK)

    def blocked(sorted_columns, padding):
        width = ((0, 0), (0, blocks * _BLOCK - sorted_columns.shape[1]))
        padded = np.pad(sorted_columns, width, constant_values=padding)
        return padded.reshape(codes, blocks, _BLOCK).transpose(2, 1, 0)

    return _Sorted(
        jnp.asarray(blocked(order, rows), jnp.int32),
        jnp.asarray(blocked(splits, False), jnp.float32),
        jnp.asarray(position.T),
        jnp.asarray(np.stack(below, axis=1), jnp.float32),
    )


def _add_round(forest, columns, target, member, sizes, depth, learning_rate) -> _Forest:
    """One tree a class: all columns of ``target`` at once.

    It is several programs: in one, XLA would sort the residuals again inside each pass over them.
    """
    residual, weight, sorted_residual = _residuals(forest.train, columns, target, sizes)
    grown = _Grown(
        jnp.zeros(forest.train.shape, jnp.int8),
        jnp.zeros(forest.test.shape, jnp.int8),
        forest.importance,
    )
    for level in range(depth):
        grown = _grow(grown, sorted_residual, columns, member, level)
    return _newton_step(forest, grown, residual, weight, sizes, 2**depth, learning_rate)


@functools.partial(jax.jit, static_argnames="sizes")
def _residuals(raw, columns, target, sizes) -> tuple[Array, Array, Array]:
    """Residuals, the curvature of the deviance, and residuals in sorted order."""
    probability = _softmax(raw, sizes)
    residual = target - probability
    weight = probability * (1.0 - probability)
    return residual, weight, _at_order(residual, columns.order, 0.0)


@functools.partial(jax.jit, static_argnames="level")
def _grow(grown, sorted_residual, columns, member, level) -> _Grown:
    """Splits every node of every tree once."""
    sorted_node = _at_order(grown.node, columns.order, -1)
    code, position, gain = _best_splits(sorted_residual, sorted_node, 2**level, columns.splits)
    num_codes = grown.importance.shape[0]
    chosen = jax.nn.one_hot(code, num_codes, axis=1)  # (nodes, codes, classes)
    gains = jnp.matmul(jnp.sum(chosen * gain[:, None], axis=0), member, precision=_EXACT)
    return _Grown(
        _descend(grown.node, columns.train, chosen, position),
        _descend(grown.test_node, columns.test, chosen, position),
        grown.importance + gains,
    )


@functools.partial(jax.jit, static_argnames=("sizes", "num_leaves"))
def _newton_step(forest, grown, residual, weight, sizes, num_leaves, learning_rate) -> _Forest:
    """Adds each leaf's value to the raw scores of its rows."""
    by_class = jnp.arange(residual.shape[1])[None, :]
    zeros = jnp.zeros((num_leaves, residual.shape[1]))
    gradient = zeros.at[grown.node, by_class].add(residual)
    curvature = zeros.at[grown.node, by_class].add(weight)
    num_classes = jnp.array(np.repeat(sizes, sizes), jnp.float32)[None, :]
    newton = (num_classes - 1.0) / num_classes * gradient / jnp.where(curvature > 0, curvature, 1.0)
    step = learning_rate * jnp.where(curvature > 0, newton, 0.0)
    return _Forest(
        forest.train + step[grown.node, by_class],
        forest.test + step[grown.test_node, by_class],
        grown.importance,
    )


def _best_splits(residual, node, num_nodes, splits) -> tuple[Array, Array, Array]:
    """For each node and class: code, sorted position and variance reduction of the best split.

    With s and c the sum and count left of a threshold, S and C those of the node, the reduction is
    C (s - c S/C)^2 / (c (C - c)).
    """
    block, blocks, codes, classes = residual.shape
    nodes = jnp.arange(num_nodes, dtype=node.dtype)[None, :, None]
    shape = (blocks, codes, num_nodes, classes)

    def add_row(i, left_sum, left_count):
        inside = node[i][:, :, None] == nodes[None]
        return left_sum + jnp.where(inside, residual[i][:, :, None], 0.0), left_count + inside

    def gain(left_sum, left_count, total, fits):
        total_sum, total_count = total
        excess = left_sum - left_count * total_sum / jnp.maximum(total_count, 1.0)
        balance = left_count * (total_count - left_count)
        return fits * excess * excess * total_count / jnp.maximum(balance, 1.0)

    of_block = jnp.zeros(shape), jnp.zeros(shape)
    for i in range(block):
        of_block = add_row(i, *of_block)
    zero = jnp.zeros(shape[1:]), jnp.zeros(shape[1:])
    totals, before = jax.lax.scan(_exclusive_sum, zero, of_block)
    totals = totals[0][:1], totals[1][:1]  # (1, nodes, classes): the same for every code.

    left, best = before, jnp.zeros(shape)
    everywhere = totals[0][None], totals[1][None]
    for i in range(block):
        left = add_row(i, *left)
        best = jnp.maximum(best, gain(*left, everywhere, splits[i][:, :, None, None]))
    in_block, code = jnp.divmod(_first_best(best.reshape(-1, num_nodes, classes)), codes)

    # Again inside the chosen block alone, to see at which of its rows.
    column = jnp.arange(classes)[None, :]
    inside = node[:, in_block, code, column] == nodes
    rows = jnp.where(inside, residual[:, in_block, code, column], 0.0), inside.astype(jnp.float32)
    left_sum, left_count = (
        start[in_block, code, nodes[0], column][None] + jnp.cumsum(row, axis=0)
        for start, row in zip(before, rows, strict=True)
    )
    gains = gain(left_sum, left_count, totals, splits[:, in_block, code])
    position = in_block * block + jnp.argmax(gains, axis=0)
    best = jnp.max(gains, axis=0)
    return code, jnp.where(best > 0, position, block * blocks).astype(jnp.float32), best


def _first_best(values: Array) -> Array:
    """Argmax over the first axis; as two plain reductions, which XLA's CPU compiler does well."""
    index = jnp.arange(values.shape[0], dtype=jnp.int32)[:, None, None]
    is_best = values == jnp.max(values, axis=0, keepdims=True)
    return jnp.min(jnp.where(is_best, index, values.shape[0]), axis=0)


def _exclusive_sum(total, block):
    return jax.tree.map(jnp.add, total, block), total


def _descend(node: Array, positions: Array, chosen: Array, position: Array) -> Array:
    """The children that rows fall into: left up to the split's sorted position."""
    child = node
    for here in range(chosen.shape[0]):
        # A product with one-hot columns takes each class's column of positions as it is.
        value = jnp.matmul(positions, chosen[here], precision=_EXACT)
        right = value > position[here][None, :]
        child = jnp.where(node == here, 2 * node + right, child)
    return child


def _at_order(values: Array, order: Array, padding: float) -> Array:
    """Rows in sorted order of each code: (block, blocks, codes, classes)."""
    return jnp.pad(values, ((0, 1), (0, 0)), constant_values=padding)[order]


def _softmax(raw: Array, sizes: tuple[int, ...]) -> Array:
    """Class probabilities, factor by factor."""
    ends = np.cumsum(sizes)[:-1].tolist()
    return jnp.concatenate([jax.nn.softmax(part) for part in jnp.split(raw, ends, axis=1)], axis=1)


def _accuracy(raw: Array, levels: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    parts = np.split(np.asarray(raw), np.cumsum(sizes)[:-1], axis=1)
    guesses = np.stack([part.argmax(axis=1) for part in parts], axis=1)
    return np.mean(guesses == levels, axis=0)
