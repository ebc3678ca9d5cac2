"""Generates the bundled reviews.

python -m minippo.reviews             write data/ again; the result is always the same, byte for byte
python -m minippo.reviews --describe  print the statistics of the existing files
"""

from __future__ import annotations

import argparse
from pathlib import Path

from minippo.exits import command_frame, wrong_input_exits
from minippo.reviews.build import describe, update_readme, write_corpus
from minippo.storage import REPOSITORY


@command_frame()
def main() -> None:
    """Write the corpus, update the statistics in its README and print them."""
    parser = argparse.ArgumentParser(
        prog="python -m minippo.reviews", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=REPOSITORY / "data", help="folder of the files (default: data)")
    parser.add_argument("--describe", action="store_true", help="print the statistics of the existing files only")
    options = parser.parse_args()
    if not options.describe:
        write_corpus(options.out)
        update_readme(options.out)
    with wrong_input_exits():
        text = describe(options.out)
    print(text)


if __name__ == "__main__":
    main()
