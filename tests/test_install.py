"""The installed package: its commands, and that it is found from every working directory."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile

import pytest

from minippo.storage import REPOSITORY

INSTALLED_FILES = ("minippo", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture
def clone(tmp_path):
    """A clone named minippo, as `git clone` makes it."""
    folder = tmp_path / "minippo"
    folder.mkdir()
    for name in INSTALLED_FILES:
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        copy(REPOSITORY / name, folder / name)
    return folder


@pytest.mark.slow
def test_editable_install_wins_over_the_clone_as_a_namespace_package(clone, tmp_path):
    """In the clone's parent directory. The wheel is what `pip install --editable` puts into site-packages."""
    pytest.importorskip("setuptools")
    site = tmp_path / "site"
    site.mkdir()
    build = f"from setuptools.build_meta import build_editable; build_editable({str(site)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=clone, check=True, capture_output=True)
    (wheel,) = site.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    use = f"import site; site.addsitedir({str(site)!r}); import minippo; print(minippo.__file__)"
    for folder in (tmp_path, clone, site):
        done = subprocess.run([sys.executable, "-S", "-c", use], cwd=folder, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == str(clone / "minippo" / "__init__.py")
    (entry_points,) = site.glob("*.dist-info/entry_points.txt")
    assert "minippo = minippo.__main__:main" in entry_points.read_text()
