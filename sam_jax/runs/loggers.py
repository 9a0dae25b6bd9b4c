"""Loggers of other systems: Weights & Biases, MLflow, or a user's own.

TensorBoard's events and metrics.jsonl are always written. `config.log_to` adds
loggers to them, which are imported only then. Process 0 logs.

A logger can't harm a run: it works in a thread of its own, what it raises is a
warning, and the run waits for it only at its end, for a minute. metrics.jsonl
has every line that a logger has lost.

A run that resumes continues the run of the other system: WORKDIR/loggers/ has
its id, and the steps that were sent. Steps that a killed process had sent after
its last checkpoint are computed again, with the same numbers, and not sent
again. Lines of metrics.jsonl that were not sent are sent then.
"""

import importlib
import importlib.util
import inspect
import json
import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from etils import epath

from sam_jax import wording
from sam_jax.config.field_type import ConfigError
from sam_jax.config.hints import did_you_mean
from sam_jax.runs import files

_log = logging.getLogger(__name__)

# Seconds that a run waits at its end for lines that are not sent yet, and that
# pass between two attempts to reach a system.
_WAIT_AT_END = 60.0
_BETWEEN_ATTEMPTS = 60.0

# Module and function of each; the name is that of its package and extra, too.
KNOWN = {
  "mlflow": "sam_jax.runs.mlflow_logger:MlflowRun",
  "wandb": "sam_jax.runs.wandb_logger:WandbRun",
}

Hparams = Mapping[str, bool | float | str]


class Logger(Protocol):
  """A destination of what a run logs.

  `event_file.EventFile` is one; `metrics_file.MetricsFile` takes scalars only.
  One of `config.log_to` comes from a function (workdir, run_id) -> logger;
  `run_id` is that of the process before, or None in a new run. An attribute
  `run_id` of the logger, a string, is kept for the next process.
  """

  def write_hparams(self, hparams: Hparams) -> None:
    """Write the fields of the config that may change a result."""

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """Write numbers by name, such as "train/loss"; steps never fall."""

  def close(self, is_finished: bool) -> None:
    """Write everything. `is_finished` is False for a run that may resume."""


Open = Callable[[epath.Path, str | None], Logger]

# Arguments of each method of a logger, all of them positional.
_METHODS = {
  "write_hparams": ("hparams",),
  "write_scalars": ("step", "scalars"),
  "close": ("is_finished",),
}


def check(names: Sequence[Any]) -> None:
  """Check the names of `config.log_to`, before any other work.

  Raises:
    ConfigError: A name is unknown, a package is missing, or a function can't be
      imported or takes other arguments.
  """
  for name in names:
    field = f"config.log_to: {name!r}"
    if not isinstance(name, str):
      raise ConfigError(f"{field} must be a string, as in ('wandb',).")
    if ":" in name:
      try:
        function = _find(name)
      except Exception as error:  # a module is a program, and raises anything
        raise ConfigError(
          f"{field}: {error or repr(error)}. Give package.module:function, and"
          " put its directory on PYTHONPATH."
        ) from error
      try:
        _check_signatures(function)
      except TypeError as error:
        raise ConfigError(f"{field}{error}.") from error
    elif name not in KNOWN:
      raise ConfigError(
        f"{field} is unknown. {did_you_mean(name, KNOWN)} A logger of your own"
        " is package.module:function."
      )
    elif importlib.util.find_spec(name) is None:
      raise ConfigError(
        f"{field} is not installed: pip install 'sam-jax[{name}]'."
      )


def open_loggers(
  names: Sequence[str], workdir: epath.Path, hparams: Hparams
) -> list["BackgroundLogger"]:
  """Start loggers, which open and write in their own threads.

  Args:
    names: Names that `check` accepts; repeated ones count once.
    workdir: Directory of the run.
    hparams: Fields of the config that may change a result.

  Raises:
    ConfigError: A logger can't be imported.
  """
  opened = [BackgroundLogger(n, workdir) for n in dict.fromkeys(names)]
  for logger in opened:
    logger.write_hparams(hparams)
  return opened


def _find(name: str) -> Open:
  module, _, function = KNOWN.get(name, name).rpartition(":")
  return getattr(importlib.import_module(module), function)


def _check_signatures(open_logger: Open) -> None:
  """Check the arguments of a function and, if it is a class, of its methods.

  Raises:
    TypeError: They are not those of a logger.
  """
  _check_call("", open_logger, ("workdir", "run_id"))
  if not inspect.isclass(open_logger) or hasattr(open_logger, "__getattr__"):
    return
  for name, arguments in _METHODS.items():
    method = inspect.getattr_static(open_logger, name, None)
    if hasattr(method, "__get__"):
      method = method.__get__(object(), open_logger)
    _check_call(f": its {name}", method, arguments)


def _check_call(prefix: str, function: Any, arguments: Sequence[str]) -> None:
  """Check that a function takes some positional arguments.

  Raises:
    TypeError: It does not; the message begins with the prefix.
  """
  rule = f"{prefix} must be a function of ({', '.join(arguments)})"
  if not callable(function):
    raise TypeError(f"{rule}, not {function!r}")
  try:
    signature = inspect.signature(function)
  except ValueError:  # of a function in C
    return
  try:
    signature.bind(*arguments)
  except TypeError as error:
    raise TypeError(f"{rule}, not {signature}: {error}") from error


