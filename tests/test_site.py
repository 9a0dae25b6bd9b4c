"""The site of the documents builds without a warning."""

import subprocess
import sys

import pytest

from tests.processes import REPOSITORY


@pytest.fixture(scope="module")
def site(tmp_path_factory):
  """Return the directory of the site that Sphinx makes."""
  output = tmp_path_factory.mktemp("site")
  command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet"]
  process = subprocess.run(
    [*command, "-c", "docs", "-d", output / "doctrees", ".", output / "site"],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
  )
  assert process.returncode == 0, process.stderr
  return output / "site"


@pytest.mark.long
def test_site_has_every_page_and_the_reference(site):
  pages = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")]
  for page in pages:
    name = page.relative_to(REPOSITORY).with_suffix(".html")
    assert (site / name).is_file(), name
  index = (site / "docs/index.html").read_text(encoding="utf-8")
  for page in pages:
    if page.stem != "index":
      assert f'{page.stem}.html"' in index, f"{page} is not in the contents"
  api = (site / "docs/api.html").read_text(encoding="utf-8")
  for name in ("sharpness_aware", "load_run", "friendly_sam", "Classifier"):
    assert name in api
