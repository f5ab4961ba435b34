"""Effects: how much, through what and along which path an intervention changes an outcome.

``unit_effects`` and ``strengths`` say how strong a unit is, ``mediation`` and ``paths`` through
what an effect goes, ``shapley`` and ``attribution`` how it is shared out, and ``specificity``,
``modularity`` and ``codes`` what units are for. ``support`` says whether patched values are ones
that the network knows, ``mediators`` make what an effect may be carried by, and ``stored`` writes
the same analyses to disk.
"""

from vaecausal_jax.effects.attribution import (
    attribution_patching,
    control_variate_mean,
    integrated_gradients,
)
from vaecausal_jax.effects.codes import (
    code_effects,
    crossing_rates,
)
from vaecausal_jax.effects.decompositions import (
    Gram,
    MediationShares,
    NaturalEffects,
    four_way,
    mediation_shares,
)
from vaecausal_jax.effects.mediation import (
    mean_activations,
    mediate,
    natural_effects,
    site_mediation,
    unit_mediation,
)
from vaecausal_jax.effects.mediation_estimates import (
    depth_profile,
    estimate_mediation,
    proportion_mediated,
)
from vaecausal_jax.effects.modularity import (
    activation_changes,
    effect_modularity,
)
from vaecausal_jax.effects.paths import (
    path_effect,
    run_edges,
    sequential_effects,
    wiring,
)
from vaecausal_jax.effects.shapley import (
    latent_game,
    shapley_values,
)
from vaecausal_jax.effects.specificity import (
    classify_units,
    noise_specificity,
)
from vaecausal_jax.effects.strengths import (
    estimate_strengths,
    strength_samples,
)
from vaecausal_jax.effects.support import (
    check_subspace,
    reencode_gaps,
    support_scores,
)
from vaecausal_jax.effects.unit_effects import (
    UnitEffects,
    noise_floor,
    output_spread,
    resample_effects,
    shift_effects,
    total_index,
)

__all__ = [
    "Gram",
    "MediationShares",
    "NaturalEffects",
    "UnitEffects",
    "activation_changes",
    "attribution_patching",
    "check_subspace",
    "classify_units",
    "code_effects",
    "control_variate_mean",
    "crossing_rates",
    "depth_profile",
    "effect_modularity",
    "estimate_mediation",
    "estimate_strengths",
    "four_way",
    "integrated_gradients",
    "latent_game",
    "mean_activations",
    "mediate",
    "mediation_shares",
    "natural_effects",
    "noise_floor",
    "noise_specificity",
    "output_spread",
    "path_effect",
    "proportion_mediated",
    "reencode_gaps",
    "resample_effects",
    "run_edges",
    "sequential_effects",
    "shapley_values",
    "shift_effects",
    "site_mediation",
    "strength_samples",
    "support_scores",
    "total_index",
    "unit_mediation",
    "wiring",
]
