"""Gradient surrogates of exhaustive unit patching, and what makes them safe to use.

Each predicts, for all units and runs, ``metric(patched outcome, row) - metric(row.clean, row)``:
what ``patching.patch_units`` computes with one forward a unit, given the same rows and, as its
effect, a metric that is zero at ``row.clean``. They use derivatives at the natural run, or along a
path to the donor, and are wrong wherever the network after the site is curved; so this module also
says by how much (``surrogate_agreement``) and turns any of them into an unbiased estimate
(``control_variate_mean``).

VQ models: the gradient of a site before the codes is the straight-through one, which a patch that
changes a code does not follow.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from vaecausal_jax.indices import as_indices, is_traced
from vaecausal_jax.inference.correlation import spearman
from vaecausal_jax.interventions import Interventions, select, set_to, shift_by
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Outcome, Site, Sites, measure, outputs
from vaecausal_jax.sweeps.grid import SweepFn, sweep, unreduced
from vaecausal_jax.sweeps.patching import Rows

Metric = Callable[[Array, Rows], Array]
"""``metric(outcome, row) -> scalar`` of one run, as the ``effect`` of ``patch_units``."""


class Quadrature(NamedTuple):
    """A rule for integrals over [0, 1]: ``sum_k weights[k] f(nodes[k])``; both (nodes,)."""

    nodes: ArrayLike
    weights: ArrayLike


class HessianCorrected(NamedTuple):
    """A second-order estimate, and how much of it is second order; both (units, runs).

    Attributes:
        estimate: g.dh + dh'H dh / 2.
        reliability: |dh'H dh / 2| / |g.dh|: the LARGER, the less attribution patching is to be
            trusted. 0 where both are 0, infinite where only g.dh is.
    """

    estimate: Array
    reliability: Array


class ControlVariateMean(NamedTuple):
    """A mean over runs of which few were patched; each of the leading shape of ``exact``.

    Attributes:
        mean: The estimate.
        standard_error: Its standard error; Student's t with n - 2 degrees of freedom for intervals.
        variance_reduction: Variance of the plain mean of the exact runs over that of this estimate:
            how many times more exact runs the plain mean would need.
        coefficient: What the surrogate is multiplied by, averaged over the runs left out.
    """

    mean: Array
    standard_error: Array
    variance_reduction: Array
    coefficient: Array


class Agreement(NamedTuple):
    """How well a surrogate follows the exact effects; each without their last axis.

    Attributes:
        rank_correlation: Spearman's; NaN where either is constant.
        largest_relative_error: max |surrogate - exact| / |exact|.
        sign_errors: Share of effects whose sign the surrogate misses, a surrogate of 0 included;
            NaN where there is no effect to have a sign.
    """

    rank_correlation: Array
    largest_relative_error: Array
    sign_errors: Array


def attribution_patching(
    net: BoundModel,
    name: str,
    rows: Rows,
    metric: Metric,
    *,
    outcome: Outcome = outputs,
    sweep: SweepFn = sweep,
) -> Array:
    """First-order patch effects, g.dh_u with the gradient g at the natural run: one backward.

    Exact where the metric is affine in the site. For a quadratic metric the error is -dh'H dh / 2;
    a unit that leaves a dead ReLU has no gradient and reads 0 whatever its effect. Syed, Rager and
    Conmy 2023, "Attribution Patching Outperforms Automated Circuit Discovery" (arXiv:2310.10348).

    Args:
        net: The network with its parameters.
        name: The site; a convolution's unit is a whole channel.
        rows: The runs, as for ``patch_units``.
        metric: Scalar of a run's outcome and its row, such as the inner product of the change with
            the run's total effect, ``lambda y, row: jnp.vdot(y - row.clean, row.reference)``.
        outcome: Trace to the array that the metric is of.
        sweep: ``sweeps.sweep``, or a partial of it with a mesh or a block.

    Returns:
        (units, runs).

    Raises:
        ValueError: An unknown site, one without units such as VQ codes, rows that do not fit it, or
            a metric that is not a scalar.
    """
    sweep = unreduced(sweep)
    at_the_start = Quadrature(np.zeros(1), np.ones(1))
    return integrated_gradients_activations(
        net,
        name,
        rows,
        metric,
        rule=at_the_start,
        outcome=outcome,
        sweep=sweep,
    )


def hessian_corrected(
    net: BoundModel,
    name: str,
    rows: Rows,
    metric: Metric,
    *,
    outcome: Outcome = outputs,
    sweep: SweepFn = sweep,
) -> HessianCorrected:
    """Second-order patch effects, g.dh_u + dh_u'H dh_u / 2: one Hessian-vector product a unit.

    Exact for a quadratic metric of a site after which the network is linear. ReLU's kinks have no
    curvature: a patch that crosses one is neither corrected nor flagged. Zhang and Wang 2026, "When
    Attribution Patching Lies: Diagnosis and a Second-Order Correction" (arXiv:2606.09899).

    Arguments and errors are those of ``attribution_patching``.
    """
    sweep = unreduced(sweep)
    site, gradient = _site_gradient(net, name, rows, metric, outcome)

    def terms(unit, row):
        change = _unit_change(name, site, row, unit)
        slope, curvature = jax.jvp(lambda h: gradient(h, row), (row.natural,), (change,))
        return jnp.vdot(slope, change), 0.5 * jnp.vdot(curvature, change)

    first, second = sweep(terms, jnp.arange(site.num_units), rows)
    ratio = jnp.abs(second) / jnp.where(second == 0, 1.0, jnp.abs(first))
    return HessianCorrected(first + second, ratio)


def gauss_legendre(num_nodes: int) -> Quadrature:
    """Gauss-Legendre rule on [0, 1]: exact for polynomials of degree up to 2 num_nodes - 1.

    Patch effects integrate a gradient, so they are exact for metrics of one degree more. The left
    Riemann sum ``Quadrature(np.arange(m) / m, np.full(m, 1 / m))``, common in public code, is off
    by -dh'H dh / 2m even for a quadratic metric.
    """
    if num_nodes < 1:
        raise ValueError(f"num_nodes must be at least 1, got {num_nodes}.")
    nodes, weights = np.polynomial.legendre.leggauss(num_nodes)
    return Quadrature((nodes + 1) / 2, weights / 2)


def integrated_gradients(
    net: BoundModel,
    name: str,
    rows: Rows,
    metric: Metric,
    *,
    rule: Quadrature,
    outcome: Outcome = outputs,
    sweep: SweepFn = sweep,
) -> Array:
    """Gradient integrated along each unit's own path, all other units natural.

    integral_0^1 dh_u.grad(h + t dh_u) dt is the exact effect of patching u: the rule is the only
    error, so this converges to ``patch_units`` (which is cheaper) and tests it. One gradient a unit
    and node. Sundararajan, Taly and Yan 2017, "Axiomatic Attribution for Deep Networks"
    (arXiv:1703.01365).

    Arguments and errors are those of ``attribution_patching``; ``rule`` as from
    ``gauss_legendre``.
    """
    sweep = unreduced(sweep)
    site, gradient = _site_gradient(net, name, rows, metric, outcome)
    nodes, weights = _check_rule(rule, site)

    def slope(point, row):
        unit, t = point
        change = _unit_change(name, site, row, unit)
        return jnp.vdot(gradient(row.natural + t * change, row), change)

    points = jnp.meshgrid(jnp.arange(site.num_units), nodes, indexing="ij")
    points = tuple(axis.reshape(-1) for axis in points)
    slopes = sweep(slope, points, rows)
    return jnp.einsum("unr,n->ur", slopes.reshape(site.num_units, nodes.size, -1), weights)


def integrated_gradients_activations(
    net: BoundModel,
    name: str,
    rows: Rows,
    metric: Metric,
    *,
    rule: Quadrature,
    outcome: Outcome = outputs,
    sweep: SweepFn = sweep,
) -> Array:
    """dh_u times the mean gradient along the site's path from natural to donor, all units at once.

    Units share the path, so this is not a patch effect but a way to divide one: in the limit the
    units' values add up to the effect of patching the whole site. One gradient a node for all
    units. The node form of "EAP-IG-activations" of Mueller et al. 2025, "MIB: A Mechanistic
    Interpretability Benchmark" (arXiv:2504.13151).

    Arguments and errors are those of ``attribution_patching``; ``rule`` as from
    ``gauss_legendre``.
    """
    sweep = unreduced(sweep)
    site, gradient = _site_gradient(net, name, rows, metric, outcome)
    nodes, weights = _check_rule(rule, site)

    def shares(t, row):
        change = row.donor - row.natural
        return _per_unit(site, gradient(row.natural + t * change, row) * change)

    parts = sweep(shares, nodes, rows)
    return jnp.einsum("nru,n->ur", parts, weights)


def integrated_gradients_inputs(
    net: BoundModel,
    name: str,
    rows: Rows,
    donor_x: Array,
    metric: Metric,
    *,
    rule: Quadrature,
    outcome: Outcome = outputs,
    sweep: SweepFn = sweep,
) -> Array:
    """dh_u times the mean gradient at the site as the INPUT goes straight from x to donor_x.

    One gradient a node for all units; not an exact effect even in the limit. The node form of
    EAP-IG: Hanna, Pezzelle and Belinkov 2024, "Have Faith in Faithfulness: Going Beyond Circuit
    Overlap When Finding Model Mechanisms" (arXiv:2403.17806).

    Arguments and errors are those of ``attribution_patching``; ``donor_x`` are the inputs of the
    donors, of the shape of ``rows.x``; ``rule`` as from ``gauss_legendre``.
    """
    sweep = unreduced(sweep)
    site = _check_site(net.sites, name, rows)
    if jnp.shape(donor_x) != jnp.shape(rows.x):
        raise ValueError(
            f"donor_x has shape {jnp.shape(donor_x)}, expected that of rows.x, "
            f"{jnp.shape(rows.x)}: the input of each run's donor."
        )
    nodes, weights = _check_rule(rule, site)
    score = _score(net, metric, outcome)

    def shares(t, run):
        row, end = run
        x = row.x + t * (end - row.x)

        # The gradient in a zero shift is that in the site, whatever its value in this run.
        def shifted(amount):
            return score(x, shift_by(net.sites, name, amount), row)

        gradient = jax.grad(shifted)(jnp.zeros_like(row.natural))
        return _per_unit(site, gradient * (row.donor - row.natural))

    parts = sweep(shares, nodes, (rows, donor_x))
    return jnp.einsum("nru,n->ur", parts, weights)


def control_variate_mean(
    exact: ArrayLike, surrogate: ArrayLike, subset: ArrayLike
) -> ControlVariateMean:
    """Mean exact effect over runs of which all have a surrogate and a random subset was patched.

    With n exact effects Y among N surrogates X,

        mean = Ybar_n - lam (Xbar_n - Xbar_N),   Var = sd_Y^2 / n (1 - rho^2 (1 - n / N)),

    lam the regression slope of Y on X, rho their correlation. Each exact run takes lam from the
    other exact runs, and its X is compared with runs that had no part in that lam: so the mean is
    unbiased at any n, over random subsets of the N runs at hand as over runs drawn from a
    population. The standard error is for the population's mean, from how well the other runs
    predict each run. Angelopoulos et al. 2023, "Prediction-Powered Inference" (arXiv:2301.09633);
    Zrnic and Candès 2024, "Cross-Prediction-Powered Inference" (arXiv:2309.16598).

    Args:
        exact: Exact effects of the subset, (..., n), n >= 3; one row per unit, say.
        surrogate: Surrogate effects of all runs, (..., N). Runs must be independent: average both
            runs of a pair first.
        subset: Which runs are exact, (n,) distinct indices drawn at random from the N.

    Raises:
        ValueError: Shapes that do not fit, fewer than three exact runs, or indices that are
            repeated or out of range.
    """
    exact, surrogate = jnp.asarray(exact), jnp.asarray(surrogate)
    _check_subset(exact, surrogate, subset)
    num, share = exact.shape[-1], exact.shape[-1] / surrogate.shape[-1]
    # Measured from one of its values, a constant surrogate is exactly 0: rounding is no regressor.
    surrogate = surrogate - surrogate[..., :1]
    chosen = jnp.take(surrogate, jnp.asarray(subset), axis=-1)
    x = chosen - jnp.mean(chosen, -1, keepdims=True)
    y = exact - jnp.mean(exact, -1, keepdims=True)
    slope = _slope_without_each(x, y)
    offset = jnp.mean(chosen, -1, keepdims=True) - jnp.mean(surrogate, -1, keepdims=True)
    correction = slope * (offset + (1 - share) * x)
    plain = jnp.sum(y**2, -1) / (num - 1)
    unexplained = jnp.mean((num / (num - 1) * (y - slope * x)) ** 2, -1)
    variance = (1 - share) * unexplained + share * plain
    return ControlVariateMean(
        mean=jnp.mean(exact, -1) - jnp.mean(correction, -1),
        standard_error=jnp.sqrt(variance / num),
        variance_reduction=jnp.where(plain > 0, plain, 1) / jnp.where(plain > 0, variance, 1),
        coefficient=jnp.mean(slope, -1),
    )


def surrogate_agreement(
    exact: ArrayLike, surrogate: ArrayLike, *, floor: float = 0.01
) -> Agreement:
    """Compares a surrogate with the exact effects along the last axis.

    Arrays (units, runs) give one answer per unit; transposed, one per run, over its units; raveled,
    one overall. What ranks units are means over runs: compare those to trust a ranking.

    Args:
        exact: (..., effects), as from ``patch_units``.
        surrogate: The same shape.
        floor: Share of the largest exact effect up to which an effect counts as too small: its
            sign is not counted, and its error is relative to the floor instead.

    Raises:
        ValueError: Shapes that differ, fewer than two effects, or a floor outside [0, 1).
    """
    if jnp.shape(exact) != jnp.shape(surrogate) or jnp.shape(exact)[-1:] in {(), (0,), (1,)}:
        raise ValueError(
            f"exact {jnp.shape(exact)} and surrogate {jnp.shape(surrogate)} need one shape, with "
            "at least two effects on its last axis."
        )
    if not 0.0 <= floor < 1.0:
        raise ValueError(f"floor must lie in [0, 1), such as 0.01, got {floor}.")
    exact, surrogate = jnp.asarray(exact), jnp.asarray(surrogate)
    size, error = jnp.abs(exact), jnp.abs(surrogate - exact)
    least = floor * jnp.max(size, -1, keepdims=True)
    relative = error / jnp.where(error == 0, 1.0, jnp.maximum(size, least))
    counted = size > least
    wrong = jnp.sum(counted & (jnp.sign(surrogate) != jnp.sign(exact)), -1)
    num_counted = jnp.sum(counted, -1)
    return Agreement(
        spearman(exact, surrogate),
        jnp.max(relative, -1),
        jnp.where(num_counted > 0, wrong / jnp.maximum(num_counted, 1), jnp.nan),
    )


def _score(
    net: BoundModel, metric: Metric, outcome: Outcome
) -> Callable[[Array, Interventions, Rows], Array]:
    """The metric of one run, whose input may differ from its row's, under interventions."""

    def score(x, interventions, row):
        value = metric(measure(outcome, net(x, row.eps, interventions)), row)
        if jnp.shape(value) != ():
            raise ValueError(
                f"metric must return one number per run, got shape {jnp.shape(value)}; sum over "
                "the outcome's axes."
            )
        return value

    return score


