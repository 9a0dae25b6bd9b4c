"""Hosts load data after process 0, and few of them download at once."""

import weakref

import jax
import numpy as np
import pytest

from sam_jax.config.schema import default_config
from sam_jax.datasets import catalog
from sam_jax.runs import distributed
from sam_jax.training import input_pipeline, parallel


@pytest.mark.parametrize(
  ("data_dir", "rounds"), [(None, [1, 8, 8, 2]), ("gs://bucket/tfds", [1, 18])]
)
def test_hosts_take_turns_unless_they_share_a_bucket(
  data_dir, rounds, monkeypatch
):
  config = default_config()
  config.dataset.data_dir = data_dir
  monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
  monkeypatch.setattr(jax, "process_count", lambda: sum(rounds))
  monkeypatch.setattr(parallel, "connect", lambda: None)

  def events(index):
    """Return what a process does: load the data set, and wait for others."""
    found = []
    monkeypatch.setattr(jax, "process_index", lambda: index)
    monkeypatch.setattr(
      input_pipeline, "create_dataset", lambda _: found.append("load")
    )
    monkeypatch.setattr(
      distributed, "wait_for_others", lambda whom: found.append(whom)
    )
    input_pipeline.create_dataset_on_all_hosts(config)
    return found

  turns = []
  for index in range(sum(rounds)):
    found = events(index)
    assert len(found) == len(rounds) + 1  # all wait equally often
    turns.append(found.index("load"))
  assert turns == [i for i, size in enumerate(rounds) for _ in range(size)]
  assert events(5)[0] == "process 0 to prepare the data set"


class Images(dict):
  """A batch that can be watched."""


def test_a_preview_of_the_first_batch_does_not_keep_it():
  references = []

  def batches():
    for step in range(3):
      images = np.full((8, 8, 8, 1), step, np.float32)
      batch = Images(parallel.shard({"image": images}))
      references.append(weakref.ref(batch))
      yield step, batch

  spec = catalog.dataset_spec("digits")
  images, drawn = input_pipeline.preview(batches(), spec)
  assert images.shape[1:] == (8, 8, 1)
  for expected in range(3):
    step, batch = next(drawn)
    assert step == expected == batch["image"].max()
  is_alive = [reference() is not None for reference in references]
  assert is_alive == [False, False, True]
