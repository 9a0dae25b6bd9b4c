"""Scripts within the test's process, which has jax loaded already."""

import contextlib
import runpy
import sys
from unittest import mock

from absl import flags

from sam_jax.config import cli as command_line
from sam_jax.runs import logging as run_logging
from tests.processes import REPOSITORY


def run_script(name, *arguments):
  """Runs sam_jax/NAME.py with these arguments; its main may exit."""
  with (
    own_flags(),
    mock.patch.object(sys, "argv", [name, *arguments]),
    mock.patch.object(run_logging, "show_on_stderr"),
    contextlib.chdir(REPOSITORY),
  ):
    script = runpy.run_path(f"sam_jax/{name}.py")
    argv = command_line.parse_flags(sys.argv)
    command_line.report_errors(script["main"], argv)


@contextlib.contextmanager
def own_flags():
  """Lets a script define the flags that other tests' scripts have defined."""
  values = flags.FLAGS
  others = {name: values[name] for name in values}
  for name in ("config", "count", "output", "step", "workdir"):
    if name in others:
      delattr(values, name)
  try:
    yield
  finally:
    for name in [n for n in values if values[n] is not others.get(n)]:
      delattr(values, name)
    for name, flag in others.items():
      if name not in values:
        values[name] = flag