def _site_gradient(
    net: BoundModel,
    name: str,
    rows: Rows,
    metric: Metric,
    outcome: Outcome,
) -> tuple[Site, Callable[[Array, Rows], Array]]:
    """The checked site, and the gradient of one run's metric in the site's value."""
    site = _check_site(net.sites, name, rows)
    score = _score(net, metric, outcome)

    def at(value, row):
        return score(row.x, set_to(net.sites, name, value), row)

    return site, jax.grad(at)


def _unit_change(name: str, site: Site, row: Rows, unit: Array) -> Array:
    """Donor minus natural in one unit, zero in the others."""
    mask, _ = select(name, site, unit=unit)
    return jnp.where(mask, row.donor - row.natural, 0.0)


def _per_unit(site: Site, value: Array) -> Array:
    """Sums a value of the site's shape over positions: (units,)."""
    return jnp.sum(value, [axis for axis in range(value.ndim) if axis != site.unit_axis])


def _slope_without_each(x: Array, y: Array) -> Array:
    """Regression slope of y on x without each sample in turn; both have mean 0. (..., samples)."""
    num = x.shape[-1]
    total = jnp.sum(x**2, -1, keepdims=True)
    xx = total - num / (num - 1) * x**2
    xy = jnp.sum(x * y, -1, keepdims=True) - num / (num - 1) * x * y
    # What rounding can leave of a sum of squares is no variance to regress on.
    varies = xx > num * jnp.finfo(xx.dtype).eps * total
    return jnp.where(varies, xy / jnp.where(varies, xx, 1.0), 0.0)


