"""From effects per image to numbers that can be published: intervals, tests, and their limits.

The sample is images (resampled in pairs, all arms of a contrast together), clusters of images that
share a base image, or trained models. To which of them a number generalises is part of its method.
"""

from vaecausal_jax.inference.bias import split_halves, squared_mean_effect
from vaecausal_jax.inference.bootstrap import (
    Bootstrap,
    bootstrap_function,
    bootstrap_mean,
    bootstrap_ratio,
    interquartile_mean,
)
from vaecausal_jax.inference.estimate import MIN_SEEDS, Estimate
from vaecausal_jax.inference.hypotheses import (
    SignFlipTest,
    equivalence_margin,
    equivalence_test,
    false_discovery,
    hierarchical_discovery,
    minimum_effect_test,
    sign_flip_test,
)
from vaecausal_jax.inference.intervals import fieller_ratio, over_seeds
from vaecausal_jax.inference.resampling import (
    Resampled,
    bca,
    expanded_level,
    linearised_ratio,
    percentile,
    poisson_weights,
    resample_ratio,
    simultaneous,
    studentised,
    sum_clusters,
)
from vaecausal_jax.inference.seeds import (
    UnitMatching,
    claim,
    match_units,
    seeds_to_reach,
    seeds_to_settle,
    smallest_p,
)
from vaecausal_jax.inference.sequences import Race, confidence_sequence, race
from vaecausal_jax.inference.two_level import (
    TwoLevel,
    VarianceComponents,
    bootstrap_two_level,
    resample_two_level,
    variance_components,
)

__all__ = [
    "Bootstrap",
    "MIN_SEEDS",
    "Estimate",
    "Race",
    "Resampled",
    "SignFlipTest",
    "TwoLevel",
    "UnitMatching",
    "VarianceComponents",
    "bca",
    "bootstrap_function",
    "bootstrap_mean",
    "bootstrap_ratio",
    "bootstrap_two_level",
    "claim",
    "confidence_sequence",
    "equivalence_margin",
    "equivalence_test",
    "expanded_level",
    "false_discovery",
    "fieller_ratio",
    "hierarchical_discovery",
    "interquartile_mean",
    "linearised_ratio",
    "match_units",
    "minimum_effect_test",
    "over_seeds",
    "percentile",
    "poisson_weights",
    "race",
    "resample_ratio",
    "resample_two_level",
    "seeds_to_reach",
    "seeds_to_settle",
    "sign_flip_test",
    "simultaneous",
    "smallest_p",
    "split_halves",
    "squared_mean_effect",
    "studentised",
    "sum_clusters",
    "variance_components",
]
