"""The operations that the policies apply, their frequencies and strengths."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax import target
from sam_jax.augment import policies
from sam_jax.augment.policy_tables import AUTOAUGMENT_POLICIES

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
OFFICIAL = json.loads((GOLDEN / "policies.json").read_text())
OFFICIAL["cifar10"] = OFFICIAL.pop("cifar")
COUNT = 10_000  # images, for frequencies
RANDAUGMENT = functools.partial(
  policies.randaugment, layers=2, magnitude=9, translate_const=100
)


def augment(fn, images, count, seed=0):
  """Apply `fn` to `count` images, taken from `images` in turn."""
  images = np.resize(images, (count, *images.shape[1:]))
  keys = jax.random.split(jax.random.key(seed), count)
  return np.asarray(jax.jit(fn)(images, keys))


@pytest.fixture
def record_operations(monkeypatch):
  """Replace operations by notes in the first pixels, the last note first."""

  def note(number):
    def op(image, argument, center):
      values = jnp.stack([number, jnp.sign(argument), *center])
      values = values.astype(jnp.int32).astype(jnp.uint8)
      flat = jnp.concatenate([values, image.ravel()[: -values.size]])
      return flat.reshape(image.shape)

    return op

  notes = {name: note(i + 1) for i, name in enumerate(policies._OPERATIONS)}
  monkeypatch.setattr(policies, "_OPERATIONS", notes)
  names = [None, *notes]

  def run(fn, count):
    blank = np.zeros((1, 8, 9, 3), np.uint8)
    notes = augment(fn, blank, count).reshape(count, -1)[:, :8]
    notes = notes.reshape(count, 2, 4)[:, ::-1]
    return [
      [(names[note[0]], *note[1:]) for note in image if note[0]]
      for image in notes.tolist()
    ]

  return run


def frequencies(sequences):
  sequences = [tuple(name for name, *_ in steps) for steps in sequences]
  keys, counts = np.unique([str(s) for s in sequences], return_counts=True)
  return dict(zip(keys, counts / len(sequences), strict=True))


def expected_frequencies(policy):
  expected = {}
  for (first, p, _), (second, q, _) in policy:
    for do_first in (False, True):
      for do_second in (False, True):
        steps = (first,) * do_first + (second,) * do_second
        weight = (p if do_first else 1 - p) * (q if do_second else 1 - q)
        key = str(steps)
        expected[key] = expected.get(key, 0) + weight / len(policy)
  return {key: value for key, value in expected.items() if value}


def assert_equally_frequent(found, expected, count):
  for key in {*found, *expected}:
    p = expected.get(key, 0)
    margin = 5 * np.sqrt(p * (1 - p) / count) + 1 / count * bool(p)
    assert abs(found.get(key, 0) - p) <= margin, key


def test_names():
  assert list(AUTOAUGMENT_POLICIES) == ["cifar10", "svhn", "imagenet"]


@pytest.mark.parametrize("name", AUTOAUGMENT_POLICIES)
def test_policies_equal_official(name):
  table = [[list(step) for step in pair] for pair in AUTOAUGMENT_POLICIES[name]]
  assert table == OFFICIAL[name]


@pytest.mark.parametrize("name", AUTOAUGMENT_POLICIES)
def test_frequencies_of_operations(record_operations, name):
  fn = functools.partial(policies.autoaugment, policy=name)
  found = frequencies(record_operations(fn, COUNT))
  assert_equally_frequent(found, expected_frequencies(OFFICIAL[name]), COUNT)


def test_randaugment_draws_equally(record_operations):
  sequences = record_operations(RANDAUGMENT, COUNT)
  assert all(len(steps) == 2 for steps in sequences)
  names = list(policies._OPERATIONS)
  pairs = {str((a, b)): 1 / 16**2 for a in names for b in names}
  assert_equally_frequent(frequencies(sequences), pairs, COUNT)


def test_signs_and_centers(record_operations):
  steps = [s for pair in record_operations(RANDAUGMENT, COUNT) for s in pair]
  minus = 255  # -1 as uint8
  for name in policies._OPERATIONS:
    signs = [sign for found, sign, *_ in steps if found == name]
    if name in ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"):
      assert 0.35 < np.mean(np.equal(signs, minus)) < 0.65
    else:
      assert minus not in signs
  assert {row for *_, row, _ in steps} == set(range(8))
  assert {column for *_, column in steps} == set(range(9))


def test_levels_become_the_official_arguments(golden):
  recorded = golden("augment.npz")
  names = [key.split("/")[1] for key in recorded if key.endswith("/level")]
  assert len(names) == 12
  for name in names:
    levels, arguments = (recorded[f"op/{name}/{k}"] for k in ("level", "arg"))
    consts = np.full(len(levels), 250)
    if f"op/{name}/translate_const" in recorded:
      consts = recorded[f"op/{name}/translate_const"]
    for level, argument, const in zip(levels, arguments, consts, strict=True):
      if const > 0:
        ours = policies.level_to_argument(
          name, int(level), translate_const=int(const), cutout_const=100
        )
        assert ours == pytest.approx(abs(argument), rel=1e-12)


def test_applies_operations_at_their_levels(golden, monkeypatch):
  """Outputs are exactly the recorded ones, of both signs."""
  recorded = golden("augment.npz")
  image = recorded["images"][:1]
  choices, expected = [], set()
  for name in policies._OPERATIONS:
    levels = recorded.get(f"op/{name}/level", np.zeros(1, int))
    outputs = recorded[f"op/{name}/out"]
    if name == "Cutout":
      continue
    if outputs.ndim == 4:
      outputs = outputs[None]
    if name.startswith("Translate"):
      is_official = recorded[f"op/{name}/translate_const"] == 250
      levels, outputs = levels[is_official], outputs[is_official]
    choices += [[(name, 1.0, int(level))] for level in np.unique(levels)]
    expected |= {output[0].tobytes() for output in outputs}
  monkeypatch.setitem(AUTOAUGMENT_POLICIES, "svhn", choices)
  fn = functools.partial(policies.autoaugment, policy="svhn")
  outputs = augment(fn, image, 5000)
  assert {output.tobytes() for output in outputs} == expected


def test_cutout_in_policies(monkeypatch):
  monkeypatch.setitem(AUTOAUGMENT_POLICIES, "svhn", [[("Cutout", 1.0, 1)]])
  image = np.zeros((1, 64, 64, 3), np.uint8)
  fn = functools.partial(policies.autoaugment, policy="svhn")
  areas = (augment(fn, image, 500) == 128).all(-1).sum((1, 2))
  assert areas.max() == 20**2
  assert areas.min() >= 10**2


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
@pytest.mark.parametrize(
  "fn",
  [functools.partial(policies.autoaugment, policy="svhn"), RANDAUGMENT],
  ids=["autoaugment", "randaugment"],
)
def test_forms_of_all_platforms_give_the_same_bits(
  golden, fn, platform, monkeypatch
):
  # RandAugment has all operations: compile a few of AutoAugment's.
  few = AUTOAUGMENT_POLICIES["svhn"][:3]
  monkeypatch.setitem(AUTOAUGMENT_POLICIES, "svhn", few)
  images = golden("augment.npz")["images"]
  on_cpus = augment(fn, images, 200)
  assert (on_cpus != augment(fn, images, 200, seed=1)).any()
  with target.compiling_for(platform):
    # Another function, so that JAX traces it again.
    elsewhere = augment(functools.partial(fn), images, 200)
  np.testing.assert_array_equal(on_cpus, elsewhere)


def test_no_layers_change_nothing():
  images = np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3)
  keys = jax.random.split(jax.random.key(0), 2)
  randaugment = functools.partial(policies.randaugment, layers=0, magnitude=9)
  output = jax.jit(randaugment)(images, keys)
  np.testing.assert_array_equal(output, images)


def test_errors():
  images = np.zeros((2, 4, 4, 3), np.uint8)
  keys = jax.random.split(jax.random.key(0), 2)
  with pytest.raises(ValueError, match=r"did you mean 'cifar10'.*svhn"):
    policies.autoaugment(images, keys, policy="cifar")
  with pytest.raises(ValueError, match=r"uint8 \[N, H, W, 3\], not float32"):
    policies.autoaugment(images.astype(np.float32), keys, policy="svhn")
  with pytest.raises(ValueError, match=r"not uint8 \(2, 4, 4, 1\)"):
    policies.autoaugment(images[..., :1], keys, policy="svhn")
  with pytest.raises(ValueError, match="magnitude = -1 must be 0 or more"):
    policies.randaugment(
      images, keys, layers=1, magnitude=-1, translate_const=10
    )
