"""A study as figures and one self-contained page; needs the ``study`` extra."""

from vaecausal_jax.study.report.page import write_report

__all__ = ["write_report"]
