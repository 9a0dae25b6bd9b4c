"""README.md and docs/: code that runs, commands that parse, links that lead."""

import contextlib
import functools
import importlib
import importlib.util
import io
import re
import runpy
import shlex
import sys
import types
from collections.abc import Iterator

import pytest
from absl import flags
from etils import epath

from sam_jax.config import cli, schema
from sam_jax.config.paper_numbers import TABLES
from sam_jax.runs import loggers, sweep
from sam_jax.training import build
from tests.datasets import folders
from tests.in_process import own_flags
from tests.processes import REPOSITORY

PAGES = {
  str(path.relative_to(REPOSITORY)): path.read_text(encoding="utf-8")
  for pattern in ("*.md", "docs/*.md", "configs/README.md")
  for path in sorted(REPOSITORY.glob(pattern))
}
MIGRATION = "docs/migration.md"  # has file names of another repository
OURS = [n for n in PAGES if n == "README.md" or n.startswith("docs/")]


def blocks(page, language):
  """Yield the line number and the text of each block of a language."""
  pattern = rf"^```{language}\n(.*?)^```$"
  for match in re.finditer(pattern, PAGES[page], re.DOTALL | re.MULTILINE):
    yield PAGES[page].count("\n", 0, match.start(1)), match[1]


def code_spans(page):
  """Yield what a page has in single backquotes, on one line."""
  text = re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.DOTALL | re.M)
  for match in re.finditer(r"`([^`]+)`", text):
    yield " ".join(match[1].split())


@functools.cache
def run_blocks(page):
  """Run the Python blocks of a page in one module; return it and the output."""
  module = types.ModuleType(f"blocks of {page}")
  sys.modules[module.__name__] = module  # Linen looks up the module of a class
  output = io.StringIO()
  with contextlib.redirect_stdout(output):
    for line, text in blocks(page, "python"):
      code = compile("\n" * line + text, REPOSITORY / page, "exec")
      exec(code, vars(module))
  return module, output.getvalue()


@pytest.mark.parametrize(
  "page", [page for page in OURS if any(blocks(page, "python"))]
)
def test_python_blocks_run(page):
  run_blocks(page)


@pytest.mark.parametrize("page", ["README.md", "docs/own_loop.md"])
def test_loops_lower_the_loss(page):
  assert logged_losses(page)
  for losses in logged_losses(page):
    assert losses[-1] < 0.2 * losses[0]


def logged_losses(page):
  """Return the losses that each loop of a page prints."""
  found = []
  _, output = run_blocks(page)
  for step, loss in re.findall(r"step (\d+)  loss ([\d.]+)", output):
    if step == "0":
      found.append([])
    found[-1].append(float(loss))
  return found


def test_own_config_has_the_fields_of_the_schema():
  page, _ = run_blocks("docs/runs.md")
  schema.check_fields(page.get_config("note"))


def commands(page) -> Iterator[list[str]]:
  """Yield the command lines of a page, as lists of words."""
  for _, text in blocks(page, "bash"):
    for line in text.replace("\\\n", " ").splitlines():
      yield shlex.split(line, comments=True)
  for span in code_spans(page):
    if span.startswith("python -m"):
      yield shlex.split(span)
    elif span.startswith("--config") and "=" in span:
      words = ["python", "-m", "sam_jax.train", *shlex.split(span)]
      is_alone = not span.startswith("--config=")
      yield [*words, "--config=configs/digits.py"] if is_alone else words


def our_commands():
  """List (page, module, arguments) of the commands of this project."""
  found = []
  for page in PAGES:
    for words in commands(page):
      if "-m" in words:
        module, *arguments = words[words.index("-m") + 1 :]
      elif words[:1] == ["scripts/tpu_pod.sh"] and "--" in words:
        module, arguments = "sam_jax.train", words[words.index("--") + 1 :]
      else:
        continue
      is_ours = module.startswith(("sam_jax.", "scripts."))
      is_form = any("FIELD" in word for word in arguments)
      if is_ours and not is_form and "--help" not in arguments:
        found.append((page, module, tuple(arguments)))
  return sorted(set(found))


@pytest.fixture
def own_modules(tmp_path, monkeypatch):
  """Write the blocks that begin with "# my_file.py" to such files."""
  for page in OURS:
    for _, text in blocks(page, "python"):
      if match := re.match(r"# (my_\w+\.py)", text):
        with (tmp_path / match[1]).open("a") as file:
          file.write(text)
  monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  """Return a directory that stands in for images of a user."""
  directory = tmp_path_factory.mktemp("photos")
  folders.two_classes(directory, count=1)
  return directory


