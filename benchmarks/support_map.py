"""Which dtypes of a site work with which interventions and sweeps, in which framework and JAX?

One small network with one site ``h`` of five units, written by the contract, with a named value,
and as a Linen, NNX and Equinox module. Every method acts on the site in every dtype, and what comes
out is compared with the network cut by hand at ``h`` and continued from a value that NumPy changed.
A cell is

    supported   equal to that, and something moved where something should
    refused     a ValueError that names the site or the values' dtype
    error       any other exception
    silent      a number, and a wrong one: there must be none

    python -m benchmarks.support_map [--frameworks contract named linen nnx equinox] [--json]
    python -m benchmarks.support_map --page one.json another.json ...

The second form joins what several versions of JAX printed into a page of the documentation.
"""

import argparse
import collections
import contextlib
import functools
import json
import pathlib
import sys
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from vaecausal_jax import interventions as iv
from vaecausal_jax.data.pairs import Pairs, Runs
from vaecausal_jax.effects import mediation, mediators, unit_effects
from vaecausal_jax.interventions.bound import BoundModel
from vaecausal_jax.interventions.sites import Site, Sites, Tape
from vaecausal_jax.models import adapters
from vaecausal_jax.models.adapters.equinox import from_equinox
from vaecausal_jax.models.adapters.nnx import from_nnx
from vaecausal_jax.sweeps import patching, reductions
from vaecausal_jax.sweeps.grid import sweep
from vaecausal_jax.sweeps.stored import Part, run_stored

DTYPES = (
    *("float32", "float64", "bfloat16", "float16"),
    *("complex64", "int32", "uint8", "bool"),
)
UNITS, IMAGES = 5, 6
RNG = np.random.default_rng(0)
FIRST, LAST = RNG.normal(size=(4, UNITS)), RNG.normal(size=(2 * UNITS, 3))
IMAGES_AND_DONORS: Any = RNG.normal(size=(2, IMAGES, 4)).astype(np.float32)
X, DONOR_X = IMAGES_AND_DONORS
EPS: Any = np.zeros((IMAGES, 1), np.float32)


# The network.


def encode(x: Any, dtype: str) -> Any:
    """The site's value in its dtype."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float64 if dtype == "float64" else jnp.float32))
    pre = x @ jnp.asarray(FIRST, x.dtype)
    if dtype == "bool":
        return pre > 0
    if jnp.issubdtype(dtype, jnp.integer):
        return jnp.round(jnp.clip(8 * pre + 60, 0, 120)).astype(dtype)
    return (pre + 1j * pre[::-1]).astype(dtype) if dtype == "complex64" else pre.astype(dtype)


def decode(h: Any) -> Any:
    """The outputs, from real and imaginary part in float32 or wider."""
    parts = jnp.concatenate([jnp.real(h), jnp.imag(h)])
    parts = parts.astype(jnp.promote_types(parts.dtype, jnp.float32))
    scale = 0.01 if jnp.issubdtype(h.dtype, jnp.integer) else 0.3
    return jnp.tanh(scale * parts @ jnp.asarray(LAST, parts.dtype))


class Framework(NamedTuple):
    """The network in one way of writing it."""

    forward: Callable[..., Any]
    params: Any
    sites: Sites

    @property
    def bound(self) -> BoundModel:
        """The network with its parameters."""
        return BoundModel(self.forward, self.params, self.sites)


def contract(dtype: str) -> Framework:
    """A forward of the contract, by hand."""

    def forward(params, x, eps, interventions):
        tape = Tape(interventions)
        h = tape("h", encode(x, dtype), unit_axis=0)
        return tape.trace(decode(h) + 0 * params)

    return Framework(forward, jnp.zeros(()), Sites({"h": Site((UNITS,), jnp.dtype(dtype), 0)}))


def adapted(forward: Any, params: Any) -> Framework:
    """Any adapter's forward."""
    return Framework(forward, params, forward.sites(params, X[0], EPS[0]))


def named(dtype: str) -> Framework:
    """A function with a named value."""

    def function(params, x, eps):
        return decode(checkpoint_name(encode(x, dtype), "h")) + 0 * params

    return adapted(adapters.from_named(function, unit_axes={"h": 0}), jnp.zeros(()))


def linen(dtype: str) -> Framework:
    """A Linen module."""

    class Encoder(nn.Module):
        @nn.compact
        def __call__(self, x):
            return encode(x, dtype)

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x, eps):
            shift = self.param("shift", nn.initializers.zeros, ())
            return decode(Encoder(name="h")(x)) + 0 * shift

    return adapted(adapters.from_linen(Network(), unit_axes={"h": 0}), {"shift": jnp.zeros(())})


