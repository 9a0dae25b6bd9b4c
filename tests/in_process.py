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
  """Run `python -m sam_jax.NAME` with arguments; its main may exit."""
  run_module(f"sam_jax.{name}", *arguments)


def run_module(name, *arguments):
  """Run `python -m NAME` with arguments; its main may exit."""
  with (
    own_flags(),
    mock.patch.object(sys, "argv", [name, *arguments]),
    mock.patch.object(run_logging, "show_on_stderr"),
    contextlib.chdir(REPOSITORY),
  ):
    command = runpy.run_module(name)
    parse = command.get("parse_flags", command_line.parse_flags)
    command_line.report_errors(command["main"], parse(sys.argv))


@contextlib.contextmanager
def own_flags():
  """Let a script define the flags that other tests' scripts have defined."""
  values = flags.FLAGS
  others = {name: values[name] for name in values}
  for name in others:
    module = values.find_module_defining_flag(name) or ""
    if not module.startswith("absl."):
      delattr(values, name)
  try:
    yield
  finally:
    for name in [n for n in values if values[n] is not others.get(n)]:
      delattr(values, name)
    for name, flag in others.items():
      if name not in values:
        values[name] = flag