def _check_site(sites: Sites, name: str, rows: Rows) -> Site:
    """The site, once it is known to have units with a gradient and to fit the rows."""
    site = sites[name]
    if not _has_gradient(site):
        usable = [other for other in sites if _has_gradient(sites[other])]
        raise ValueError(
            f"site {name!r} ({site.dtype}{site.shape}, unit axis {site.unit_axis}) has no units "
            f"with a gradient. Use patch_units, or a site that has: {', '.join(usable)}."
        )
    for word, value in (("natural", rows.natural), ("donor", rows.donor)):
        if jnp.shape(value)[1:] != site.shape:
            raise ValueError(
                f"at site {name!r}: {word} has shape {jnp.shape(value)[1:]}, expected "
                f"{site.shape}, after its axis of runs."
            )
    return site


def _has_gradient(site: Site) -> bool:
    return site.unit_axis is not None and jnp.issubdtype(site.dtype, jnp.floating)


def _check_rule(rule: Quadrature, site: Site) -> tuple[Array, Array]:
    """Nodes and weights in the site's precision."""
    nodes, weights = (jnp.asarray(part, site.dtype) for part in rule)
    if nodes.ndim != 1 or nodes.shape != weights.shape or nodes.size == 0:
        raise ValueError(
            f"rule has nodes {nodes.shape} and weights {weights.shape}, expected one vector each, "
            "of one length, as from gauss_legendre(5)."
        )
    return nodes, weights


def _check_subset(exact: Array, surrogate: Array, subset: Any) -> None:
    num, total, given = exact.shape[-1:], surrogate.shape[-1:], np.shape(subset)
    fits = exact.shape[:-1] == surrogate.shape[:-1] and given == num
    if not fits or not (3,) <= num <= total:
        raise ValueError(
            f"exact {exact.shape}, surrogate {surrogate.shape} and subset {given} must "
            "be (..., n), (..., N) and (n,) with 3 <= n <= N."
        )
    if not is_traced(subset):
        as_indices("subset", "run", subset, total[0])
