"""`python -m omgsr_lib.integrations.pages`: the study's results as a folder of web pages; `make pages` runs it."""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from ...utils.files import atomic_folder
from .sources import COPIED, write_sources


def main():
    """Build the pages; the exit code is 1 if Sphinx fails, 2 with one line if there is nothing to build from."""
    parser = argparse.ArgumentParser(prog="omgsr_lib.integrations.pages", description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results/mini"), help="folder of executed results")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), help="where the front page comes from")
    parser.add_argument("--out", type=Path, default=Path("runs/pages"), help="folder of the pages")
    options = parser.parse_args()
    print(f"building the pages of {options.results}", flush=True)
    try:
        build(options.results, options.readme, options.out)
    except (OSError, ValueError, ImportError) as error:
        print(f"pages: {error}", file=sys.stderr)
        return 2
    print(f"open {options.out / 'index.html'}")
    return 0


def build(results, readme, out):
    """Write the pages of the folder `results` and the front page from the file `readme` into the folder `out`.

    Returns `out`. Raises `FileNotFoundError` if results are missing, `ImportError` without the extra `pages` and
    `ValueError` if Sphinx fails; `out` then stays as it was.
    """
    try:
        import myst_nb  # noqa: F401
        import sphinx_book_theme  # noqa: F401
        import ziamath  # noqa: F401
        from sphinx.cmd.build import build_main
    except ImportError as error:
        raise ImportError("The pages need Sphinx and its parts: pip install -e '.[pages]'.") from error
    with tempfile.TemporaryDirectory() as folder:
        source, doctrees, pages = (str(Path(folder, name)) for name in ("source", "doctrees", "pages"))
        write_sources(results, readme, source)
        options = ["-q", "-W", "--keep-going", "-c", str(Path(__file__).parent), "-d", doctrees]
        options += ["-D", f"html_extra_path={Path(source, COPIED)}"]
        if build_main([*options, source, pages]):
            raise ValueError("Sphinx could not build the pages: see the lines above.")
        with atomic_folder(out) as part:
            shutil.copytree(pages, part, dirs_exist_ok=True)
    return Path(out)


if __name__ == "__main__":
    sys.exit(main())