def of_nnx(dtype: str) -> Framework:
    """An NNX module."""

    class Encoder(nnx.Module):
        def __call__(self, x):
            return encode(x, dtype)

    class Network(nnx.Module):
        def __init__(self):
            self.h = Encoder()
            self.shift = nnx.Param(jnp.zeros(()))

        def __call__(self, x, eps):
            return decode(self.h(x)) + 0 * self.shift[...]

    return adapted(*from_nnx(Network(), unit_axes={"h": 0}))


def of_equinox(dtype: str) -> Framework:
    """An Equinox module."""

    class Encoder(eqx.Module):
        def __call__(self, x):
            return encode(x, dtype)

    class Network(eqx.Module):
        h: Encoder
        shift: jax.Array

        def __call__(self, x, eps):
            return decode(self.h(x)) + 0 * self.shift

    return adapted(*from_equinox(Network(Encoder(), jnp.zeros(())), unit_axes={"h": 0}))


FRAMEWORKS = {
    "contract": contract,
    "named": named,
    "linen": linen,
    "nnx": of_nnx,
    "equinox": of_equinox,
}


# The methods: what the library does, and what NumPy says of it.


class Method(NamedTuple):
    """One way of using the library.

    Attributes:
        ours: What the library gives in a setting.
        oracle: What NumPy gives.
        still: What it would be if nothing had moved; None where nothing is meant to.
    """

    ours: Callable[..., Any]
    oracle: Callable[..., Any]
    still: Callable[..., Any] | None = None


class Setting(NamedTuple):
    """One framework in one dtype, with natural values.

    Attributes:
        net: The network.
        dtype: The site's.
        h: Natural values, (images, units).
        donor: Those of the donor images.
    """

    net: Framework
    dtype: str
    h: np.ndarray
    donor: np.ndarray


def wide(values: np.ndarray) -> Any:
    """In NumPy's widest type of the kind."""
    return values.astype(np.complex128 if np.iscomplexobj(values) else np.float64)


def outputs_of(values: np.ndarray) -> np.ndarray:
    """The network continued from given values, (images, units)."""
    return np.asarray(jax.vmap(decode)(jnp.asarray(values)))


def with_unit(values: np.ndarray, unit: int, new: Any) -> np.ndarray:
    """Values with one unit changed."""
    changed = values.copy()
    changed[:, unit] = new
    return changed


def projected(setting: Setting, basis: np.ndarray) -> np.ndarray:
    """The donor's part of a subspace, in the widest precision."""
    rows = np.linalg.qr(wide(basis).T)[0]
    h, donor = wide(setting.h), wide(setting.donor)
    return (h + ((donor - h) @ rows.conj()) @ rows.T).astype(setting.h.dtype)


def number(setting: Setting, value: float) -> Any:
    """A number that the dtype can hold."""
    return bool(value) if setting.dtype == "bool" else value


def intervened(make: Callable[..., Any], change: Callable[[Setting], np.ndarray]):
    """A method that puts an intervention on every image: outputs before and after."""

    def ours(setting):
        net = setting.net
        return np.stack(
            [
                np.asarray(net.forward(net.params, x, e, make(setting, i)).outputs)
                for i, (x, e) in enumerate(zip(X, EPS, strict=True))
            ]
        )

    def expected(setting):
        return outputs_of(change(setting))

    return Method(ours, expected, still=lambda setting: outputs_of(setting.h))


def basis(setting: Setting, rank: int) -> np.ndarray:
    """Rows that span a subspace, in the site's dtype."""
    rows = np.random.default_rng(rank).normal(size=(rank, UNITS))
    return np.asarray(jnp.asarray(rows).astype(setting.dtype))


def patched_units(setting: Setting) -> np.ndarray:
    """Outputs with each unit from the donor, (units, images, outputs)."""
    return np.stack(
        [outputs_of(with_unit(setting.h, u, setting.donor[:, u])) for u in range(UNITS)]
    )


def swept(effect: Callable[..., Any], reduction: Any = None):
    """A sweep over units of what ``effect`` keeps."""

    def ours(setting):
        net = setting.net
        rows = patching.Rows(
            jnp.asarray(X),
            jnp.asarray(EPS),
            jnp.asarray(setting.h),
            jnp.asarray(setting.donor),
            jnp.asarray(outputs_of(setting.h)),
        )
        return jax.tree.map(
            np.asarray,
            patching.patch_units(
                net.bound, "h", rows, effect, sweep=functools.partial(sweep, reduction=reduction)
            ),
        )

    return ours


