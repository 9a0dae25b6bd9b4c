"""Wheel: what it holds, what it requires, and the versions that are locked."""

import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sam_jax
from sam_jax import extras
from tests.processes import CACHE, REPOSITORY

BUILD = """
import sys
from setuptools import build_meta
getattr(build_meta, sys.argv[1])(sys.argv[2])
"""

# Takes a step in the loss of a network without the packages in sys.argv[1], and
# reports what a command says without them.
STEP = """
import json, sys
blocked = set(json.loads(sys.argv[1]))

class Block:
  def find_spec(name, path=None, target=None):
    if name.partition(".")[0] in blocked:
      raise ModuleNotFoundError(f"No module named {name}", name=name)

sys.meta_path.insert(0, Block)
import jax, jax.numpy as jnp, optax, sam_jax

model = sam_jax.create_model("cnn4", 10)
images, labels = jnp.ones([4, 8, 8, 3]), jnp.arange(4)
init = jax.jit(model.init, static_argnames="train")
variables = init(jax.random.key(0), images, train=False)

def loss_fn(params, step):
  logits, _ = model.apply(
    variables | {"params": params}, images, train=True, mutable="batch_stats"
  )
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  return losses.mean()

@jax.jit
def losses(params):
  optimizer = sam_jax.sam(optax.sgd(0.01), rho=0.05)
  grad_fn = jax.grad(loss_fn)
  updates, _ = optimizer.update(
    grad_fn(params, 0), optimizer.init(params), params, grad_fn=grad_fn
  )
  return loss_fn(params, 0), loss_fn(optax.apply_updates(params, updates), 0)

first, second = map(float, losses(variables["params"]))
try:
  import sam_jax.train
except ModuleNotFoundError as error:
  message = str(error)
print(json.dumps([sam_jax.__file__, first, second, message]))
"""


METADATA_FILES = ("LICENSE", "MANIFEST.in", "pyproject.toml")
SOURCE_FILES = ("CHANGELOG.md", "CITATION.cff", "README.md", "REPRODUCTION.md")


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
  """Return a directory that has a wheel and a source distribution."""
  directory = tmp_path_factory.mktemp("distributions")
  checkout = directory / "checkout"
  ignore = shutil.ignore_patterns("__pycache__", "golden")
  for name in ("configs", "docs", "sam_jax", "scripts", "tests"):
    shutil.copytree(REPOSITORY / name, checkout / name, ignore=ignore)
  for name in (*METADATA_FILES, *SOURCE_FILES):
    shutil.copy(REPOSITORY / name, checkout)
  for hook in ("build_sdist", "build_wheel"):
    subprocess.run(
      [sys.executable, "-c", BUILD, hook, directory],
      cwd=checkout,
      check=True,
      capture_output=True,
    )
  return directory


@pytest.fixture(scope="module")
def installed(distributions):
  """Return a directory that holds what the wheel installs."""
  (wheel,) = distributions.glob("*.whl")
  zipfile.ZipFile(wheel).extractall(distributions / "site")
  return distributions / "site"


def metadata(installed):
  (directory,) = installed.glob("*.dist-info")
  return importlib.metadata.PathDistribution(directory)


def python_files(directory):
  return {str(p.relative_to(directory)) for p in directory.rglob("*.py")}


def test_wheel_holds_the_package_and_the_configs(installed):
  information = f"sam_jax-{metadata(installed).version}.dist-info"
  assert {p.name for p in installed.iterdir()} == {"sam_jax", information}
  package = python_files(REPOSITORY / "sam_jax")
  configs = {f"configs/{p}" for p in python_files(REPOSITORY / "configs")}
  assert python_files(installed / "sam_jax") == package | configs
  assert "configs/digits.py" in configs
  assert (installed / "sam_jax/py.typed").exists()
  assert (installed / "sam_jax/models/sizes.json").exists()
  assert (installed / information / "licenses/LICENSE").exists()


def test_source_distribution_is_the_repository(distributions):
  (archive,) = distributions.glob("*.tar.gz")
  with tarfile.open(archive) as file:
    names = {name.partition("/")[2] for name in file.getnames()}
  assert names >= {*METADATA_FILES, *SOURCE_FILES}
  for folder in ("configs", "docs", "sam_jax", "scripts", "tests"):
    files = python_files(REPOSITORY / folder)
    assert names >= {f"{folder}/{file}" for file in files}
  assert "docs/notebooks/sam_in_30_lines.ipynb" in names
  assert "docs/numbers/methods_digits.json" in names
  assert not any(name.endswith(".pyc") for name in names)


