"""Loggers of other systems: fakes, failures, and resumption."""

import json
import logging
import sys
import threading
import types

import numpy as np
import pytest

from sam_jax.config.schema import ConfigError
from sam_jax.runs import loggers
from sam_jax.runs.logging import MetricsWriter

HPARAMS = {"sam.rho": 0.1, "model.name": "cnn4", "sam.adaptive": False}


class FakeLogger:
  """Keeps what it gets; one for each process of a run."""

  all: list["FakeLogger"]

  def __init__(self, workdir, run_id):
    self.resumed, self.run_id = run_id, run_id or "abc"
    self.hparams, self.lines, self.closed = None, [], []
    self.all.append(self)

  def write_hparams(self, hparams):
    self.hparams = hparams

  def write_scalars(self, step, scalars):
    self.lines.append((step, scalars))

  def close(self, is_finished):
    self.closed.append(is_finished)


@pytest.fixture
def fake(monkeypatch):
  """Return the name of a user's own logger, and its class."""
  own = type("Own", (FakeLogger,), {"all": []})
  module = types.ModuleType("own_logger")
  module.open_run = own
  monkeypatch.setitem(sys.modules, "own_logger", module)
  return "own_logger:open_run", own


def open_writer(name, workdir, first_step):
  opened = loggers.open_loggers([name, name], workdir, HPARAMS)
  return MetricsWriter(workdir, first_step, opened)