def of_site(reduction: Any, value: Callable[[Any], Any]):
    """A reduction of the site's own values over images."""

    def ours(setting):
        net = setting.net

        def run(point, context):
            x, eps = context
            return value(net.forward(net.params, x, eps, {}).activations["h"])

        return jax.tree.map(np.asarray, sweep(run, jnp.zeros(1), (X, EPS), reduction=reduction))

    return ours


def whole_sweep(function: Callable[..., Any]):
    """A library function of paired images."""

    def ours(setting):
        net = setting.net
        return jax.tree.map(np.asarray, function(net, setting))

    return ours


def gram_oracle(setting: Setting) -> Any:
    """Inner products of every unit and pair."""
    y0, y1 = outputs_of(setting.h), outputs_of(setting.donor)
    found = []
    for u in range(UNITS):
        y01 = outputs_of(with_unit(setting.h, u, setting.donor[:, u]))
        y10 = outputs_of(with_unit(setting.donor, u, setting.h[:, u]))
        te, pnie, tnie = (a.astype(np.float64) for a in (y1 - y0, y01 - y0, y1 - y10))
        pairs = ((te, te), (te, pnie), (te, tnie), (pnie, pnie), (pnie, tnie), (tnie, tnie))
        found.append([(a * b).sum(1) for a, b in pairs])
    return np.moveaxis(np.array(found), 1, 0)


