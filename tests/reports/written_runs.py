"""Directories of runs that no one trained, for tests of reports."""

import json

from sam_jax.config import files as config_files
from sam_jax.config.schema import default_config, update
from sam_jax.reports import results, run_records
from sam_jax.runs import files, workdir

STEPS_PER_EPOCH = 10
TRAIN_EXCESS = 0.1  # of the training error over the test error, here


def paper_config(words, name="cifar"):
  """Return a config of a table of the paper."""
  return config_files.read_config(f"configs/{name}.py:{words}")


def write_run(path, errors, config=None, *, is_finished=True, **fields):
  """Write the directory of a run that had these test errors.

  Args:
    path: The directory.
    errors: Test errors, evenly spaced over the run.
    config: A config; None: the default.
    is_finished: False leaves result.json out.
    **fields: Overrides, such as sam__rho=0.1.
  """
  config = config or default_config()
  update(config, {k.replace("__", "."): v for k, v in fields.items()})
  path.mkdir(parents=True)
  files.write_json(path / "config.json", workdir.to_dict(config))
  every = config.num_epochs * STEPS_PER_EPOCH // max(len(errors), 1)
  lines = []
  for i, error in enumerate(errors, start=1):
    step = i * every
    lines.append({"step": step, "train/error_rate": error + TRAIN_EXCESS})
    lines.append({"step": step, "test/error_rate": error})
  append_metrics(path, *lines)
  if is_finished:
    step = config.num_epochs * STEPS_PER_EPOCH
    top_5 = errors[-1] / 10
    files.write_json(
      path / "result.json",
      {"step": step, "error_rate": errors[-1], "top_5_error_rate": top_5},
    )


def append_metrics(path, *lines):
  """Append lines to a run's metrics.jsonl."""
  with (path / "metrics.jsonl").open("a") as file:
    file.writelines(json.dumps(line) + "\n" for line in lines)


def groups_of(root):
  """Return the finished runs of a directory."""
  runs, problems = run_records.read_runs([root])
  assert not problems
  return results.group_over_seeds(runs)
