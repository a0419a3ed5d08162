"""Write the site: reference, course, cookbook and guide, with one search. A reference that leads nowhere is an error.

python .ci/docs/build.py [FOLDER]           FOLDER is "site" if it is not given; open index.html in it
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from sphinx.cmd.build import main as run_sphinx

sys.path.insert(0, str(Path(__file__).parent))
import pages


def main() -> int:
    """The exit status: 0 where every reference leads somewhere."""
    site = Path(sys.argv[1] if len(sys.argv) > 1 else pages.ROOT / "site")
    with tempfile.TemporaryDirectory() as folder:
        sources, doctrees = Path(folder) / "sources", Path(folder) / "doctrees"
        pages.write_pages(sources)
        config = str(Path(__file__).parent)
        status = run_sphinx(["-q", "-W", "--keep-going", "-c", config, "-d", str(doctrees), str(sources), str(site)])
    if status == 0:
        shutil.copy(site / "README.html", site / "index.html")
        print(site / "index.html")
    return status


if __name__ == "__main__":
    sys.exit(main())
