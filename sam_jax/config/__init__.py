"""Configs: fields and rules, files, command lines, the paper's tables."""

try:
  import ml_collections  # noqa: F401
except ModuleNotFoundError as error:
  raise ModuleNotFoundError(
    "Configs and commands need more packages: pip install 'sam-jax[train]'.",
    name=error.name,
  ) from error