def lines_of(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_own_logger_gets_what_the_run_logs(fake, tmp_path):
  name, own = fake
  loggers.check([name])
  with open_writer(name, tmp_path, 0) as writer:
    writer.scalars(1, "train", {"loss": 0.5, "sharpness": np.nan})
    writer.scalars(1, "test", {"loss": np.inf})
    writer.close(is_finished=True)
  (logger,) = own.all  # named twice, opened once
  assert logger.resumed is None
  assert logger.hparams == HPARAMS
  assert logger.lines == [(1, {"train/loss": 0.5}), (1, {"test/loss": np.inf})]
  assert logger.closed == [True]


def test_resumed_run_continues_without_repeating_steps(fake, tmp_path):
  """The first process is killed at step 3; its checkpoint is of step 1."""
  name, own = fake
  killed = open_writer(name, tmp_path, 0)
  for step in (1, 2, 3):
    killed.scalars(step, "train", {"loss": float(step)})
  killed.scalars(2, "memory", {"bytes": 7.0})
  killed.close()
  with open_writer(name, tmp_path, 1) as writer:
    for step in (2, 3, 4):
      writer.scalars(step, "train", {"loss": float(step)})
      writer.scalars(step, "memory", {"bytes": 7.0})
  first, second = own.all
  assert first.closed == second.closed == [False]
  assert second.resumed == first.run_id == "abc"
  steps = [(step, *s) for step, s in first.lines + second.lines]
  assert steps == [
    *((step, "train/loss") for step in (1, 2, 3)),
    (2, "memory/bytes"),
    (3, "memory/bytes"),
    (4, "train/loss"),
    (4, "memory/bytes"),
  ]
  train = [line for line in lines_of(tmp_path) if "train/loss" in line]
  assert [line["step"] for line in train] == [1, 2, 3, 4]


def test_a_logger_that_is_added_later_gets_the_earlier_lines(fake, tmp_path):
  name, own = fake
  with MetricsWriter(tmp_path, 0) as writer:
    for step in (1, 2, 3):
      writer.scalars(step, "train", {"loss": float(step)})
  with open_writer(name, tmp_path, 2) as writer:
    writer.scalars(3, "train", {"loss": 3.0})
  (logger,) = own.all
  assert logger.lines == [(s, {"train/loss": float(s)}) for s in (1, 2, 3)]


def test_a_logger_that_cannot_be_imported_is_refused(tmp_path, monkeypatch):
  """Its package is there, and broken."""
  monkeypatch.setitem(sys.modules, "sam_jax.runs.wandb_logger", None)
  with pytest.raises(ConfigError, match="'wandb' can't be imported: "):
    loggers.open_loggers(["wandb"], tmp_path, HPARAMS)


def test_a_logger_that_fails_is_a_warning(fake, tmp_path, caplog, monkeypatch):
  name, own = fake

  def fail(*_):
    raise ConnectionError("no route to host\nand more")

  monkeypatch.setattr(own, "write_scalars", fail)
  with caplog.at_level(logging.WARNING), open_writer(name, tmp_path, 0) as w:
    for step in (1, 2):
      w.scalars(step, "train", {"loss": 0.5})
  failed, lacks = [r.getMessage() for r in caplog.records]
  assert failed == (
    "Logger own_logger:open_run failed: no route to host. The run goes on;"
    " metrics.jsonl is complete."
  )
  assert lacks.endswith("lacks 2 lines; metrics.jsonl is complete.")
  assert [line["step"] for line in lines_of(tmp_path)] == [1, 2]


def test_a_logger_that_cannot_be_opened_is_tried_again(
  fake, tmp_path, caplog, monkeypatch
):
  name, own = fake
  connect, attempts = own.__init__, []

  def fail_once(*arguments):
    attempts.append(1)
    if len(attempts) == 1:
      raise ConnectionError("no network")
    connect(*arguments)

  monkeypatch.setattr(own, "__init__", fail_once)
  monkeypatch.setattr(loggers, "_BETWEEN_ATTEMPTS", 0.0)
  with open_writer(name, tmp_path, 0) as writer:
    writer.scalars(1, "train", {"loss": 0.5})
  assert own.all[0].lines == [(1, {"train/loss": 0.5})]
  assert own.all[0].hparams == HPARAMS
  assert "no network" in caplog.text
  assert "lacks" not in caplog.text


def test_a_logger_that_hangs_does_not_keep_the_run(
  fake, tmp_path, caplog, monkeypatch
):
  name, own = fake
  forever = threading.Event()
  monkeypatch.setattr(own, "write_scalars", lambda *_: forever.wait())
  monkeypatch.setattr(loggers, "_WAIT_AT_END", 0.1)
  with open_writer(name, tmp_path, 0) as writer:
    writer.scalars(1, "train", {"loss": 0.5})
  forever.set()
  assert "did not answer within" in caplog.text
  assert len(lines_of(tmp_path)) == 1


def test_a_damaged_record_starts_a_new_run(fake, tmp_path, caplog):
  name, own = fake
  record = tmp_path / "loggers" / "own_logger_open_run.json"
  record.parent.mkdir()
  record.write_text("{")
  open_writer(name, tmp_path, 0).close()
  assert own.all[0].resumed is None
  assert "is damaged" in caplog.text
  assert json.loads(record.read_text()) == {"run_id": "abc", "steps": {}}


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("wandbb", "'wandbb' is unknown. Known: mlflow, wandb. Did you mean"),
    ("wandb", r"not installed: pip install 'sam-jax\[wandb\]'"),
    ("mlflow", r"not installed: pip install 'sam-jax\[mlflow\]'"),
    ("no_such_module:f", "No module named 'no_such_module'. Give package.mod"),
    ("json:no_such", "has no attribute 'no_such'"),
    (3, "3 must be a string"),
  ],
)
def test_mistakes_are_refused_before_any_work(name, message, monkeypatch):
  monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ConfigError, match=message) as error:
    loggers.check([name])
  assert "\n" not in str(error.value)


class NoClose:
  def __init__(self, workdir, run_id): ...

  def write_hparams(self, hparams): ...

  @staticmethod
  def write_scalars(step, scalars): ...


class NoStep(NoClose):
  def write_scalars(self, scalars): ...

  def close(self, is_finished): ...


class Delegating:
  def __init__(self, *arguments): ...

  def __getattr__(self, name): ...


