"""Exact solvers that train the predictors of scores, and are no part of the public interface."""
