"""Fetches the data packages through npm into the run's cache folder; knows nothing of what is inside them."""

import shutil
import subprocess
from pathlib import Path

from training.pretrain.recipe import DataRecipe, RecipeError


def fetch_packages(data: DataRecipe, cache: Path) -> tuple[Path, Path]:
    """Return the folders of the picture package and of the label package, installing what is missing."""
    modules = cache / "npm" / "node_modules"
    wanted = {
        f"{data.pictures_package}@{data.pictures_version}": modules / data.pictures_package,
        f"{data.labels_package}@{data.labels_version}": modules / data.labels_package,
    }
    missing = [spec for spec, folder in wanted.items() if not (folder / "package.json").is_file()]
    if missing:
        # All in one call: npm removes packages that a later install into the same prefix does not name.
        _npm_install(list(wanted), cache / "npm", timeout_s=data.fetch_timeout_s)
    return modules / data.pictures_package, modules / data.labels_package


def _npm_install(specs: list[str], prefix: Path, *, timeout_s: float) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise RecipeError("npm is needed to fetch the training data and was not found on PATH.")
    prefix.mkdir(parents=True, exist_ok=True)
    command = [npm, "install", "--prefix", str(prefix), "--ignore-scripts", "--no-audit", "--no-fund", *specs]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode != 0:
        raise RecipeError(f"npm could not fetch {', '.join(specs)}: {done.stderr.strip()[-2000:]}")
