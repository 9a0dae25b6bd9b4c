"""Averages over the shards of a device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax.training.microbatches import mean_over_microbatches


@pytest.mark.parametrize("unroll", [True, False])
@pytest.mark.parametrize("count", [1, 4])
def test_floats_are_averaged_and_a_shard_is_traced_once(count, unroll):
  traces = []

  def shard_fn(batch, index):
    traces.append(index)
    return {"sum": jnp.sum(batch), "index": jnp.asarray(index, jnp.int32)}

  @jax.jit
  def mean(batch):
    return mean_over_microbatches(shard_fn, batch, count, unroll=unroll)

  batch = np.arange(8, dtype=np.float32)
  found = mean(batch)
  assert found["sum"] == batch.sum() / count
  assert found["index"] == count - 1
  assert len(traces) == 1
