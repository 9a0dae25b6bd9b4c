"""Python's garbage collection in processes that trace many programs."""

import gc


def collect_rarely() -> None:
  """Exclude the modules that are loaded now from garbage collections.

  Tracing creates so many objects that Python often searches all of them, and
  few of them are garbage: search less often, too. A process that is forked
  later would copy the memory of all objects to search them, at its end at the
  latest.
  """
  gc.collect()
  gc.freeze()
  gc.set_threshold(100_000, 20, 20)
