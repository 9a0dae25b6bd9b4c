"""Choose how XLA compiles the programs of a command, and keep them."""

import gc
import importlib.metadata
import logging
import os
import pathlib

import jax
from etils import epath

from sam_jax import paths

logger = logging.getLogger(__name__)

# Since jaxlib 0.10, convolutions on CPUs go to a library that needs twice the
# time of XLA's own code for the gradient of a wide network.
FLAG_FOR_CPUS = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"
_JAXLIBS_THAT_KNOW_IT = ("0.10.", "0.11.", "0.12.")

# Linux allows a process 65,530 memory mappings by default.
_MANY_MAPPINGS = 20_000

# Compiled programs of runs with one process.
_OF_USER = "~/.cache/sam_jax/compiled"


def choose_xla_flags() -> None:
  """Choose the options of XLA that are fast on CPUs, in $XLA_FLAGS.

  Call it before JAX uses a device. XLA aborts a process with an option that it
  does not know: other versions of jaxlib get none.
  """
  if importlib.metadata.version("jaxlib").startswith(_JAXLIBS_THAT_KNOW_IT):
    add_xla_flag(FLAG_FOR_CPUS)


def add_xla_flag(flag: str) -> None:
  """Add an option to $XLA_FLAGS, where the choice of the user stays.

  Args:
    flag: The option, --name=value. Nothing changes if the variable has it
      already, with any value, or is the path of a file of options.
  """
  flags = os.environ.get("XLA_FLAGS", "")
  is_file = flags.strip() and not flags.lstrip().startswith("-")
  if not is_file and flag.split("=")[0] not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()


def quick_compilation() -> dict[str, int]:
  """Return options for programs that run once: on CPUs LLVM takes long."""
  option = "xla_backend_optimization_level"
  is_chosen = option in os.environ.get("XLA_FLAGS", "")
  return {} if is_chosen or jax.default_backend() != "cpu" else {option: 1}


def keep_compiled_programs(
  directory: str | None, workdir: epath.PathLike
) -> None:
  """Let later runs of the same programs skip their compilation.

  Several processes must be connected before: process 0 alone writes programs,
  and the others read them.

  Args:
    directory: Where JAX keeps programs; "" for nowhere. None for a directory of
      the user or, for several processes, of the run, which all hosts can read.
      One that can't be written is reported, and not used.
    workdir: Directory of the run.
  """
  if directory == "":
    return
  if directory is None and jax.process_count() > 1:
    path = paths.resolve(workdir) / "compiled"  # JAX creates it
  else:
    path = paths.resolve(directory or _OF_USER)
    try:
      paths.make_directory(path)
    except Exception as error:  # gs:// clients raise errors of their own
      logger.warning(
        "--config.compilation_cache_dir=%s can't be written: %s. This run"
        " compiles its programs, and later runs do so again.",
        path,
        paths.describe_error(error),
      )
      return
  jax.config.update("jax_compilation_cache_dir", os.fspath(path))
  if paths.is_remote(path):
    # On GPUs, XLA keeps timings of kernels in files that it writes itself, and
    # fails at a path that is not local.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
  # JAX keeps programs that take a second; keep a lower limit of the user.
  option = "jax_persistent_cache_min_compile_time_secs"
  jax.config.update(option, min(0.5, getattr(jax.config, option)))


def free_programs_if_many() -> None:
  """Free the compiled programs of this process when they have become many.

  JAX keeps all of them, and what they refer to, such as a data set. Each holds
  dozens of memory mappings, and a process that trains run after run dies where
  it reaches the kernel's limit. What is used again is compiled again, or read
  from the cache.
  """
  mappings = pathlib.Path("/proc/self/maps")  # only Linux has it
  if mappings.exists() and mappings.read_bytes().count(b"\n") > _MANY_MAPPINGS:
    jax.clear_caches()
    gc.collect()