def test_metadata_describes_a_release(installed):
  fields = metadata(installed).metadata
  assert fields["License-Expression"] == "Apache-2.0"
  assert fields["Version"] == sam_jax.__version__
  assert fields["Description-Content-Type"] == "text/markdown"
  assert "Typing :: Typed" in fields.get_all("Classifier")
  changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
  assert f"## [{sam_jax.__version__}]" in changelog
  citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
  assert re.search(
    rf"^version: {re.escape(sam_jax.__version__)}$", citation, re.M
  )


def test_base_installation_is_light(installed):
  requirements = map(Requirement, metadata(installed).requires)
  base = {r.name for r in requirements if not r.marker}
  assert base == {"flax", "jax", "numpy", "optax"}
  assert set(metadata(installed).metadata.get_all("Provides-Extra")) == {
    "analysis",
    "docs",
    "gcs",
    "mlflow",
    "plan",
    "slurm",
    "test",
    "train",
    "wandb",
  }


def test_base_installation_trains_a_network(installed, tmp_path):
  light = closure(metadata(installed).requires, extras=[""]) | {"sam-jax"}
  tops = importlib.metadata.packages_distributions()
  blocked = [
    top
    for top, names in tops.items()
    if not light & {canonicalize_name(name) for name in names}
  ]
  heavy = {"ml_collections", "tensorboard", "tensorflow", "tensorflow_datasets"}
  assert heavy <= set(blocked)
  process = subprocess.run(
    [sys.executable, "-c", STEP, json.dumps(blocked)],
    cwd=tmp_path,
    env=os.environ
    | {"PYTHONPATH": str(installed), "JAX_COMPILATION_CACHE_DIR": str(CACHE)},
    capture_output=True,
    text=True,
  )
  assert process.returncode == 0, process.stderr
  file, first, second, message = json.loads(process.stdout)
  assert pathlib.Path(file) == installed / "sam_jax/__init__.py"
  assert second < first
  assert "pip install 'sam-jax[train]'" in message


@pytest.mark.parametrize("name", ["train", "plan", "models", "relabel"])
def test_commands_name_the_extra_that_they_need(name, monkeypatch, capsys):
  command = ["python", "-m", f"sam_jax.{name}", "--help"]
  monkeypatch.setattr(sys, "orig_argv", command)
  extras.check_command()  # it is installed here
  monkeypatch.setattr(extras, "find_spec", lambda package: None)
  with pytest.raises(SystemExit, match="2"):
    extras.check_command()
  assert capsys.readouterr().err == (
    f"error: sam_jax.{name} needs more packages: pip install 'sam-jax[train]'\n"
  )


def test_programs_that_import_the_package_need_no_extra(monkeypatch):
  monkeypatch.setattr(extras, "find_spec", lambda package: None)
  for command in (["python"], ["python", "-m"], ["python", "-m", "my.train"]):
    monkeypatch.setattr(sys, "orig_argv", command)
    extras.check_command()


def closure(requirements, extras):
  """Return the names of packages that requirements bring, directly or not."""
  names = set()
  for requirement in map(Requirement, requirements):
    if needed(requirement, extras):
      name = canonicalize_name(requirement.name)
      requires = importlib.metadata.requires(name) or []
      names |= {name} | closure(requires, ["", *requirement.extras])
  return names


def needed(requirement, extras, environment=()):
  marker = requirement.marker
  return not marker or any(
    marker.evaluate(dict(environment) | {"extra": extra}) for extra in extras
  )


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("versions", ["", "-oldest"])
def test_locked_versions_are_in_the_ranges(python, versions):
  tag = f"py{python.replace('.', '')}{versions}"
  lock = (REPOSITORY / f"constraints/{tag}.txt").read_text()
  locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+)$", lock, re.MULTILINE))
  project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())[
    "project"
  ]
  ranges = [
    requirement
    for group in (
      project["dependencies"],
      *project["optional-dependencies"].values(),
    )
    for requirement in map(Requirement, group)
    if requirement.name != project["name"]
    and needed(requirement, [""], {"python_version": python})
  ]
  assert len(ranges) > 15
  outside = [
    f"{requirement}: {locked.get(canonicalize_name(requirement.name))}"
    for requirement in ranges
    if locked.get(canonicalize_name(requirement.name), "")
    not in requirement.specifier
  ]
  assert not outside, "run scripts/lock.sh"
