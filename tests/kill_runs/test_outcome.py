"""Facts of a run: what differs between two runs is named, timings are not."""

import json
import shutil

import orbax.checkpoint as ocp
import pytest

from sam_jax.runs.event_file import EventFile
from sam_jax.training import build, input_pipeline, loop
from scripts.kill_runs.outcome import differences, outcome
from tests import tiny


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """Return the workdir of a run of 8 steps, and its facts."""
  config = tiny.create_config()
  config.num_epochs = 2
  config.log_every_steps = 1
  config.ema.decay, config.ema.warmup_steps = 0.9, 2
  workdir = tmp_path_factory.mktemp("runs") / "run"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(build, "model", tiny.create_model)
    patch.setattr(input_pipeline, "create_dataset", tiny.create_dataset)
    loop.train_and_evaluate(config, workdir)
  return workdir, outcome(workdir)


@pytest.fixture
def copy(finished, tmp_path):
  """Return a copy of this workdir that a test may change."""
  return shutil.copytree(finished[0], tmp_path / "copy")


def names_of_differences(finished, workdir):
  return [d.split(":")[0] for d in differences(finished[1], outcome(workdir))]


def test_facts(finished):
  facts = finished[1]
  assert "checkpoints/8" in facts["files"]
  arrays = [n for n in facts if n.startswith("checkpoint 8 ")]
  for part in ("params", "ema", "opt_state", "step"):
    assert any(part in name for name in arrays), part
  steps = [step for step, _ in facts["TensorBoard train/loss"]]
  assert steps == list(range(1, 9))
  assert [line["step"] for line in facts["metrics.jsonl"]][-1] == 8
  assert not any("images_per_second" in str(n) for n in facts.items())


def test_equal_runs(finished, copy):
  lines = [json.loads(x) for x in (copy / "metrics.jsonl").open()]
  for line in lines:
    if "train/images_per_second" in line:
      line["train/images_per_second"] += 1
  text = "".join(f"{json.dumps(line)}\n" for line in lines)
  (copy / "metrics.jsonl").write_text(text)
  assert names_of_differences(finished, copy) == []


def test_other_bits_of_a_checkpoint(finished, copy):
  path = copy / "checkpoints/8/state"
  with ocp.StandardCheckpointer() as checkpointer:
    state = checkpointer.restore(path)
    kernel = state["ema"]["params"]["Dense_0"]["kernel"]
    state["ema"]["params"]["Dense_0"]["kernel"] = kernel * (1 + 1e-7)
    checkpointer.save(path, state, force=True)
  (name,) = names_of_differences(finished, copy)
  assert name.startswith("checkpoint 8 ['ema']") and "kernel" in name


@pytest.mark.parametrize(
  "name", ["checkpoints/9.orbax-checkpoint-tmp", "damaged_checkpoints"]
)
def test_leftovers(name, finished, copy):
  (copy / name).mkdir()
  (difference,) = differences(finished[1], outcome(copy))
  assert difference == f"files: missing [], in addition ['{name}']"


@pytest.mark.parametrize("change", [lambda x: x[:-1], lambda x: [*x, x[-1]]])
def test_lines_of_metrics(change, finished, copy):
  file = copy / "metrics.jsonl"
  lines = file.read_text().splitlines()
  file.write_text("".join(f"{line}\n" for line in change(lines)))
  assert names_of_differences(finished, copy) == ["metrics.jsonl"]


def test_result(finished, copy):
  with (copy / "result.json").open("a") as file:
    file.write(" ")
  assert names_of_differences(finished, copy) == ["result.json"]


def test_what_is_missing_or_damaged(finished, copy):
  for name in ("result.json", "metrics.jsonl"):
    (copy / name).unlink()
  shutil.rmtree(copy / "checkpoints/8/state")
  (copy / "metrics.jsonl").write_text('{"step": ')
  names = names_of_differences(finished, copy)
  assert {"result.json", "metrics.jsonl", "checkpoint 8"} <= set(names)


def test_points_of_tensorboard(finished, copy):
  (events,) = copy.glob("events*")
  (point,) = [p for p in finished[1]["TensorBoard test/loss"] if p[0] == 8]
  file = EventFile(copy, [events.name])
  file.write_scalars(8, {"test/loss": point[1]})
  file.close()
  assert names_of_differences(finished, copy) == ["TensorBoard test/loss"]
  file = EventFile(copy, [path.name for path in copy.glob("events*")])
  file.drop_from(8)
  file.close()
  names = names_of_differences(finished, copy)
  assert {"TensorBoard test/loss", "TensorBoard train/loss"} <= set(names)
  assert all(name.startswith("TensorBoard ") for name in names)
