"""The order of examples: recorded, and computed in another way."""

import itertools

import numpy as np
import pytest

from sam_jax.datasets import catalog
from sam_jax.datasets.sampler import Sampler

SPEC = catalog.dataset_spec("digits")


def sampler(**kwargs):
  sizes = {"batch_size": 4, "eval_batch_size": 4, "seed": 0}
  return Sampler(SPEC, 10, **(sizes | kwargs))


def take(iterator, count):
  return [
    (first, second.tolist())
    for first, second in itertools.islice(iterator, count)
  ]


def test_order_is_the_recorded_one():
  """Changing it changes every run that was ever started."""
  assert take(sampler().train_indices(0), 4) == [
    (0, [4, 6, 2, 7]),
    (0, [3, 5, 9, 0]),
    (1, [9, 1, 3, 8]),
    (1, [7, 6, 0, 4]),
  ]


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("first_step", [0, 1, 5])
def test_batches_are_slices_of_a_permutation(seed, first_step):
  expected = []
  for epoch in range(4):
    order = np.random.default_rng((seed, epoch)).permutation(10)
    expected += [(epoch, list(order[:4])), (epoch, list(order[4:8]))]
  found = take(sampler(seed=seed).train_indices(first_step), 3)
  assert found == expected[first_step : first_step + 3]


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_share_batches(hosts):
  parts = [sampler(process_index=i, process_count=hosts) for i in range(hosts)]
  batches = zip(*[take(p.train_indices(1), 3) for p in parts], strict=True)
  for shares, whole in zip(
    batches, take(sampler().train_indices(1), 3), strict=True
  ):
    assert [i for _, examples in shares for i in examples] == whole[1]
  seen, size = [], 4 // hosts
  for part in parts:
    for examples, mask in part.eval_indices(10):
      assert len(examples) == len(mask) == size
      assert mask.dtype == np.float32 and examples.max() < 10
      seen += list(examples[mask > 0])
  assert sorted(seen) == list(range(10))