class BackgroundLogger:
  """A logger that works in a thread, and raises nothing."""

  def __init__(self, name: str, workdir: epath.Path):
    """Start the thread.

    Args:
      name: Name of the logger, see `check`.
      workdir: Directory of the run.

    Raises:
      ConfigError: The logger can't be imported.
    """
    self._name, self._workdir = name, workdir
    # In this thread: threads that import at a time make Python 3.11 fail
    # ("AST constructor recursion depth mismatch").
    try:
      self._open_logger = _find(name)
    except Exception as error:  # a package is a program, and raises anything
      cause = (str(error).strip().splitlines() or [repr(error)])[0]
      raise ConfigError(
        f"config.log_to: {name!r} can't be imported: {cause}"
      ) from error
    self._record = _Record(workdir, name)
    self._logger: Logger | None = None
    self._hparams: Hparams = {}
    self._next_attempt = 0.0
    self._pending: list[tuple[int, Mapping[str, float]]] = []  # until it opens
    self._lost = 0
    self._is_failing = False
    self._calls: queue.SimpleQueue[Callable[[], None] | None] = (
      queue.SimpleQueue()
    )
    # A daemon: a system that does not answer must not keep the process alive.
    self._thread = threading.Thread(
      target=self._run, name=f"logger-{name}", daemon=True
    )
    self._thread.start()

  def write_hparams(self, hparams: Hparams) -> None:
    """Write hyperparameters, once the logger can be opened."""
    self._hparams = dict(hparams)
    self._calls.put(lambda: None)  # opens it

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """Write scalars of one group, unless an earlier process has sent them."""
    scalars = dict(scalars)
    if scalars:
      self._calls.put(lambda: self._send(step, scalars))

  def close(self, is_finished: bool) -> None:
    """Write what is left, for at most a minute, and close the logger."""
    self._next_attempt = 0.0  # the last one, if it is not open yet
    self._calls.put(lambda: self._close(is_finished))
    self._calls.put(None)
    self._thread.join(_WAIT_AT_END)
    if self._thread.is_alive():
      text = f"did not answer within {_WAIT_AT_END:.0f} s"
      _log.warning("Logger %s %s; metrics.jsonl is complete.", self._name, text)
    elif self._lost:
      _log.warning(
        "Logger %s lacks %s; metrics.jsonl is complete.",
        self._name,
        wording.count(self._lost, "line"),
      )

  def _run(self) -> None:
    while (call := self._calls.get()) is not None:
      for each in (self._open, call):
        try:
          each()
        except Exception as error:  # each system has its own
          self._report(error)

  def _open(self) -> None:
    """Open the logger, unless the last attempt was a moment ago."""
    if self._logger is not None or time.monotonic() < self._next_attempt:
      return
    self._next_attempt = time.monotonic() + _BETWEEN_ATTEMPTS
    logger = self._open_logger(self._workdir, self._record.run_id)
    self._record.keep_id(getattr(logger, "run_id", None))
    logger.write_hparams(self._hparams)
    self._logger = logger

  def _send(self, step: int, scalars: Mapping[str, float]) -> None:
    """Send a line, after those that were logged before the logger was open."""
    self._pending.append((step, scalars))
    while self._logger is not None and self._pending:
      step, scalars = self._pending.pop(0)
      group = next(iter(scalars)).partition("/")[0]
      if self._record.is_new(group, step):
        self._lost += 1
        # Before it is sent: a kill may lose a line, but never repeats one.
        self._record.keep_step(group, step)
        self._logger.write_scalars(step, scalars)
        self._lost -= 1
        self._is_failing = False

  def _close(self, is_finished: bool) -> None:
    if self._logger is not None:
      self._logger.close(is_finished)
    self._lost += len(self._pending)

  def _report(self, error: Exception) -> None:
    """Log the first of several failures."""
    if not self._is_failing:
      cause = (str(error).strip().splitlines() or [repr(error)])[0]
      _log.warning(
        "Logger %s failed: %s. The run goes on; metrics.jsonl is complete.",
        self._name,
        cause.rstrip("."),
      )
    self._is_failing = True


class _Record:
  """A file about the run of another system: its id, and the steps it has."""

  def __init__(self, workdir: epath.Path, name: str):
    stem = re.sub(r"[^\w.-]", "_", name)
    self._path = workdir / "loggers" / f"{stem}.json"
    self.run_id: str | None = None
    self._steps: dict[str, int] = {}
    self._read()

  def _read(self) -> None:
    try:
      kept = json.loads(self._path.read_text())
      self.run_id = kept["run_id"]
      self._steps = {str(k): int(v) for k, v in kept["steps"].items()}
    except FileNotFoundError:
      pass
    except (ValueError, KeyError, TypeError, AttributeError):
      _log.warning("%s is damaged: a new run begins there.", self._path)

  def is_new(self, group: str, step: int) -> bool:
    """Return True if no earlier step of this kind was sent."""
    return step > self._steps.get(group, -1)

  def keep_id(self, run_id: str | None) -> None:
    """Write the id of the run."""
    if run_id != self.run_id:
      self.run_id = run_id
      self._write()

  def keep_step(self, group: str, step: int) -> None:
    """Write that a step is sent."""
    self._steps[group] = step
    self._write()

  def _write(self) -> None:
    self._path.parent.mkdir(parents=True, exist_ok=True)
    content = {"run_id": self.run_id, "steps": self._steps}
    files.write_json(self._path, content)
