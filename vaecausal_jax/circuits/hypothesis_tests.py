"""Hypothesis tests on a circuit, from how it scores pair by pair.

After Shi et al. 2024, "Hypothesis Testing the Circuit Hypothesis in LLMs" (arXiv:2410.13032), with
other tests of the same questions:

    equivalence     the circuit scores like the network: two one-sided tests with a stated margin,
                    which small samples do not pass, and an exact sign test, ties split
    independence    without it nothing of the outcome is left: a permutation test of HSIC, in which
                    each variable has its own bandwidth
    minimality      each part matters more than parts outside: ranks, Benjamini and Hochberg
    sufficiency, necessity    the circuit does better than random ones of its size: ranks

p-values of permutations and ranks are (1 + count) / (1 + number): never 0.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from scipy import stats

from vaecausal_jax.circuits.evaluation import faithfulness_samples
from vaecausal_jax.circuits.masks import (
    Masks,
    as_booleans,
    flat_scores,
    random_circuits,
    stack_circuits,
    unflatten,
    without_each,
)
from vaecausal_jax.circuits.tasks import Task, outcomes, run_circuit
from vaecausal_jax.effects.paths import OUTCOME, Values
from vaecausal_jax.inference import (
    Estimate,
    equivalence_margin,
    equivalence_test,
    false_discovery,
)


class Equivalence(NamedTuple):
    """Whether a circuit scores like the whole network.

    Attributes:
        difference: f(C) - 1, with interval.
        p_value: Of a difference of at least the margin; a small one shows equivalence.
        smallest_margin: The least margin that would pass at 1 - level.
        share_above: Share of pairs in which the circuit scores above the network, ties split.
        p_sign: Exact two-sided test that this share is one half.
    """

    difference: Estimate
    p_value: float
    smallest_margin: float
    share_above: float
    p_sign: float


class Independence(NamedTuple):
    """Whether the outcome without the circuit still depends on the network's.

    Attributes:
        hsic: Hilbert-Schmidt independence criterion.
        p_value: Of independence; a small one says that the circuit left something out.
    """

    hsic: float
    p_value: float


class Minimality(NamedTuple):
    """Whether each part of a circuit is needed.

    Attributes:
        labels: The label of each part; see ``flat_scores``.
        change: (parts,) mean over pairs of |m(C) - m(C without it)| over m(full) - m(empty).
        reference: The same change when a random part from outside joins the circuit.
        p_value: (parts,) adjusted p-values of mattering no more than parts from outside
            (Benjamini and Hochberg).
    """

    labels: list[tuple[Any, ...]]
    change: np.ndarray
    reference: np.ndarray
    p_value: np.ndarray


class AgainstRandom(NamedTuple):
    """A circuit among random ones that have as many parts in every layer.

    Attributes:
        sufficiency: f(C).
        necessity: 1 - f(full without C).
        random_sufficiency: (circuits,) f of random circuits.
        random_necessity: (circuits,) necessity of random circuits.
        p_sufficiency: p-value of the circuit's sufficiency, by its rank among random ones.
        p_necessity: p-value of the circuit's necessity, by the same rank.
    """

    sufficiency: float
    necessity: float
    random_sufficiency: np.ndarray
    random_necessity: np.ndarray
    p_sufficiency: float
    p_necessity: float


def equivalence(
    key: Array,
    task: Task,
    circuit: Masks,
    reference: Values,
    *,
    margin: float,
    ablation: str,
    level: float = 0.95,
) -> Equivalence:
    """Tests that the circuit's metric is the network's, within a margin.

    Args:
        key: Typed PRNG key.
        task: The task.
        circuit: The circuit.
        reference: What is ablated to.
        margin: Largest |f(C) - 1| that counts as none, such as 0.1.
        ablation: Its name.
        level: Coverage; margins pass at 1 - level.

    Raises:
        ValueError: A margin that is not positive, or full and empty circuits that score alike.
    """
    if not margin > 0:
        raise ValueError(f"margin must be positive, got {margin}.")
    samples = faithfulness_samples(task, stack_circuits([circuit]), reference)
    mean = samples.total.mean()
    if mean == 0:
        raise ValueError("the full and the empty circuit score alike: nothing to be faithful to.")
    difference = samples.restored[0] - samples.total
    share, p_sign = sign_test(difference)
    return Equivalence(
        samples._replace(restored=difference).estimate(key, ablation=ablation, level=level),
        float(equivalence_test(difference / mean, margin)),
        float(equivalence_margin(difference / mean, level=level)),
        share,
        p_sign,
    )


def sign_test(differences: ArrayLike) -> tuple[float, float]:
    """Share of positive differences, ties split, and the exact p-value that it is one half.

    Where an odd number of ties leaves half a count, it goes to the side that has fewer.
    """
    differences = np.asarray(differences, float)
    if differences.ndim != 1 or differences.size == 0 or np.isnan(differences).any():
        raise ValueError(
            f"differences must be a vector without NaN, got shape {differences.shape}."
        )
    num = differences.size
    above = (differences > 0).sum() + (differences == 0).sum() / 2
    fewer = int(np.ceil(min(above, num - above)))
    return float(above / num), float(stats.binomtest(fewer, num).pvalue)


def independence(
    key: Array, task: Task, circuit: Masks, reference: Values, *, num_permutations: int = 999
) -> Independence:
    """Tests that the network's outcomes say nothing about those of the network without the circuit.

    Args:
        key: Typed PRNG key.
        task: The task; at least four pairs.
        circuit: The circuit, which is ablated while everything else runs.
        reference: What it is ablated to. Under "corrupt" the reference run itself may go with the
            target's, since both share all factors but one: "mean" tests the network alone.
        num_permutations: Random orders behind the p-value.
    """
    rest = {k: ~jnp.asarray(mask, bool) for k, mask in circuit.items()}
    held = {n: reference[n] for n in reference if n != OUTCOME}
    run = jax.jit(jax.vmap(lambda x, eps, held: run_circuit(task, rest, x, eps, held)))
    left = run(task.pairs.x1, task.pairs.eps, held)
    return Independence(*hsic_test(key, outcomes(task)[1], left, num_permutations=num_permutations))


def hsic_test(
    key: Array, first: ArrayLike, second: ArrayLike, *, num_permutations: int = 999
) -> tuple[float, float]:
    """HSIC of two paired samples, and the p-value of their independence.

    tr(K H L H) / n^2 with Gaussian kernels, each with the median distance of its own variable as
    bandwidth (Gretton et al. 2008, "A Kernel Statistical Test of Independence"). A constant
    variable is independent of everything: (0, 1).

    Args:
        key: Typed PRNG key.
        first: (samples, ...), four or more.
        second: (samples, ...).
        num_permutations: Random orders behind the p-value.

    Raises:
        ValueError: Samples that differ in number, or fewer than four.
    """
    first, second = (np.asarray(a, float) for a in (first, second))
    if len(first) != len(second) or len(first) < 4:
        raise ValueError(f"samples {first.shape} and {second.shape} must be paired, four or more.")
    a, b = _kernel(first.reshape(len(first), -1)), _kernel(second.reshape(len(second), -1))
    if a is None or b is None:
        return 0.0, 1.0
    centred = a - a.mean(0) - a.mean(1)[:, None] + a.mean()
    draws = jnp.tile(jnp.arange(len(a)), (num_permutations, 1))
    orders = np.asarray(jax.random.permutation(key, draws, axis=1, independent=True))
    value = (centred * b).sum() / len(a) ** 2
    null = np.array([(centred * b[np.ix_(o, o)]).sum() for o in orders]) / len(a) ** 2
    # Equal sums in another order are ties, not smaller ones.
    count = (null >= value - 1e-12 * abs(value)).sum()
    return float(value), float((1 + count) / (1 + num_permutations))


def minimality_test(
    key: Array, task: Task, circuit: Masks, reference: Values, *, num_random: int = 200
) -> Minimality:
    """Tests that taking a part from the circuit changes more than adding one from outside.

    Parts outside are what a part that does not belong there looks like; under the null a part's
    change ranks among theirs at random. With R of them no p is below 1 / (1 + R).

    Args:
        key: Typed PRNG key.
        task: The task.
        circuit: The circuit; some parts are outside it.
        reference: What is ablated to.
        num_random: The most parts from outside; all if there are fewer.

    Raises:
        ValueError: An empty or a full circuit.
    """
    circuit = as_booleans(circuit)
    without, labels = without_each(circuit)
    flat = flat_scores(circuit)[0].astype(bool)
    outside = np.flatnonzero(~flat)
    if outside.size == 0:
        raise ValueError("every part is in the circuit: there is none outside to compare with.")
    order = np.asarray(jax.random.permutation(key, jnp.asarray(outside)))[:num_random]
    joined = unflatten(circuit, flat | (np.arange(flat.size) == order[:, None]))
    stacked = {
        k: np.concatenate([mask[None], joined[k], without[k]]) for k, mask in circuit.items()
    }
    samples = faithfulness_samples(task, stacked, reference)
    total = samples.total.mean()
    changes = np.abs(samples.restored[1:] - samples.restored[:1]).mean(1)
    changes = changes / (abs(total) if total != 0 else np.nan)
    random, change = changes[: len(order)], changes[len(order) :]
    p_value = (1 + (random[None, :] >= change[:, None]).sum(1)) / (1 + random.size)
    return Minimality(labels, change, random, false_discovery(p_value))


def against_random(
    key: Array, task: Task, circuit: Masks, reference: Values, *, num_random: int = 99
) -> AgainstRandom:
    """Compares what a circuit carries, and what is lost without it, with random circuits.

    Args:
        key: Typed PRNG key.
        task: The task.
        circuit: The circuit.
        reference: What is ablated to.
        num_random: Random circuits, of as many parts in every site, or pair of sites.
    """
    circuit = as_booleans(circuit)
    drawn = random_circuits(key, circuit, num_random)
    alone = {k: np.concatenate([circuit[k][None], drawn[k]]) for k in circuit}
    both = {k: np.concatenate([alone[k], ~alone[k]]) for k in circuit}
    values = faithfulness_samples(task, both, reference).ratio()
    sufficient, necessary = values[: num_random + 1], 1 - values[num_random + 1 :]
    ranks = [
        float((1 + (v[1:] >= v[0] - 1e-6 * abs(v[0])).sum()) / (1 + num_random))
        for v in (sufficient, necessary)
    ]
    return AgainstRandom(
        float(sufficient[0]), float(necessary[0]), sufficient[1:], necessary[1:], *ranks
    )


def _kernel(rows: np.ndarray) -> np.ndarray | None:
    """Gaussian kernel with the median distance as bandwidth; None for a constant variable."""
    squares = (rows**2).sum(1)
    distances = np.maximum(squares[:, None] + squares[None] - 2 * rows @ rows.T, 0)
    np.fill_diagonal(distances, 0.0)
    above = distances[np.triu_indices(len(rows), 1)]
    # What rounding leaves of the distance of equal rows is none.
    above = above[above > 1e-12 * max(squares.max(), np.finfo(float).tiny)]
    if above.size == 0:
        return None
    return np.exp(-distances / (2 * np.median(above)))
