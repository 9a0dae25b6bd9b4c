"""Results are saved one by one, and found by their whole key."""

import json
import math

from sam_jax.analysis.result_cache import ResultCache


def refuse(*_):
  raise AssertionError("this result was there")


def test_results_are_found_only_under_their_own_key(tmp_path):
  path = tmp_path / "run" / "analysis.json"
  cache = ResultCache(path)
  assert cache.get({"weights": 1, "rho": 0.1}, lambda: [1.5, 2.0]) == [1.5, 2]
  again = ResultCache(path)
  assert again.get({"rho": 0.1, "weights": 1}, refuse) == [1.5, 2]
  assert {"weights": 1, "rho": 0.1} in again
  assert {"weights": 2, "rho": 0.1} not in again
  assert {"weights": 1} not in again


def test_file_is_strict_json(tmp_path):
  cache = ResultCache(tmp_path / "a.json")
  result = cache.get({}, lambda: {"losses": (1.0, math.inf, math.nan)})
  assert result == {"losses": [1.0, None, None]}
  text = (tmp_path / "a.json").read_text()
  entries = json.loads(text, parse_constant=refuse)["results"]
  assert entries == [{"key": {}, "result": result}]


def test_results_that_are_not_finite_are_not_computed_again(tmp_path):
  cache = ResultCache(tmp_path / "a.json")
  assert cache.get({"rho": 9}, lambda: math.inf) is None
  for each in (cache, ResultCache(tmp_path / "a.json")):
    assert {"rho": 9} in each
    assert each.get({"rho": 9}, refuse) is None


def test_damaged_file_has_no_results(tmp_path):
  for text in ("", "{", "[]", '{"results": ', '{"results": [1]}', '"\\u0000"'):
    (tmp_path / "a.json").write_text(text)
    assert {} not in ResultCache(tmp_path / "a.json")