def stored(setting: Setting) -> np.ndarray:
    """The site's values through a stored sweep and back."""
    import xarray as xr

    net = setting.net

    def compute(inputs, index):
        x, eps = inputs
        run = jax.vmap(lambda x, e: net.forward(net.params, x, e, {}).activations["h"])
        return {"value": run(x, eps)[index]}

    part = Part("h", compute, (X, EPS), IMAGES, {"value": ("image", "unit")}, {}, IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        path = run_stored(folder, [part], {})
        with xr.open_zarr(path, group="h") as effects:
            return effects["value"].values


def zero(setting: Setting) -> float:
    """What a sweep gives where nothing moves."""
    del setting
    return 0.0


def shares(setting: Setting) -> np.ndarray:
    """|patched - clean|^2, (units, images)."""
    clean = outputs_of(setting.h)
    return ((patched_units(setting) - clean[None]) ** 2).sum(-1)


def squared(patched: Any, row: Any) -> Any:
    """What a sweep keeps of one run."""
    return jnp.sum((patched - row.clean) ** 2)


METHODS: dict[str, Method] = {
    "set_to unit": intervened(
        lambda s, i: iv.set_to(s.net.sites, "h", number(s, 1), unit=2),
        lambda s: with_unit(s.h, 2, 1),
    ),
    "set_to mask": intervened(
        lambda s, i: iv.set_to(s.net.sites, "h", number(s, 1), mask=np.arange(UNITS) < 2),
        lambda s: with_unit(with_unit(s.h, 0, 1), 1, 1),
    ),
    "ablate_zero": intervened(
        lambda s, i: iv.ablate_zero(s.net.sites, "h"), lambda s: np.zeros_like(s.h)
    ),
    "ablate_mean": intervened(
        lambda s, i: iv.ablate_mean(s.net.sites, "h", s.donor, unit=1),
        lambda s: with_unit(s.h, 1, wide(s.donor).mean(0)[1].astype(s.h.dtype)),
    ),
    "ablate_resample": intervened(
        lambda s, i: iv.ablate_resample(jax.random.key(0), s.net.sites, "h", s.donor[:1]),
        lambda s: np.repeat(s.donor[:1], IMAGES, 0),
    ),
    "shift_by": intervened(
        lambda s, i: iv.shift_by(s.net.sites, "h", 2, unit=0),
        lambda s: with_unit(s.h, 0, s.h[:, 0] + np.asarray(2, s.h.dtype)),
    ),
    "scale_by": intervened(
        lambda s, i: iv.scale_by(s.net.sites, "h", 3, unit=0),
        lambda s: with_unit(s.h, 0, s.h[:, 0] * np.asarray(3, s.h.dtype)),
    ),
    "clamp_to": intervened(
        lambda s, i: iv.clamp_to(s.net.sites, "h", number(s, 0), number(s, 0)),
        lambda s: np.zeros_like(s.h),
    ),
    "patch": intervened(lambda s, i: iv.patch(s.net.sites, "h", s.donor[i]), lambda s: s.donor),
    "steer": intervened(
        lambda s, i: iv.steer(s.net.sites, "h", jnp.ones(UNITS, s.dtype), 2),
        lambda s: s.h + np.asarray(2, s.h.dtype),
    ),
    "swap_subspace": intervened(
        lambda s, i: iv.swap_subspace(s.net.sites, "h", basis(s, 2), s.donor[i]),
        lambda s: projected(s, basis(s, 2)),
    ),
    "swap_direction": intervened(
        lambda s, i: iv.swap_direction(s.net.sites, "h", basis(s, 1)[0], s.donor[i]),
        lambda s: projected(s, basis(s, 1)),
    ),
    "patch_units": Method(swept(squared), shares, zero),
    "patch_units, moments": Method(
        swept(squared, reductions.moments()),
        lambda s: (np.full(UNITS, IMAGES), shares(s).mean(1), shares(s).var(1, ddof=1)),
        zero,
    ),
    "unit_mediation": Method(
        whole_sweep(
            lambda net, s: jnp.stack(
                mediation.unit_mediation(net.bound, Pairs(X, DONOR_X, EPS), "h").values
            )
        ),
        gram_oracle,
        zero,
    ),
    "mediate, groups": Method(
        whole_sweep(
            lambda net, s: (
                mediation.mediate(
                    net.bound,
                    Pairs(X, DONOR_X, EPS),
                    mediators.group(net.sites, "h"),
                    jnp.eye(UNITS, dtype=bool),
                ).gram.total_pure
            )
        ),
        lambda s: gram_oracle(s)[1],
        zero,
    ),
    "resample_effects": Method(
        whole_sweep(
            lambda net, s: (
                unit_effects.resample_effects(
                    net.bound, Runs(X, EPS, {"h": jnp.asarray(s.donor)})
                ).values.squared
            )
        ),
        shares,
        zero,
    ),
    "shift_effects": Method(
        whole_sweep(
            lambda net, s: (
                unit_effects.shift_effects(
                    net.bound, X, EPS, {"h": jnp.full(UNITS, 2, s.dtype)}
                ).values.squared
            )
        ),
        lambda s: np.stack(
            [
                (
                    (
                        outputs_of(with_unit(s.h, u, s.h[:, u] + np.asarray(2, s.h.dtype)))
                        - outputs_of(s.h)
                    )
                    ** 2
                ).sum(-1)
                for u in range(UNITS)
            ]
        ),
        zero,
    ),
    "moments of the site": Method(
        of_site(reductions.moments(), lambda h: h),
        lambda s: (
            np.full(1, IMAGES),
            wide(s.h).mean(0)[None],
            wide(s.h).var(0, ddof=1)[None],
        ),
    ),
    "covariance of the site": Method(
        of_site(reductions.covariance(), lambda h: h),
        lambda s: (
            np.full(1, IMAGES),
            wide(s.h).mean(0)[None],
            np.cov(wide(s.h), rowvar=False)[None],
        ),
    ),
    "top_k of a unit": Method(
        of_site(reductions.top_k(2), lambda h: h[0]),
        lambda s: np.sort(wide(s.h)[:, 0])[::-1][None, :2],
    ),
    "histogram of a unit": Method(
        of_site(reductions.histogram(jnp.array([0.0, 0.5, 60.0])), lambda h: h[0]),
        lambda s: np.bincount(
            np.searchsorted([0.0, 0.5, 60.0], wide(s.h)[:, 0].real, side="right"), minlength=4
        )[None],
    ),
    "stored sweep": Method(stored, lambda s: s.h),
}
"""All that is tried."""


def judge(name: str, setting: Setting) -> tuple[str, str]:
    """The verdict on one cell, and what was said."""
    method = METHODS[name]
    try:
        found = method.ours(setting)
    except ValueError as error:
        text = str(error)
        named = setting.dtype in text and ("'h'" in text or "values" in text or "outcome" in text)
        return ("refused" if named else "error"), text
    except Exception as error:
        return "error", f"{type(error).__name__}: {error}"
    found = found[0] if name == "top_k of a unit" else found
    expected = method.oracle(setting)
    tolerance = {"bfloat16": 2e-2, "float16": 3e-3, "float64": 1e-9}.get(setting.dtype, 2e-5)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        one, other = np.asarray(one), np.asarray(other)
        if one.shape != other.shape:
            return "silent", f"shape {one.shape} instead of {other.shape}"
        scale = max(1.0, float(np.max(np.abs(wide(other)))))
        worst = float(np.max(np.abs(wide(one) - wide(other)))) / scale
        if not worst <= tolerance:
            return "silent", f"off by {worst:.2g}"
    if method.still is not None and np.all(jax.tree.leaves(found)[-1] == method.still(setting)):
        return "silent", "nothing moved"
    return "supported", ""


def make_setting(framework: str, dtype: str) -> Setting:
    """The network of a framework in a dtype, and its natural values."""
    run = jax.vmap(lambda x: encode(x, dtype))
    values = [np.asarray(run(jnp.asarray(x))) for x in (X, DONOR_X)]
    return Setting(FRAMEWORKS[framework](dtype), dtype, *values)


def measure(frameworks: Any = tuple(FRAMEWORKS), dtypes: Any = DTYPES) -> list[dict]:
    """The verdicts of all cells."""
    rows = []
    for framework in frameworks:
        for dtype in dtypes:
            with wider() if dtype == "float64" else contextlib.nullcontext():
                setting = make_setting(framework, dtype)
                for method in METHODS:
                    verdict, said = judge(method, setting)
                    rows.append(
                        {
                            "framework": framework,
                            "dtype": dtype,
                            "method": method,
                            "verdict": verdict,
                            "said": said,
                        }
                    )
    return rows


@contextlib.contextmanager
def wider():
    """64-bit types, for a while."""
    before = jax.config.values["jax_enable_x64"]
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


SIGNS = {"supported": "yes", "refused": "refused", "error": "ERROR", "silent": "WRONG"}


def page(records: list[dict]) -> str:
    """The documentation's page: one table, and every cell that is not alike everywhere."""
    versions = [record["jax"] for record in records]
    frameworks = dict.fromkeys(row["framework"] for record in records for row in record["rows"])
    verdicts: dict[tuple[str, str], dict[str, list[str]]] = collections.defaultdict(dict)
    for record in records:
        for row in record["rows"]:
            cell = verdicts[row["method"], row["dtype"]]
            cell.setdefault(row["verdict"], []).append(f"{row['framework']}, JAX {record['jax']}")
    lines = [
        "# What works with which dtype",
        "",
        "Every cell was run in each of these ways of writing the network: "
        f"{', '.join(frameworks)}; with JAX {', '.join(versions)}; and compared with the network "
        "cut by hand. *refused* is a message that names the site or the values and their dtype. "
        "Printed by `python -m benchmarks.support_map`.",
        "",
        f"| method | {' | '.join(DTYPES)} |",
        f"|---|{'---|' * len(DTYPES)}",
    ]
    differing = []
    for method in METHODS:
        cells = []
        for dtype in DTYPES:
            cell = verdicts.get((method, dtype), {})
            cells.append(" / ".join(SIGNS[verdict] for verdict in sorted(cell)) or "not run")
            if len(cell) > 1:
                differing += [
                    f"- {method}, {dtype}: {SIGNS[v]} ({'; '.join(cell[v])})" for v in cell
                ]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    counts = collections.Counter(row["verdict"] for record in records for row in record["rows"])
    total = sum(counts.values())
    lines += [
        "",
        f"{total} cells: {counts['supported']} supported, {counts['refused']} refused in words, "
        f"{counts['error']} errors, {counts['silent']} silently wrong; each has a reference.",
        *(["", "Not alike everywhere:", "", *differing] if differing else []),
        "",
        "float64 is under `jax_enable_x64`. Sums of squares are taken in float32, or in float64 "
        "where the values are.",
    ]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--frameworks", nargs="+", choices=FRAMEWORKS, default=list(FRAMEWORKS))
    parser.add_argument("--page", nargs="+", type=pathlib.Path, help="records to join")
    parser.add_argument("--json", action="store_true", help="print a machine-readable last line")
    args = parser.parse_args()
    if args.page:
        records = [json.loads(path.read_text().splitlines()[-1]) for path in args.page]
        print(page(records), end="")
        return
    jax.config.update("jax_default_matmul_precision", "highest")
    rows = measure(args.frameworks)
    bad = [row for row in rows if row["verdict"] in ("error", "silent")]
    for row in bad:
        print(
            f"{row['framework']}, {row['method']}, {row['dtype']}: {row['verdict']}: {row['said']}"
        )
    counts = collections.Counter(row["verdict"] for row in rows)
    print(f"JAX {jax.__version__}: " + ", ".join(f"{n} {v}" for v, n in sorted(counts.items())))
    if args.json:
        print(json.dumps({"benchmark": "support_map", "jax": jax.__version__, "rows": rows}))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
