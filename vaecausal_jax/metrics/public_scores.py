"""Scores of pretrained public models that others computed, beside which ours are printed.

The models are those of ``models.pretrained``.
"""

REFERENCE_METRICS: tuple[str, ...] = (
    "kl",
    "reconstruction",
    "units",
    "mig",
    "dci_gbt_disentanglement",
    "dci_gbt_completeness",
    "dci_gbt_informativeness",
    "sap_discrete",
    "factor_vae",
    "beta_vae",
    "modularity",
    "explicitness",
    "irs_binned",
    "udr_lasso",
)

REFERENCE_SCORES: dict[str, dict[str, float | None]] = {
    name: dict(zip(REFERENCE_METRICS, row, strict=True))
    for name, row in {
        "vae": (
            *(25.20, 12.9, 10, 0.099, 0.201, 0.175, 0.454),
            *(0.050, 0.730, 0.866, 0.853, 0.812, 0.415, 0.232),
        ),
        "beta_vae": (
            *(15.30, 23.1, 10, 0.129, 0.310, 0.251, 0.588),
            *(0.066, 0.706, 0.879, 0.838, 0.825, 0.457, 0.318),
        ),
        "factor_vae": (
            *(21.92, 30.5, 9, 0.180, 0.274, 0.287, 0.446),
            *(0.063, 0.774, 0.861, 0.833, 0.795, 0.428, 0.234),
        ),
        "beta_tc_vae": (
            *(13.52, 32.8, 5, 0.133, 0.401, 0.409, 0.632),
            *(0.041, 0.586, 0.921, 0.832, 0.897, 0.559, 0.280),
        ),
        "perfect": (
            *(None, None, None, 0.896, 1.0, 1.0, 1.0),
            *(0.244, 1.0, 1.0, 1.0, 0.987, 0.986, None),
        ),
        "rotated": (
            *(None, None, None, 0.035, 0.125, 0.129, 0.487),
            *(0.021, 0.682, 0.788, 0.793, 0.987, 0.412, None),
        ),
        "noise": (
            *(None, None, None, 0.000, None, None, None),
            *(0.002, 0.198, 0.206, 0.659, 0.500, 0.369, None),
        ),
    }.items()
}
"""What the metric functions of disentanglement_lib gave on these checkpoints: by family, by metric.

They ran in the settings of its study on posterior means of the whole data set, redrawn: 10,000 rows
to train and 5,000 to test, 20 bins, one run with seed 0. ``kl`` is in nats over all images,
``reconstruction`` in nats of the decoded mean over 23,040 images, and ``units`` have a KL above
0.01 nats. UDR compared these four and a fifth model (Burgess's beta-VAE, of capacity 25 nats), so
ours, of four, is another number. Among the reference codes, the rotation is another one here.
"""
