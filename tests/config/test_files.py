"""Config files: where they are found, what they import, how they fail."""

import pathlib

import pytest

from sam_jax.config import files
from sam_jax.config.schema import ConfigError, default_config
from tests.processes import REPOSITORY


def test_a_file_of_the_current_directory_comes_first(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert files.read_config("configs/digits.py:sgd").sam.rho == 0
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs/digits.py").write_text(
    "from sam_jax.config.schema import default_config\n"
    "def get_config():\n"
    "  config = default_config()\n"
    "  config.seed = 77\n"
    "  return config\n"
  )
  assert files.read_config("configs/digits.py").seed == 77
  ours = files.read_config(str(files.project_config("digits")))
  assert ours.seed == 0


def test_configs_inside_a_wheel_are_found(tmp_path, monkeypatch):
  package = tmp_path / "site-packages/sam_jax"
  (package / "configs").mkdir(parents=True)
  source = (REPOSITORY / "configs/digits.py").read_text()
  (package / "configs/other.py").write_text(source)
  monkeypatch.setattr(files, "_HOMES", [package])
  assert files.read_config("configs/other.py").sam.rho == 0.5
  assert files.project_config("other") == package / "configs/other.py"


def test_a_config_may_import_its_neighbors_and_those_of_the_project(tmp_path):
  (tmp_path / "neighbor_a.py").write_text("RHO = 0.3\n")
  (tmp_path / "neighbor_b.py").write_text("SEEDS = (1, 2)\n")
  file = tmp_path / "mine.py"
  file.write_text(
    "from configs import digits\n"
    "import neighbor_a\n"
    "def get_config(words):\n"
    "  config = digits.get_config(words)\n"
    "  config.sam.rho = neighbor_a.RHO\n"
    "  return config\n"
    "def sweep(words):\n"
    "  from neighbor_b import SEEDS\n"
    "  for seed in SEEDS:\n"
    "    yield {'variant': words, 'seed': seed}\n"
  )
  assert files.read_config(f"{file}:sam").sam.rho == 0.3
  runs = files.read_sweep(f"{file}:sam")
  assert runs == [{"variant": "sam", "seed": 1}, {"variant": "sam", "seed": 2}]


def test_the_path_of_imports_is_left_as_the_file_wanted_it(
  tmp_path, monkeypatch
):
  import sys

  monkeypatch.setattr(sys, "path", sys.path[:])
  before = sys.path[:]
  file = tmp_path / "config.py"
  file.write_text("import sys\nsys.path.append('/mine')\n")
  files.load(str(file))
  assert sys.path == [*before, "/mine"]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("def get_config(:", ": SyntaxError: invalid syntax (config.py, line 1)"),
    ("x = 1", " has no function get_config."),
    (
      "\ndef get_config():\n  return 1 / 0",
      ", line 3: ZeroDivisionError: division by zero",
    ),
    (
      "def get_config():\n  open('/nope')",
      ", line 2: FileNotFoundError: [Errno 2] No such file or directory:",
    ),
    ("import nope", ", line 1: ModuleNotFoundError: No module named 'nope'"),
    ("def get_config():\n  return {}", "must return a ConfigDict, not dict."),
    ("def get_config():\n  pass", "must return a ConfigDict, not NoneType."),
    ("def get_config():\n  raise ValueError('No such word.')", "such word."),
    (
      "from ml_collections import ConfigDict as get_config",
      "lacks seed, num_epochs, batch_size: let get_config start from default_",
    ),
    (
      "import ml_collections\ndef get_config():\n"
      "  return ml_collections.ConfigDict({'sam': 1, 3: 4})",
      "TypeError: '<' not supported",
    ),
    (
      "import ml_collections\ndef get_config():\n"
      "  return ml_collections.ConfigDict({'sam': {'roh': 1}})",
      "config.sam.roh is a field that nothing reads. Did you mean"
      " config.sam.rho?",
    ),
  ],
)
def test_wrong_files_are_one_line(text, message, tmp_path):
  file = tmp_path / "config.py"
  file.write_text(text)
  with pytest.raises(ConfigError) as error:
    files.read_config(str(file))
  assert message in str(error.value)
  assert "\n" not in str(error.value)
  assert str(error.value).startswith(f"--config={file}")


@pytest.mark.parametrize(
  ("body", "message"),
  [
    ("raise KeyError('x')", ", line 2: KeyError: 'x'"),
    ("return []", ": sweep yields no run."),
    ("return None", ": TypeError: 'NoneType' object is not iterable"),
    ("yield 3", ": sweep must yield dictionaries such as {"),
    ("yield ('seed', 1)", "not ('seed', 1)."),
    ("yield {3: 4}", "not {3: 4}."),
    ("yield {'variant': None}", "not {'variant': None}."),
  ],
)
def test_wrong_sweeps_are_one_line(body, message, tmp_path):
  file = tmp_path / "config.py"
  file.write_text(f"def sweep(words):\n  {body}\n")
  with pytest.raises(ConfigError) as error:
    files.read_sweep(str(file))
  assert str(error.value).startswith(f"--config={file}")
  assert message in str(error.value)
  assert "\n" not in str(error.value)


def test_a_file_without_sweep_is_refused(tmp_path):
  file = tmp_path / "config.py"
  file.write_text("def get_config():\n  pass\n")
  with pytest.raises(ConfigError, match=r"no function sweep\. Use --grid\."):
    files.read_sweep(str(file))


def test_get_config_may_take_no_words(tmp_path):
  file = tmp_path / "config.py"
  file.write_text(
    "from sam_jax.config.schema import default_config as get_config"
  )
  assert files.read_config(str(file)).to_dict() == default_config().to_dict()


def test_a_home_directory_is_expanded(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  source = files.project_config("digits").read_text()
  pathlib.Path(tmp_path / "mine.py").write_text(source)
  assert files.read_config("~/mine.py:sgd").sam.rho == 0
