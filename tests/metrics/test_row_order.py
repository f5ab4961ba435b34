"""The order of rows is no part of a score: a law for every function of codes and factors.

Archives store their rows in grid order. What takes the leading rows for a sample of all gives the
answer of shuffled rows there, or refuses and says which factor and level, or which code.
"""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from public_api import functions_with
from score_calls import call

from vaecausal_jax.data import splits, sprites
from vaecausal_jax.inference import Estimate
from vaecausal_jax.metrics import dci, suite
from vaecausal_jax.metrics.arrays import check_row_order
from vaecausal_jax.training import trainer

SIZES = (3, 4, 5)
NUM_SHUFFLES = 3

SCORES = functions_with("codes", "factors") | {
    name: function
    for name, function in functions_with("factors").items()
    if name.startswith("metrics.") and "data" not in function.__annotations__
}


def grid(repeats: int) -> tuple[np.ndarray, np.ndarray]:
    """All combinations, the last factor fastest, each so often; and noisy codes of them."""
    axes = np.meshgrid(*map(np.arange, SIZES), indexing="ij")
    factors = np.repeat(np.stack(axes, axis=-1).reshape(-1, len(SIZES)), repeats, axis=0)
    noise = np.random.default_rng(0).normal(size=factors.shape)
    return factors + 0.5 * noise, factors


def level_last(factors: np.ndarray, factor: int, level: int) -> np.ndarray:
    """Rows in random order, but those of one level at the end."""
    rows = np.random.default_rng(1).permutation(len(factors))
    return rows[np.argsort(factors[rows, factor] == level, kind="stable")]


def by_three_models(codes: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same images by three models, one after another, whose axes are permuted and turned."""
    models = codes, -codes[:, [1, 2, 0]], codes[:, [2, 0, 1]]
    return np.concatenate(models), np.tile(factors, (3, 1))


CODES, FACTORS = grid(3)
ORDERS = {
    "grid": np.arange(len(CODES)),
    "sorted by factor 1": np.argsort(FACTORS[:, 1], kind="stable"),
    "sorted by factor 2, down": np.argsort(-FACTORS[:, 2], kind="stable"),
    "a level that comes last": level_last(FACTORS, 1, 2),
}
TABLES = {"one model": (CODES, FACTORS), "three models": by_three_models(*grid(9))}


def numbers(result) -> np.ndarray:
    """The mean of every array in a result, of estimates their value's."""
    leaves = jax.tree.leaves(result, is_leaf=lambda leaf: isinstance(leaf, Estimate))
    leaves = [leaf.value if isinstance(leaf, Estimate) else leaf for leaf in leaves]
    arrays = [np.asarray(leaf) for leaf in leaves if not isinstance(leaf, str)]
    return np.array([a.mean() for a in arrays if a.dtype.kind in "fiub" and a.size])


def score(name: str, table: str, rows: np.ndarray) -> np.ndarray:
    codes, factors = TABLES[table]
    if "infomec" in name or "joint_information" in name:  # Of few values.
        codes = np.round(codes)
    return numbers(call(name, SCORES[name], codes[rows], factors[rows]))


@functools.cache
def shuffled(name: str, table: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean over random orders, and how far from it a score may be."""
    length = len(TABLES[table][0])
    orders = [np.random.default_rng(i).permutation(length) for i in range(NUM_SHUFFLES)]
    found = [score(name, table, rows) for rows in orders]
    mean = np.mean(found, axis=0)
    # Few orders tell little of their spread: accuracies on 300 votes have a standard error of 3%.
    least = 0.15 if "key" in inspect.signature(SCORES[name]).parameters else 0.03
    return mean, 8 * np.std(found, axis=0, ddof=1) + least * np.abs(mean) + 1e-6


def check(name: str, table: str, rows: np.ndarray, refusal: str) -> None:
    try:
        found = score(name, table, rows)
    except ValueError as error:
        assert refusal in str(error)  # noqa: PT017 - a refusal is one of two right answers.
        assert "Shuffle first: rows = numpy" in str(error)  # noqa: PT017
        return
    mean, room = shuffled(name, table)
    assert (np.abs(found - mean) <= room).all(), (found, mean, room)


@pytest.mark.thorough
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", sorted(SCORES))
def test_rows_in_order_score_as_shuffled_ones_or_the_factor_is_named(name, order):
    factor = {"grid": 0, "sorted by factor 2, down": 2}.get(order, 1)
    check(name, "one model", ORDERS[order], f"factor {factor} has level ")


@pytest.mark.thorough
@pytest.mark.parametrize("name", sorted(SCORES))
def test_codes_of_several_models_one_after_another_score_as_shuffled_or_are_named(name):
    rows = np.arange(len(TABLES["three models"][0]))
    check(name, "three models", rows, "code ")


@pytest.mark.parametrize("rows", [30, 60, 90, 300, 1500])
def test_no_random_order_is_refused_nor_any_resample_of_one(rows):
    rng = np.random.default_rng(rows)
    for _ in range(20):
        factors = np.stack([rng.integers(0, size, rows) for size in (2, 3, 5, 40)], axis=1)
        codes = factors + rng.normal(size=factors.shape)
        num_train = 2 * rows // 3
        for _ in range(4):
            lead = rng.integers(0, num_train, num_train)
            again = np.concatenate([lead, rng.integers(num_train, rows, rows - num_train)])
            check_row_order(codes[again], factors[again], num_train)


def test_a_level_that_few_rows_have_may_be_missing_anywhere():
    factors = np.random.default_rng(0).integers(0, 3, (300, 2))
    codes = factors + np.random.default_rng(1).normal(size=factors.shape)
    factors[-3:, 0] = 3
    split = dci.split_train_test(codes, factors, None)
    assert (split.test_levels[-3:, 0] == -1).all()


def test_refusal_names_value_rows_and_remedy():
    with pytest.raises(
        ValueError,
        match=r"factor 0 has level 0.5 in 60 of the first 120 rows and in none of the other 60: "
        r"the rows are sorted or grouped.*permutation\(180\); codes, factors = codes\[rows\], fac",
    ):
        check_row_order(CODES, FACTORS / 2 + 0.5)


def test_batches_and_held_out_rows_of_ordered_data_are_drawn_from_all_of_it():
    rows = np.arange(1000) / 999
    batch = np.asarray(
        trainer.draw_batch(jax.random.key(0), jnp.asarray(rows).reshape(-1, 1, 1, 1), 400)
    )
    assert abs(batch.mean() - 0.5) < 6 * np.sqrt(1 / 12 / 400)
    world = sprites(16, num_scales=2, num_orientations=3, num_positions=4)
    levels = np.asarray(splits.held_out_rows(jax.random.key(0), world, 300))
    assert [len(np.unique(column)) for column in levels.T] == [f.size for f in world.factors]


def test_a_suite_of_scores_without_training_refuses_sorted_rows_too():
    rows = np.random.default_rng(0).permutation(120)
    factors = np.stack([np.repeat(np.arange(3), 40), np.tile(np.arange(4), 30)], axis=1)
    codes = factors + np.random.default_rng(1).normal(size=factors.shape) / 4
    options = {"names": ("mig",), "num_replicates": 0, "num_shuffles": 0}
    assert dict(suite.score_suite(jax.random.key(0), codes[rows], factors[rows], **options))
    with pytest.raises(ValueError, match="factor 0 has level"):
        suite.score_suite(jax.random.key(0), codes, factors, **options)
