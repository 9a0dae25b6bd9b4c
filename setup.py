"""Package metadata of sam_jax."""

import os

import setuptools

HERE = os.path.dirname(os.path.abspath(__file__))


def _version() -> str:
  """Reads `__version__` without importing the package (and so jax)."""
  with open(os.path.join(HERE, "sam_jax", "__init__.py")) as f:
    for line in f:
      if line.startswith("__version__"):
        return line.split('"')[1]
  raise RuntimeError("sam_jax/__init__.py defines no __version__")


def _long_description() -> str:
  with open(os.path.join(HERE, "README.md"), encoding="utf-8") as f:
    return f.read()


# TensorFlow reads and writes TFDS data sets on the host; the CPU build is
# enough and smaller, and exists only for x86-64 Linux and Windows.
_CPU_BUILD = (
  "sys_platform != 'darwin' and"
  " (platform_machine == 'x86_64' or platform_machine == 'AMD64')"
)
_FULL_BUILD = (
  "sys_platform == 'darwin' or"
  " (platform_machine != 'x86_64' and platform_machine != 'AMD64')"
)

setuptools.setup(
  name="sam-jax",
  version=_version(),
  description="Sharpness-Aware Minimization in JAX, Flax and Optax",
  long_description=_long_description(),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.11,<3.14",
  packages=setuptools.find_packages(include=["sam_jax", "sam_jax.*"]),
  install_requires=[
    "absl-py>=2.1",  # flags and logging of the entry points
    "etils[epath]>=1.9",  # one path type for local and gs:// directories
    "flax>=0.12,<0.14",  # the models (Linen)
    "importlib_resources>=6",  # missing among TFDS 4.9.10's own requirements
    "jax>=0.10,<0.13",
    "jaxlib>=0.10,<0.13",
    "ml_collections>=1.1,<2",  # configs that flags can override
    "numpy>=2.0",
    "optax>=0.2.8,<0.3",  # the optimizers around SAM
    "orbax-checkpoint>=0.12,<0.13",  # asynchronous, atomic checkpoints
    "pillow>=10",  # PNG images in TensorBoard summaries
    "scikit-learn>=1.5",  # ships the digits images
    "tensorboard>=2.19",  # its event writer; no TensorFlow is needed for it
    f"tensorflow>=2.20; {_FULL_BUILD}",
    f"tensorflow-cpu>=2.20; {_CPU_BUILD}",
    "tensorflow-datasets>=4.9.8",  # every data set is loaded by TFDS
  ],
  extras_require={
    "analysis": ["matplotlib>=3.9"],  # plots
    "test": [
      "dill>=0.3.8",  # TFDS's test case of builders
      "matplotlib>=3.9",
      "pytest>=8.3",
      "pytest-xdist>=3.6",  # a process for each core
      "ruff>=0.12",
    ],
  },
)
