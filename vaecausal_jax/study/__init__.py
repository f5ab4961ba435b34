"""Studies: train families, intervene on four levels, compare. ``run_study`` does it all."""

from vaecausal_jax.study.config import PRESETS, Family, StudyConfig, as_json, from_json, read_config
from vaecausal_jax.study.run import Study, load_study, run_study

__all__ = [
    "PRESETS",
    "Family",
    "Study",
    "StudyConfig",
    "as_json",
    "from_json",
    "load_study",
    "read_config",
    "run_study",
]
