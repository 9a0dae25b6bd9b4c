"""Methods, optimizers and networks that do not fit are one line."""

import functools
import re

import pytest

from sam_jax import methods
from sam_jax.config import relations
from sam_jax.config.schema import ConfigError, default_config
from sam_jax.training import build
from tests.processes import REPOSITORY

BAD_METHODS = '''
import jax
import jax.numpy as jnp
import optax

from sam_jax import sharpness_aware


def halfway(rho, *, weight=0.5, **kwargs):
  return sharpness_aware(rho, **kwargs)


def wrong_shape(rho, **kwargs):
  return optax.stateless(
    lambda updates, _: jax.tree.map(lambda x: x.sum(), updates)
  )


def growing_state(rho, **kwargs):
  return optax.GradientTransformation(
    lambda params: (), lambda updates, state, params: (updates, (rho, rho))
  )


def state_of(init, update):
  """Return a function that makes a method with such a state."""
  return lambda rho, **kwargs: optax.GradientTransformation(
    lambda params: init, lambda updates, state, params: (updates, update)
  )


ZERO = jnp.zeros((), jnp.float32)
other_dtype = state_of({"count": ZERO}, {"count": ZERO.astype(jnp.bfloat16)})
less_state = state_of({"a": ZERO, "b": ZERO}, {"a": ZERO})
other_container = state_of((ZERO,), [ZERO])


def no_transformation(rho, **kwargs):
  return None


def fails(rho, **kwargs):
  raise KeyError("my mistake")


def branches(rho, **kwargs):
  return optax.identity() if rho > 0 else optax.scale(0.0)
'''


@pytest.fixture
def own_file(tmp_path, monkeypatch):
  """A file of methods outside the repository, on PYTHONPATH."""
  (tmp_path / "bad_methods.py").write_text(BAD_METHODS)
  monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    (
      {"sam.method": "frendly_sam"},
      "sam.method = 'frendly_sam': .*friendly_sam",
    ),
    ({"sam.method": "nowhere:f"}, "sam.method = 'nowhere:f': No module named"),
    ({"sam.method": "sam_jax.sam:dual"}, "has no attribute 'dual'"),
    (
      {"sam.method": "bad_methods:wrong_shape"},
      r"bad_methods:wrong_shape': update must return updates like params, but"
      r" dense/bias is float32\[\], not float32\[3\]: convert it\.$",
    ),
    (
      {"sam.method": "bad_methods:growing_state"},
      r"a state like init's, but 0 \(float32\[\]\) is new: drop it, or let init"
      r" return it, too\.$",
    ),
    (
      {"sam.method": "bad_methods:less_state"},
      r"like init's, but b \(float32\[\]\) is missing: return it, too\.$",
    ),
    (
      {"sam.method": "bad_methods:other_dtype"},
      r"but count is bfloat16\[\], not float32\[\]: convert it\.$",
    ),
    (
      {"sam.method": "bad_methods:other_container"},
      "but its leaves are in containers of other types: use the same ones",
    ),
    (
      {"sam.method": "bad_methods:halfway", "sam.options": {"wieght": 1}},
      r"'bad_methods:halfway': it has no use for"
      r" config\.sam\.options\.wieght; it takes weight\. Did you mean"
      r" 'weight'\?$",
    ),
    (
      {"sam.method": "bad_methods:no_transformation"},
      "must return a transformation of optax, not None",
    ),
    ({"sam.method": "bad_methods:fails"}, "KeyError: 'my mistake'"),
    (
      {"sam.method": "bad_methods:branches"},
      r"^config\.sam\.method = 'bad_methods:branches': it branches on a traced"
      r" value, such as rho: use jnp\.where, not `if`\.",
    ),
    ({"model.name": "bad_methods:fails"}, "model.name = 'bad_methods:fails'"),
    (
      {"optimizer.name": "lion", "optimizer.options": {"b1": "abc"}},
      "optimizer.name = 'lion': TypeError",
    ),
    ({"optimizer.name": "lbfgs"}, "optimizer.name = 'lbfgs': TypeError"),
    (
      {"optimizer.name": "adam", "optimizer.options": {"learning_rate": 3}},
      "option 'learning_rate' is set by a field",
    ),
    (
      {"sam.options": {"gamma": 1}},
      r"sam\.method = 'sam': it has no use for config\.sam\.options\.gamma; it"
      r" takes p, adaptive, .*second_order",
    ),
    ({"sam.options": {"rho": 1}}, r"config\.sam\.options\.rho = 1 is set by"),
    ({"sam.options": {"sync": 1}}, r"options\.sync = 1 is set by"),
    (
      {"sam.method": "look_sam"},
      r"set config\.sam\.every, to another value than 1\.",
    ),
    (
      {"sam.method": "weighted_sam", "sam.options": {"gamma": 2.0}},
      "sam.method = 'weighted_sam': gamma",
    ),
    (
      {"model.options": {"dropout_rate": 0.5}},
      r"config\.model\.options\.dropout_rate = 0\.5 is set by",
    ),
    ({"model.options": {"depth": 3}}, "model.name = 'wrn28_10': .*depth"),
    ({"optimizer.options": {"b1": 1}}, "optimizer.name = 'sgd': .*'b1'"),
    (
      {"optimizer.name": "yogi", "optimizer.weight_decay_kind": "decoupled"},
      "optimizer.name = 'yogi': .*no argument 'weight_decay'",
    ),
  ],
)
def test_bad_methods_and_options_are_reported(fields, message, own_file):
  config = default_config()
  for name, value in fields.items():
    *parents, leaf = name.split(".")
    node = functools.reduce(lambda n, p: n[p], parents, config)
    if isinstance(value, dict):
      node[leaf].update(value)
    else:
      node[leaf] = value
  with pytest.raises(ConfigError, match=message) as error:
    build.validate(config, 1)
  assert "\n" not in str(error.value)


# Other values than the defaults, and what some methods need.
FIELDS = {
  "p": 1.0,
  "adaptive": True,
  "eta": 0.1,
  "mask": "no_norm",
  "ascent_steps": 2,
  "ascent_fraction": 0.5,
  "every": 2,
  "surrogate_gap": 0.2,
  "second_order": True,
  "random_direction": True,
}
NEEDED = {
  "every_k": {"every": 2},
  "gsam": {"surrogate_gap": 0.2},
  "look_sam": {"every": 2},
}


def refused(method):
  """Return the fields that a method refuses."""
  found = set()
  for name, value in FIELDS.items():
    config = default_config()
    config.sam.update({"method": method, **NEEDED.get(method, {}), name: value})
    try:
      relations.check(config, 1)
      build.sharpness(config, 0.05, build.layout(config, 1), 10)
    except ConfigError as error:
      assert "\n" not in str(error) and " at 0x" not in str(error)
      found.add(name)
  return found


def test_the_page_of_methods_says_which_fields_each_refuses():
  page = (REPOSITORY / "docs/methods.md").read_text()
  rows = [re.split(r"(?<!\\)\|", line) for line in page.splitlines()]
  table = {row[1].strip(" `"): row[5] for row in rows if len(row) == 8}
  del table["config.sam.method"], table["---"]
  assert table.keys() == {"sam", *methods.__all__}
  for method, cell in table.items():
    assert {*re.findall(r"`(\w+)`", cell)} == refused(method), method
