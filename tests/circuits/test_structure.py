"""Modules and motifs of a whole effect graph, and circuits compared between families."""

import json

import jax
import numpy as np
import pytest

from vaecausal_jax.circuits import graph_structure
from vaecausal_jax.circuits.effect_graphs import FACTORS, EffectGraph
from vaecausal_jax.effects.paths import OUTCOME
from vaecausal_jax.inference import Estimate

pytest.importorskip("matplotlib")
pytest.importorskip("xarray")
from vaecausal_jax.study.cli.circuit_families import (
    circuit_numbers,
    compare_circuits,
    write_comparison,
)
from vaecausal_jax.study.report.circuit_figures import draw_modules, draw_motifs  # noqa: E402

KEY = jax.random.key(0)
WIDTHS = {"first": 6, "second": 8, "third": 4}


def estimate(value):
    return Estimate(value, value, value, 0.0, 8, 1, 0.95, "by hand", "none")


def halves(rows, columns):
    """Two modules without an edge between them."""
    return np.kron(np.eye(2), np.ones((rows // 2, columns // 2)))


def two_modules():
    """Each layer's first half drives the next one's first half, and so the second; signs differ."""
    labels = {name: tuple(map(str, range(width))) for name, width in WIDTHS.items()}
    labels = {FACTORS: ("k", "l"), **labels, OUTCOME: ("0",)}
    pairs = {
        (FACTORS, "first"): np.ones((2, 6)),
        ("first", "second"): halves(6, 8),
        ("second", "third"): halves(8, 4),
        ("third", OUTCOME): np.ones((4, 1)),
    }
    return EffectGraph(
        labels=labels,
        size={pair: estimate(value) for pair, value in pairs.items()},
        signed={pair: estimate(-value) for pair, value in pairs.items()},
        p_value={pair: np.where(value > 0, 0.0, 1.0) for pair, value in pairs.items()},
        spread={},
        step={},
        min_effect=0.0,
    )


def circuit(half):
    return {name: np.arange(width) // (width // 2) == half for name, width in WIDTHS.items()}


def structure(**options):
    circuits = {"k": circuit(0), "l": circuit(1)}
    scores = {k: {n: np.where(m, -0.5, 0.1) for n, m in c.items()} for k, c in circuits.items()}
    return graph_structure(KEY, two_modules(), circuits, scores, num_null=20, **options)


def test_two_equal_modules_by_factor_score_one_half_and_beat_their_null():
    found = structure(num_optimised=5)
    assert found.nodes == [(n, str(unit)) for n, width in WIDTHS.items() for unit in range(width)]
    expected = np.concatenate([np.arange(w) // (w // 2) for w in WIDTHS.values()])
    np.testing.assert_array_equal(found.by_factor.labels, expected)
    assert found.by_factor.value == pytest.approx(1 - 1 / 2)
    assert found.by_factor.z > 3
    assert found.optimised.value == pytest.approx(1 / 2)
    assert found.optimised.excess > 0


def test_motifs_count_edges_between_units_and_say_what_cannot_be():
    motifs = structure(num_optimised=2).motifs
    # Two halves of 3 x 4 x 2 units: 3 * 2 pairs of ends a half, C(4, 2) pairs of paths each.
    assert motifs["diamond"].count == 2 * 3 * 2 * 6
    assert motifs["coherent_diamond"].count == motifs["diamond"].count
    assert np.isnan(motifs["feed_forward_loop"].count)
    assert "No edge skips a layer" in motifs["feed_forward_loop"].note


def test_units_outside_all_circuits_are_alone_and_no_circuits_are_refused():
    nothing = {name: np.zeros(width, bool) for name, width in WIDTHS.items()}
    scores = {name: np.ones(width) for name, width in WIDTHS.items()}
    found = graph_structure(
        KEY, two_modules(), {"k": nothing}, {"k": scores}, num_null=2, num_optimised=2
    )
    assert set(found.by_factor.labels) == {-1}
    with pytest.raises(ValueError, match="circuits holds no factor"):
        graph_structure(KEY, two_modules(), {}, {})


def test_drawings_show_every_module_and_motif():
    found = structure(num_optimised=2)
    left, right = draw_modules(found, ["k", "l"]).axes
    assert [t.get_text() for t in left.get_yticklabels()] == ["k", "l", "none"]
    assert [t.get_text() for t in right.get_yticklabels()] == ["module 1", "module 2"]
    shown = [t.get_text() for t in draw_motifs(found.motifs).axes[0].get_yticklabels()]
    assert len(shown) == sum(np.isfinite(m.z) for m in found.motifs.values())


def tables(units, faithfulness, z):
    """What one model's circuits.json says, in short."""
    factor = {"num_units": units, "num_candidates": 10, "cpr": 0.5, "cmd": None}
    factor |= {"smallest_faithful": 5, "num_undecided": 3}
    factor["faithfulness_range"] = [0.0, faithfulness, 1.0]
    modularity = {"by_factor": {"excess": 0.1, "z": z}}
    return {
        "factors": {"k": factor, "l": {**factor, "num_units": 0}},
        "overlap": {"whole network": [[1.0, 0.25], [0.25, 1.0]], "encoder": [[1, None], [None, 1]]},
        "structure": {"modularity": modularity, "motifs": {"bi_fan": {"z": z}}},
    }


def test_numbers_of_a_model_are_means_over_factors_and_pairs():
    numbers = circuit_numbers(tables(4, 0.8, None))
    assert numbers["units"] == pytest.approx((0.4 + 0.0) / 2)
    assert numbers["units/k"] == 0.4
    assert numbers["undecided"] == pytest.approx(0.3)
    assert numbers["faithfulness"] == pytest.approx(0.8)
    assert numbers["smallest"] == 0.5
    assert np.isnan(numbers["cmd"])
    assert numbers["overlap_whole_network"] == 0.25
    assert np.isnan(numbers["overlap_encoder"])
    assert numbers["modularity_by_factor"] == 0.1
    assert np.isnan(numbers["motif_bi_fan"])
    without = circuit_numbers({**tables(4, 0.8, None), "structure": None})
    assert "modularity_by_factor" not in without


def test_families_are_compared_over_the_seeds_that_have_a_number(tmp_path):
    models = {
        ("vae", 0): circuit_numbers(tables(2, 0.6, 1.0)),
        ("vae", 1): circuit_numbers(tables(6, 1.0, 3.0)),
        ("beta_vae_4", 0): circuit_numbers(tables(2, 0.5, None)),
    }
    compared = compare_circuits(models)
    shares = compared["vae"]["units/k"]
    assert (float(shares.value), shares.num_seeds) == (pytest.approx(0.4), 2)
    # Student's quantile at one degree of freedom times the standard error of 0.2 and 0.6.
    assert shares.high - shares.value == pytest.approx(12.7062047 * 0.2, rel=1e-6)
    assert "motif_bi_fan" not in compared["beta_vae_4"]
    assert "cmd" not in compared["vae"]
    write_comparison(tmp_path, models)
    written = json.loads((tmp_path / "families.json").read_text())
    assert written["families"]["vae"]["motif_bi_fan"]["value"] == 2.0
    assert written["families"]["beta_vae_4"]["units"]["low"] is None
    assert (tmp_path / "families.png").stat().st_size > 5000
    page = (tmp_path / "index.html").read_text()
    assert "beta_vae_4/seed0/report.html" in page
    assert "undefined" in page
