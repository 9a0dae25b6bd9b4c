"""The site of the documents builds without a warning."""

import contextlib

import pytest
from sphinx.cmd import build

from tests.processes import REPOSITORY


@pytest.fixture(scope="module")
def site(tmp_path_factory):
  """Return the directory of the site that Sphinx makes.

  It makes it in this process, which has imported the package already.
  """
  output = tmp_path_factory.mktemp("site")
  with contextlib.chdir(REPOSITORY):
    code = build.build_main(
      [
        *("--fail-on-warning", "--quiet", "-c", "docs"),
        *("-d", str(output / "doctrees"), ".", str(output / "site")),
      ]
    )
  assert code == 0  # the warnings are in the captured output
  return output / "site"


# Sphinx and its extensions warn each other of their next versions.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
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
