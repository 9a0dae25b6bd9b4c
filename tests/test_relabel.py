"""Labels that a network predicts for its training set."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from sam_jax.analysis import trained_run
from sam_jax.datasets import catalog
from sam_jax.datasets.in_memory import InMemoryDataset
from sam_jax.datasets.labels import read_labels
from tests.in_process import run_script


class Tiny(nn.Module):
  @nn.compact
  def __call__(self, x, *, train):
    return nn.Dense(10)(x.reshape(len(x), -1))


@pytest.fixture
def restored(monkeypatch):
  """A run whose evaluation batches of 5 don't divide by 8 devices."""
  random = np.random.default_rng(0)
  images = random.integers(256, size=(17, 8, 8, 1)).astype(np.uint8)
  examples = images, np.zeros(17, np.int32)
  dataset = InMemoryDataset(
    catalog.dataset_spec("digits"),
    examples,
    examples,
    batch_size=5,
    eval_batch_size=5,
    seed=0,
  )
  model = Tiny()
  pixels = (images / 255 - dataset.spec.mean[0]) / dataset.spec.std[0]
  variables = model.init(jax.random.key(0), pixels, train=False)
  run = trained_run.TrainedRun(None, None, 0, dataset.spec, model, variables)
  monkeypatch.setattr(trained_run, "create_dataset", lambda config: dataset)
  monkeypatch.setattr(trained_run, "load_run", lambda workdir: run)
  return model.apply(variables, pixels, train=False).argmax(-1)


def test_every_example_is_labeled_on_any_number_of_devices(
  restored, tmp_path, capsys
):
  output = tmp_path / "new" / "labels.npy"
  run_script("relabel", "--workdir=run", f"--output={output}")
  labels = read_labels(output, 17, 10)
  np.testing.assert_array_equal(labels, restored)
  wrong = np.mean(restored != 0)
  expected = f"17 labels, {wrong:.1%} wrong: {output}\n"
  assert capsys.readouterr().out == expected


def test_output_that_is_a_directory(tmp_path, capsys):
  with pytest.raises(SystemExit) as exit_info:
    run_script("relabel", "--workdir=run", f"--output={tmp_path}")
  assert exit_info.value.code == 2
  error = capsys.readouterr().err
  assert error == f"error: --output={tmp_path} is a directory.\n"
