"""Where compiled programs are kept while compilation is measured."""

import contextlib
from collections.abc import Iterator

import jax
from jax.experimental.compilation_cache import compilation_cache

_OPTIONS = (
  "jax_compilation_cache_dir",
  "jax_persistent_cache_min_compile_time_secs",
)


@contextlib.contextmanager
def cache_at(directory: str | None) -> Iterator[None]:
  """Keeps all compiled programs in a directory, or nowhere, for a while."""
  before = [getattr(jax.config, name) for name in _OPTIONS]
  _set(directory, 0.0)
  try:
    yield
  finally:
    _set(*before)


def _set(*values) -> None:
  for name, value in zip(_OPTIONS, values, strict=True):
    jax.config.update(name, value)
  compilation_cache.reset_cache()  # or it stays with the old directory
