"""Pieces of an analysis are saved one by one, and found by their whole key."""

import json
import math

from sam_jax.analysis.result_cache import Pieces


def refuse():
  raise AssertionError("this piece was there")


def test_pieces_are_found_again_and_only_under_their_own_key(tmp_path):
  path = tmp_path / "run" / "analysis.json"
  pieces = Pieces(path)
  assert pieces.get({"weights": 1, "rho": 0.1}, lambda: [1.5, 2.0]) == [1.5, 2]
  again = Pieces(path)
  assert again.get({"rho": 0.1, "weights": 1}, refuse) == [1.5, 2]
  assert {"weights": 1, "rho": 0.1} in again
  assert {"weights": 2, "rho": 0.1} not in again
  assert {"weights": 1} not in again


def test_file_is_strict_json(tmp_path):
  pieces = Pieces(tmp_path / "a.json")
  result = pieces.get({}, lambda: {"losses": (1.0, math.inf, math.nan)})
  assert result == {"losses": [1.0, None, None]}
  text = (tmp_path / "a.json").read_text()
  assert (
    json.loads(text, parse_constant=refuse)["pieces"][0]["result"] == result
  )


def test_what_is_not_finite_is_not_computed_again(tmp_path):
  pieces = Pieces(tmp_path / "a.json")
  assert pieces.get({"rho": 9}, lambda: math.inf) is None
  for each in (pieces, Pieces(tmp_path / "a.json")):
    assert {"rho": 9} in each
    assert each.get({"rho": 9}, refuse) is None


def test_damaged_file_holds_nothing(tmp_path):
  for text in ("", "{", "[]", '{"pieces": ', '{"pieces": [1]}', '"\\u0000"'):
    (tmp_path / "a.json").write_text(text)
    assert {} not in Pieces(tmp_path / "a.json")
