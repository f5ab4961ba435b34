"""Item-based VAE of recommendations: an item is the counts of the users who took it."""

from vaecausal_jax.training.objectives.beta import beta_vae
from vaecausal_jax.training.objectives.likelihoods import multinomial
from vaecausal_jax.training.objectives.objective import Objective


def item_vae(beta: float = 0.2) -> Objective:
    """beta-VAE with a multinomial likelihood over users (Park et al. 2022, arXiv:2211.01333).

    An "image" is an item, (1, users, 1): how often each user took it. Its model is any of vectors,
    such as ``models.mlp_vae((1, users, 1))``. A beta below one is the field's habit for this
    likelihood (Liang et al. 2018, arXiv:1802.05814), whose input dropout and annealing are left
    out. What it means for groups of users: ``experiments/fair_items``.

    Args:
        beta: Weight of the KL.
    """
    return beta_vae(beta, multinomial())._replace(name="item_vae")
