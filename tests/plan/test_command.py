"""The command, with a compiler that is made up."""

import dataclasses
import os

import pytest

from sam_jax.plan import compiler
from sam_jax.plan.chips import GIB
from sam_jax.plan.compiler import Compiled
from sam_jax.plan.costs import Costs
from tests.in_process import run_script

COSTS = Costs(1e12, 1e12, 10**9, 10**9, {}, 0, 0, 0, [], 0, 50, 60)
SMALL = Compiled(COSTS, {"parameters": GIB, "batch": GIB}, 3 * GIB, 1.0)


@pytest.fixture
def compiled(monkeypatch):
  """Compile nothing; return the (program, topology) that were asked for."""
  asked = []

  def compile_program(program, config, tpu, directory):
    asked.append((program, tpu.name))
    if config.model.name == "resnet50":
      raise compiler.CompileError("the compiler ended.")
    size = 40 if config.model.name == "wrn40_10" else 3
    return dataclasses.replace(SMALL, total_bytes=size * GIB)

  monkeypatch.setattr(compiler, "libtpu_version", lambda: "0.0.1")
  monkeypatch.setattr(compiler, "compile_program", compile_program)
  return asked


def plan(*arguments, topology="v5e:2x4"):
  run_script(
    "plan",
    *("--config=configs/cifar.py", f"--topology={topology}", *arguments),
  )


def refusal(capsys, *arguments, **options):
  with pytest.raises(SystemExit) as error:
    plan(*arguments, **options)
  assert error.value.code == 2
  return capsys.readouterr().err


def test_all_programs_are_compiled(compiled, capsys):
  plan()
  out = capsys.readouterr().out
  assert sorted(compiled) == [
    ("augment", "v5e:2x4"),
    ("sam", "v5e:2x4"),
    ("sgd", "v5e:2x4"),
  ]
  assert "that libtpu 0.0.1 compiled" in out
  assert "Fits: needs 6.00 of 15.75 GiB (compiled)." in out


def test_the_step_alone(compiled, capsys):
  plan("--programs=sam")
  assert compiled == [("sam", "v5e:2x4")]
  assert "SAM over SGD" not in capsys.readouterr().out


def test_a_config_without_sam_has_one_step(compiled, capsys):
  plan("--config.sam.rho=0")
  assert {name for name, _ in compiled} == {"sgd", "augment"}
  assert "At most" in capsys.readouterr().out


def test_a_step_that_does_not_fit_ends_with_code_1(compiled, capsys):
  with pytest.raises(SystemExit) as error:
    plan("--config.model.name=wrn40_10")
  assert error.value.code == 1
  assert "Does not fit: needs 43.00 of 15.75 GiB" in capsys.readouterr().out


def test_a_failing_compiler_ends_the_command(compiled, capsys, monkeypatch):
  def leave(code):
    raise SystemExit(code)

  monkeypatch.setattr(os, "_exit", leave)
  with pytest.raises(SystemExit) as error:
    plan("--config.model.name=resnet50")
  assert error.value.code == 1
  assert capsys.readouterr().err == "error: the compiler ended.\n"


def test_mistakes_are_one_line(compiled, capsys):
  error = refusal(capsys, topology="v5:2x4")
  assert error.startswith("error: --topology=v5:2x4: 'v5' is no chip")
  error = refusal(capsys, "--config.batch_size=100")
  assert "batch_size = 100 does not divide by the 8 devices" in error
  for names in ("augment", "augment,augment", "adam"):
    assert refusal(capsys, f"--programs={names}") == (
      f"error: --programs={names} must be some of sam,sgd,augment, and not"
      " augment alone.\n"
    )
  assert not compiled


def test_programs_of_another_plan_are_not_read(compiled, capsys, tmp_path):
  plan("--programs=sam", f"--output={tmp_path / 'new'}")
  assert compiled == [("sam", "v5e:2x4")]
  (tmp_path / "new/sam").mkdir()
  assert refusal(capsys, f"--output={tmp_path / 'new'}") == (
    f"error: --output={tmp_path}/new is not empty: name a new directory.\n"
  )


def test_without_libtpu_one_line_says_what_to_install(capsys, monkeypatch):
  monkeypatch.setattr(compiler, "libtpu_version", lambda: None)
  error = refusal(capsys)
  assert error == (
    "error: --topology needs libtpu, the compiler for TPUs, which has wheels"
    " for Linux: pip install 'sam-jax[plan]'\n"
  )
