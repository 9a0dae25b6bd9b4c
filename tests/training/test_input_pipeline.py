"""Hosts load data after process 0, and few of them download at once."""

import jax
import pytest

from sam_jax.config.schema import default_config
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
