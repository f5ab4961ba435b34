"""What questions are asked on: two runs that are compared, and runs whose values are redrawn."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vaecausal_jax.data.dataset import Dataset, images, minimal_levels
from vaecausal_jax.errors import unknown_choice
from vaecausal_jax.rows import check_rows


class Pairs(NamedTuple):
    """Reference and target runs, with noise that both share.

    A pytree: under ``vmap`` one pair. Leaves have a leading axis of pairs; pairs of several factors
    may be stacked in front of it, see ``flat``.

    Attributes:
        x0: Reference inputs ("corrupted"), (pairs, ...).
        x1: Target inputs ("clean"), (pairs, ...).
        eps: Noise of both runs of a pair, (pairs, ...).
        factors0: Factors of the reference, such as a data set's levels, (pairs, factors); may be
            None, like all below.
        factors1: Factors of the target.
        change: By how much the factor that differs has changed, (pairs,): its sign turns effects.
    """

    x0: Any
    x1: Any
    eps: Any
    factors0: Any = None
    factors1: Any = None
    change: Any = None

    @property
    def runs(self) -> tuple[Any, Any, Any]:
        """Both inputs and the noise, alone."""
        return self.x0, self.x1, self.eps

    def flat(self) -> "Pairs":
        """Pairs of several factors, (factors, pairs, ...), on one axis, factors first.

        Raises:
            ValueError: Pairs of one factor, without that axis.
        """
        levels = self.factors0
        if (levels is not None and jnp.ndim(levels) == 2) or jnp.ndim(self.eps) == 1:
            raise ValueError(
                "these pairs are of one factor, (pairs, ...), expected pairs of several, (factors, "
                "pairs, ...): stack them, or give one factor such an axis by "
                "pairs.take(np.s_[None])."
            )
        return jax.tree.map(lambda a: a.reshape(a.shape[0] * a.shape[1], *a.shape[2:]), self)

    def take(self, index: Any) -> "Pairs":
        """Some of the pairs: an index or a slice of their axis, or of that of the factors."""
        return jax.tree.map(lambda a: a[index], self)

    def swapped(self) -> "Pairs":
        """Reference and target exchanged, so that every change is undone."""
        change = None if self.change is None else -self.change
        return Pairs(self.x1, self.x0, self.eps, self.factors1, self.factors0, change)


class Runs(NamedTuple):
    """Runs whose units are redrawn, and the values that they are redrawn from.

    Attributes:
        x: Inputs, (images, ...).
        eps: Noise, (images, ...), shared by all arms of an image.
        donors: Site to values, (images, *site shape), independent of the base row by row: draws
            from the prior at a latent, or the activations of runs on other images.
        base: Site to the values that it is held at in all arms in which that site is swept,
            (images, *site shape); None, or no entry, for natural ones.
    """

    x: Any
    eps: Any
    donors: Mapping[str, Any]
    base: Mapping[str, Any] | None = None

    def at(self, name: str) -> tuple[Any, Any]:
        """Donor and base of one site; the base may be None.

        Raises:
            ValueError: No donors there, or rows that differ in number.
        """
        if name not in self.donors:
            raise ValueError(unknown_choice("site among the donors", name, self.donors))
        for held in self.base or {}:
            if held not in self.donors:
                raise ValueError(
                    f"base holds {held!r}, which has no donors and so is not swept; donors have "
                    f"{', '.join(self.donors)}. To hold other sites, bind a forward that does."
                )
        donor, base = self.donors[name], (self.base or {}).get(name)
        check_rows(x=self.x, eps=self.eps, donor=donor, base=base)
        return donor, base


def minimal_pairs(
    key: jax.Array, data: Dataset, factor_name: str, num: int, noise_shape: Sequence[int]
) -> Pairs:
    """Draws pairs of images that differ in one factor alone, and their noise.

    Args:
        key: Typed PRNG key.
        data: The data set.
        factor_name: The factor that differs.
        num: How many pairs.
        noise_shape: Shape of one run's ``eps``: ``model.noise_shape``.

    Raises:
        ValueError: As in ``changeable_factor``.
    """
    levels_key, noise_key = jax.random.split(key)
    before, after = minimal_levels(levels_key, data, factor_name, num)
    return level_pairs(noise_key, data, before, after, noise_shape)


def level_pairs(
    key: jax.Array, data: Dataset, before: jax.Array, after: jax.Array, noise_shape: Sequence[int]
) -> Pairs:
    """The images at levels before and after, (num, factor) each, and noise drawn with the key."""
    num = len(before)
    # One call draws both ends: it is compiled once.
    x = images(data, jnp.concatenate([before, after]))
    eps = jax.random.normal(key, (num, *noise_shape), x.dtype)
    return Pairs(x[:num], x[num:], eps, before, after)


def check_pairs(pairs: Pairs) -> int:
    """The number of pairs: reference and target inputs of one shape, and as much noise.

    Raises:
        ValueError: Lengths or shapes that differ, or what is no ``Pairs``.
    """
    check_pair(pairs)
    num = check_rows(**pairs._asdict())
    shapes = [jax.tree.map(jnp.shape, x) for x in (pairs.x0, pairs.x1)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"x0 {shapes[0]} and x1 {shapes[1]} need one shape.")
    return num


def check_pair(pair: Pairs) -> None:
    """Raises ValueError unless this is a ``Pairs``, of one pair or of several."""
    if not isinstance(pair, Pairs):
        raise ValueError(f"expected Pairs(x0, x1, eps), got {type(pair).__name__}.")


def check_runs(runs: Runs) -> None:
    """Raises ValueError unless these are ``Runs``."""
    if not isinstance(runs, Runs):
        raise ValueError(f"expected Runs(x, eps, donors), got {type(runs).__name__}.")