@pytest.mark.parametrize(
  ("page", "module", "arguments"),
  our_commands(),
  ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_commands_parse(page, module, arguments, own_modules, photos):
  """Parse as the command does, and check the configs that would be trained."""
  del page
  file = REPOSITORY / f"{module.replace('.', '/')}.py"
  if not file.exists():
    file = file.with_suffix("") / "__main__.py"
  with own_flags(), contextlib.chdir(REPOSITORY):
    script = runpy.run_path(str(file))
    parse = script.get("parse_flags", cli.parse_flags)
    rest = parse([module, *arguments])
    values = {name: flags.FLAGS[name].value for name in flags.FLAGS}
  if module == "sam_jax.train" and (config := values["config"]):
    if config.dataset.name == "image_folder":
      config.dataset.data_dir = str(photos)
    # Packages of loggers are not installed here.
    assert set(config.log_to) <= set(loggers.KNOWN)
    config.log_to = ()
    build.validate(config, num_devices=8)
  if module == "sam_jax.sweep" and values["config"]:
    root = epath.Path(values["root"])
    assert sweep.plan(values["config"], root, values["grid"], rest[1:])


def anchors(page):
  """Return the anchors of the headings of a page, as GitHub makes them."""
  headings = re.findall(r"^#+ (.*)$", PAGES[page], re.MULTILINE)
  words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
  return {word.replace(" ", "-") for word in words}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
  for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
    if target.startswith(("http://", "https://")):
      continue
    name, _, anchor = target.partition("#")
    path = (REPOSITORY / page).parent / name if name else REPOSITORY / page
    assert path.exists(), target
    relative = path.resolve().relative_to(REPOSITORY)
    assert not anchor or anchor in anchors(str(relative)), target


@pytest.mark.parametrize("page", OURS)
def test_files_modules_and_fields_exist(page):
  groups = {name.partition(".")[0] for name in schema.FIELDS if "." in name}
  for span in code_spans(page):
    is_file = re.fullmatch(r"[\w/]+\.(py|sh|md)", span) and page != MIGRATION
    if is_file or (page == "README.md" and re.fullmatch(r"[\w/]+/", span)):
      homes = REPOSITORY, REPOSITORY / "sam_jax"
      assert any((home / span).exists() for home in homes), span
    elif match := re.match(r"sam_jax((\.\w+)+)", span):
      assert is_module(match[0]) or is_attribute(match[0]), span
    elif match := re.match(r"(--)?(config\.)?(\w+)((\.\w+)+)", span):
      name = match[3] + match[4]
      if match[3] in groups and not name.endswith(".py"):
        is_function = match[3] == "sam" and is_attribute(f"sam_jax.{name}")
        assert schema.field_of(name) or is_function, span


def is_module(name):
  """Return True if a module exists; does not run it."""
  with contextlib.suppress(ModuleNotFoundError):
    return importlib.util.find_spec(name) is not None
  return False


def is_attribute(name):
  """Return True if the last part is an attribute of the module before it."""
  module, _, attribute = name.rpartition(".")
  return hasattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_results_page_has_the_numbers_of_the_paper(table):
  """Rows and columns are words of a config, which test_paper_tables builds."""
  page = PAGES["docs/results.md"]
  section = page.partition(f"\n## Table {table.number}: ")[2].partition(
    "\n## "
  )[0]
  lines = [
    line for line in table.text.strip("\n").splitlines() if line[0] != "#"
  ]
  header, *rows = ([part.strip() for part in line.split("|")] for line in lines)
  columns = " | ".join(f"`{column}`" for column in header[1:])
  assert f"| `{table.file}.py:` + | {columns} |" in section
  for row, *entries in rows:
    assert f"| `{row}` | {' | '.join(entries)} |\n" in section
  for word in table.words.split(","):
    assert f"{word}`" in section or f"{word}," in section


def test_results_page_has_the_rows_of_the_public_page():
  text = PAGES["docs/results.md"]
  for reported in ("89.7%", "96.08%", "97.10%", "4.82", "96.18%", "42.64%"):
    (row,) = re.findall(rf"^\|[^|]*\|[^|]*{re.escape(reported)}.*", text, re.M)
    assert "`python -m sam_jax.train --config=" in row
    assert re.search(r"\| not run \| [^|]+ \|$", row)  # ours, and fits on