@pytest.mark.parametrize(
  ("function", "message"),
  [
    (
      lambda workdir: None,
      " must be a function of (workdir, run_id), not (workdir): too many"
      " positional arguments.",
    ),
    (
      lambda workdir, run_id, project: None,
      " must be a function of (workdir, run_id), not (workdir, run_id, project)"
      ": missing a required argument: 'project'.",
    ),
    (3, " must be a function of (workdir, run_id), not 3."),
    (
      NoStep,
      ": its write_scalars must be a function of (step, scalars), not (scalars)"
      ": too many positional arguments.",
    ),
    (NoClose, ": its close must be a function of (is_finished), not None."),
    (Delegating, None),
    (lambda *arguments, **options: None, None),
  ],
)
def test_a_logger_of_other_arguments_is_refused(
  fake, function, message, monkeypatch
):
  name, _ = fake
  monkeypatch.setattr(sys.modules["own_logger"], "open_run", function)
  if message is None:
    loggers.check([name])
    return
  with pytest.raises(ConfigError) as error:
    loggers.check([name])
  assert str(error.value) == f"config.log_to: {name!r}{message}"


class FakeWandbRun:
  def __init__(self, **arguments):
    self.arguments, self.lines, self.config = arguments, [], {}
    self.config = types.SimpleNamespace(
      update=lambda values, **_: vars(self).update(hparams=values)
    )

  def define_metric(self, *arguments, **options):
    del arguments, options

  def log(self, values):
    self.lines.append(values)

  def finish(self, exit_code):
    self.exit_code = exit_code


def test_wandb_gets_a_run_of_its_own(monkeypatch, tmp_path):
  """The package need not be here: a fake has what this project calls."""
  opened = []
  module = types.ModuleType("wandb")
  module.init = lambda **a: opened.append(FakeWandbRun(**a)) or opened[-1]
  module.Settings = lambda **options: options
  monkeypatch.setitem(sys.modules, "wandb", module)
  monkeypatch.delitem(sys.modules, "sam_jax.runs.wandb_logger", raising=False)
  for first_step, finished in ((0, False), (1, True)):
    writer = open_writer("wandb", tmp_path, first_step)
    writer.scalars(first_step + 1, "train", {"loss": 0.5})
    writer.close(finished)
  first, second = opened
  assert first.arguments["id"] == second.arguments["id"]
  assert first.arguments["name"] == tmp_path.name
  assert first.hparams == HPARAMS
  assert first.lines == [{"step": 1, "train/loss": 0.5}]
  assert second.lines == [{"step": 2, "train/loss": 0.5}]
  assert (first.exit_code, second.exit_code) == (1, 0)


class FakeMlflowClient:
  runs: dict

  def get_experiment_by_name(self, name):
    del name

  def create_experiment(self, name):
    return f"id of {name}"

  def create_run(self, experiment, run_name):
    self.runs["r1"] = {"name": run_name, "at": experiment, "log": []}
    return types.SimpleNamespace(info=types.SimpleNamespace(run_id="r1"))

  def set_terminated(self, run_id, status):
    self.runs[run_id]["log"].append(status)

  def log_batch(self, run_id, metrics=(), params=()):
    self.runs[run_id]["log"] += [
      *params,
      *((m[0], m[1], m[3]) for m in metrics),
    ]


def test_mlflow_gets_a_run_of_its_own(monkeypatch, tmp_path):
  client = type("Client", (FakeMlflowClient,), {"runs": {}})
  package, entities, tracking = (
    types.ModuleType(n)
    for n in ("mlflow", "mlflow.entities", "mlflow.tracking")
  )
  entities.Metric = entities.Param = lambda *arguments: arguments
  tracking.MlflowClient = client
  for module in (package, entities, tracking):
    monkeypatch.setitem(sys.modules, module.__name__, module)
  monkeypatch.delitem(sys.modules, "sam_jax.runs.mlflow_logger", raising=False)
  for first_step, finished in ((0, False), (1, True)):
    writer = open_writer("mlflow", tmp_path, first_step)
    writer.scalars(first_step + 1, "analysis", {"average:sigma=0.1": 0.5})
    writer.close(finished)
  (run,) = client.runs.values()
  assert run["name"] == tmp_path.name
  assert run["at"] == "id of sam_jax"
  params = [(name, str(value)) for name, value in HPARAMS.items()]
  assert run["log"] == [
    *params,
    ("analysis/average:sigma_0.1", 0.5, 1),
    "KILLED",
    "RUNNING",
    *params,
    ("analysis/average:sigma_0.1", 0.5, 2),
    "FINISHED",
  ]
