"""The platform that programs are compiled for.

Tracing chooses forms of a computation by platform. Usually programs run on the
machine that compiles them; `sam_jax.plan` compiles on a CPU for TPUs.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_CHOSEN = contextvars.ContextVar[str | None]("platform", default=None)


def platform() -> str:
  """Return the platform of the programs that are traced: "cpu", "tpu", ..."""
  return _CHOSEN.get() or jax.default_backend()


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
  """Trace programs for a platform that this machine may not have.

  Args:
    platform: Name of the platform in JAX.
  """
  token = _CHOSEN.set(platform)
  try:
    yield
  finally:
    _CHOSEN.reset(token)
