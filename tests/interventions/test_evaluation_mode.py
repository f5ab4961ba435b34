"""A forward in training mode is refused, whoever wrote it; the same one in evaluation is taken."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from public_api import public_functions

from vaecausal_jax import list_sites
from vaecausal_jax.interventions.evaluation_mode import check_evaluation
from vaecausal_jax.interventions.sites import Tape
from vaecausal_jax.models.adapters import from_linen, from_named
from vaecausal_jax.models.adapters.nnx import from_nnx

X, EPS = jnp.linspace(-1.0, 1.0, 6), jnp.zeros(2)
IMAGE = jnp.linspace(-1.0, 1.0, 48).reshape(4, 4, 3)
MEAN = "its mean over a batch of one image"


class LinenNet(nn.Module):
    norm: nn.Module
    batch: bool = True

    @nn.compact
    def __call__(self, x, eps):
        h = nn.Dense(3, name="dense")(x)
        return (self.norm(h[None])[0] if self.batch else self.norm(h)) + 0 * eps.sum()


def linen(norm, batch=True, **options):
    module = LinenNet(norm, batch)
    variables = module.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, X, EPS)

    def run(params, x, eps):
        out: Any = module.apply({**variables, "params": params}, x, eps, **options)
        return out[0] if "mutable" in options else out

    return from_linen(run), variables["params"]


STATS: dict[str, Any] = {"mutable": ["batch_stats"]}
RNGS: dict[str, Any] = {"rngs": {"dropout": jax.random.key(2)}}


@pytest.mark.parametrize("batch", [True, False])
def test_linen_batch_normalisation_in_training_is_refused_and_in_evaluation_taken(batch):
    forward, params = linen(nn.BatchNorm(use_running_average=False), batch, **STATS)
    with pytest.raises(ValueError, match=r"changes .*mean.* of norm.*use_running_average=True"):
        forward.sites(params, X, EPS)
    forward, params = linen(nn.BatchNorm(use_running_average=True), batch)
    assert "norm" in forward.sites(params, X, EPS)
    # State may be open to changes that are not made.
    forward, params = linen(nn.BatchNorm(use_running_average=True), batch, **STATS)
    assert "norm" in forward.sites(params, X, EPS)


def test_linen_dropout_is_refused_unless_deterministic():
    forward, params = linen(nn.Dropout(0.5, deterministic=False), **RNGS)
    with pytest.raises(ValueError, match="draws random numbers after 'dense', the same for every"):
        forward(params, X, EPS)
    forward, params = linen(nn.Dropout(0.5, deterministic=True), **RNGS)
    assert forward(params, X, EPS).outputs.shape == (3,)


class Spectral(nn.Module):
    update: bool

    @nn.compact
    def __call__(self, x, eps):
        return nn.SpectralNorm(nn.Dense(3))(x, update_stats=self.update) + 0 * eps.sum()


def test_linen_spectral_normalisation_that_updates_is_refused():
    for update in (True, False):
        module = Spectral(update)
        variables = module.init(jax.random.key(0), X, EPS)
        rest = {kind: v for kind, v in variables.items() if kind != "params"}

        def run(params, x, eps, module=module, rest=rest):
            out: Any = module.apply(rest | {"params": params}, x, eps, **STATS)
            return out[0]

        forward = from_linen(run)
        if update:
            with pytest.raises(ValueError, match="of SpectralNorm_0.*update_stats=False"):
                forward.sites(variables["params"], X, EPS)
        else:
            assert len(forward.sites(variables["params"], X, EPS)) > 1


class NnxNet(nnx.Module):
    def __init__(self, rngs, kind):
        self.dense = nnx.Linear(6, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs) if kind == "norm" else nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x, eps):
        return self.norm(self.dense(x)[None])[0] + 0 * eps.sum()


@pytest.mark.parametrize(
    ("kind", "message"),
    [("norm", r"changes .*mean.* of NnxNet.*model.eval\(\)"), ("drop", "draws random numbers")],
)
def test_nnx_in_training_is_refused_and_in_evaluation_taken(kind, message):
    model = NnxNet(nnx.Rngs(0), kind)
    forward, params = from_nnx(model)
    with pytest.raises(ValueError, match=message):
        forward.sites(params, X, EPS)
    model.eval()
    forward, params = from_nnx(model)
    assert list(forward.sites(params, X, EPS)) == ["dense", "norm"]


class Counting(nnx.Module):
    def __init__(self):
        self.calls = nnx.Variable(jnp.zeros((), int))

    def __call__(self, x, eps):
        self.calls[...] += 1
        return checkpoint_name(2 * x, "h") + 0 * eps.sum()


def test_a_counter_is_no_training():
    forward, params = from_nnx(Counting())
    assert forward.sites(params, X, EPS)["h"].shape == X.shape


def test_equinox_in_training_is_refused_and_in_evaluation_taken():
    eqx = pytest.importorskip("equinox")
    from_equinox = pytest.importorskip("vaecausal_jax.models.adapters.equinox").from_equinox

    for layer in (
        eqx.nn.Dropout(0.5),
        eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", mode="batch")[0],
    ):
        model = [eqx.nn.Linear(6, 3, key=jax.random.key(0)), layer]
        with pytest.raises(ValueError, match=r"1, (Dropout|BatchNorm), is in training.*infer"):
            from_equinox(model)
        call = lambda m, x, eps: m[0](x) + 0 * eps.sum()  # noqa: E731
        forward, params = from_equinox(eqx.nn.inference_mode(model), call)
        assert list(forward.sites(params, X, EPS)) == ["0"]
    from_equinox([eqx.nn.Dropout(0.0)])


def of_a_map(x):
    batch = (IMAGE * x[0])[None]
    return batch - batch.mean((0, 1, 2), keepdims=True)


def moving(x):
    batch = x[None]
    return (batch - (0.9 + 0.1 * batch.mean(0, keepdims=True)))[0]


def batch_norm(x, axis_name=None):
    mean = x.mean(0, keepdims=True) if axis_name is None else jax.lax.pmean(x, axis_name)
    return x - mean


HAND_WRITTEN = {
    "a batch of one": lambda x: batch_norm(x[None])[0],
    "a batch of one, kept axis": lambda x: (x[None] - x[None].mean(0, keepdims=True))[0],
    "a mapped axis": lambda x: jax.vmap(
        functools.partial(batch_norm, axis_name="batch"), axis_name="batch"
    )(x[None])[0],
    "inside jit and remat": jax.jit(lambda x: jax.checkpoint(batch_norm)(x[None])[0]),
    "running averages that still move": moving,
    "in a loop": lambda x: jax.lax.scan(lambda h, _: (batch_norm(h[None])[0], None), x, length=2)[
        0
    ],
    "a map": of_a_map,
}
EVALUATION = {
    "layer normalisation": lambda x: (x - x.mean()) / x.std(),
    "group normalisation of a batch of one": lambda x: (
        (IMAGE * x[0])[None] - (IMAGE * x[0])[None].mean((1, 2), keepdims=True)
    ),
    "the whole image in a batch of one": lambda x: x[None] - x[None].mean(),
    "a gate by the mean": lambda x: x[None] * jax.nn.sigmoid(x[None].mean(0, keepdims=True)),
    "softmax over a batch of one": lambda x: jax.nn.softmax(x[None], axis=0),
    "a mean of something else": lambda x: x[None] - jnp.tanh(x[None]).mean(0, keepdims=True),
}


@pytest.mark.parametrize("norm", HAND_WRITTEN.values(), ids=list(HAND_WRITTEN))
def test_batch_statistics_written_by_hand_are_refused(norm):
    def function(params, x, eps):
        return norm(checkpoint_name(params * x, "h")) + 0 * eps.sum()

    with pytest.raises(ValueError, match=MEAN):
        from_named(function).sites(2.0, X, EPS)

    def contract(params, x, eps, interventions):
        tape = Tape(interventions)
        return tape.trace(norm(tape("h", params * x)) + 0 * eps.sum())

    with pytest.raises(ValueError, match=MEAN):
        list_sites(contract, 2.0, X, EPS)


@pytest.mark.parametrize("norm", EVALUATION.values(), ids=list(EVALUATION))
def test_what_is_the_same_alone_and_in_a_batch_is_taken(norm):
    def function(params, x, eps):
        return norm(checkpoint_name(params * x, "h")) + 0 * eps.sum()

    assert from_named(function).sites(2.0, X, EPS)["h"].shape == X.shape


def test_random_numbers_come_from_eps_or_are_refused():
    def drawn(key_of):
        def function(params, x, eps):
            h = checkpoint_name(params * x, "h")
            return h + jax.random.normal(key_of(params, eps), h.shape)

        return from_named(function)

    fixed, key = jax.random.key(0), jax.random.key(1)
    for key_of in (lambda params, eps: fixed, lambda params, eps: jax.random.PRNGKey(3)):
        with pytest.raises(ValueError, match="draws random numbers after 'h'"):
            drawn(key_of).sites(2.0, X, EPS)
    forward = drawn(lambda params, eps: eps)
    assert forward.sites(2.0, X, key)["h"].shape == X.shape
    program = jax.make_jaxpr(lambda key: jax.random.bernoulli(key, 0.5, (3,)))(key)
    with pytest.raises(ValueError, match="draws random numbers"):
        check_evaluation(program, [False])


@pytest.mark.parametrize("of_branch", [True, False])
def test_branches_are_looked_into(of_branch):
    def function(params, x, eps):
        h = checkpoint_name(params * x, "h")
        moved = lambda h: batch_norm(h[None])[0]  # noqa: E731
        if not of_branch:
            moved = lambda h: h + jax.random.normal(jax.random.key(0), h.shape)  # noqa: E731
        return jax.lax.cond(h.sum() > 0, moved, lambda h: h, h)

    with pytest.raises(ValueError, match=MEAN if of_branch else "draws random numbers"):
        from_named(function).sites(2.0, X, EPS)


def test_every_way_into_the_library_is_tried_here():
    """A new adapter, or another way to list the sites of a forward, needs its own law above."""
    ways = {
        name.rpartition(".")[2]
        for name in public_functions()
        if name.startswith("models.adapters.") and ".from_" in name
    }
    assert ways == {"from_named", "from_linen", "from_nnx", "from_equinox"}
