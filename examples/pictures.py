"""The pictures of the numbered scripts: drawn only for those who ask."""

import argparse
import sys
from pathlib import Path


def picture(draw):
    """Call `draw(plt)`, which returns a figure, and show it or save it.

    `--save FOLDER` on the script's command line writes FOLDER/SCRIPT.svg; `--show`, or an interactive session such as
    a notebook, opens it. Otherwise nothing is drawn and matplotlib is not needed.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--save", metavar="FOLDER", type=Path, help="write the picture into this folder")
    parser.add_argument("--show", action="store_true", help="open the picture in a window")
    options, _ = parser.parse_known_args()
    interactive = hasattr(sys, "ps1")
    if options.save is None and not options.show and not interactive:
        return
    import matplotlib.pyplot as plt

    figure = draw(plt)
    if options.save is not None:
        options.save.mkdir(parents=True, exist_ok=True)
        figure.savefig(options.save / f"{Path(draw.__code__.co_filename).stem}.svg")
    if options.show or interactive:
        plt.show()
