"""Draw the pictures of README and documentation: pages of real commands, photographed by Chromium.

    make pictures

Nothing is drawn by hand, so that a picture shows what costsim writes. Needs `chromium` on the path.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
COLOURS = 256
"""Of a picture: flat colours and grey text need no more, and files stay small."""

PICTURES = {
    "plan.png": (("plan", "--device", "jetson-nano"), (1000, 1130)),
    "frontier.png": (("pareto", "--device", "jetson-nano", "--points", "8"), (1000, 740)),
}
"""File names, what is typed, and the window in pixels."""


def photograph(browser: str, page: Path, window: tuple[int, int], picture: Path) -> None:
    """What a person sees of `page` in a window of this size, in few colours."""
    width, height = window
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--window-size={width},{height}",
        f"--screenshot={picture}",
        page.as_uri(),
    ]
    subprocess.run(command, check=True, capture_output=True)
    with Image.open(picture) as image:
        image.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE).save(
            picture, optimize=True
        )


def main() -> int:
    """Draw them all; exit status 2 without a browser."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("pictures need chromium on the path", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        for name, (words, window) in PICTURES.items():
            page = Path(folder) / "page.html"
            command = [sys.executable, "-m", "costsim", *words, "--report", str(page)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            photograph(browser, page, window, HERE / name)
            print(f"{HERE / name}: {(HERE / name).stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
