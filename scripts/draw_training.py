"""Draws what a training was and what came of it, as one picture: frames, loss, pictures of before and of after.

Takes the folder that `darkroom train --out` wrote, and some frames of the video (`darkroom frames`).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIDE_PX, GAP_PX, LABEL_PX = 200, 14, 30
NUM_SHOWN = 4
INK, PAPER = (40, 40, 40), (255, 255, 255)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder of `darkroom train --out`")
    parser.add_argument("frames", type=Path, nargs="+", help="frames of the video")
    parser.add_argument("--to", type=Path, required=True, help="the picture to write: .jpg or .png")
    args = parser.parse_args(argv)
    steps: dict[str, list[Path]] = {}
    for path in sorted(args.out.glob("step-*-seed-*.png")):
        steps.setdefault(path.name.split("-")[1], []).append(path)
    if len(steps) < 2 or not (args.out / "loss.png").exists():
        print(f"{args.out} holds no samples of before and after, or no loss plot", file=sys.stderr)
        return 2
    before, *_, after = (steps[step] for step in sorted(steps))
    rows = {"frames of the video": args.frames, "before": before, "after": after}
    draw(rows, args.out / "loss.png").save(args.to, quality=88)
    print(args.to)
    return 0


def draw(rows: dict[str, Sequence[Path]], plot: Path) -> Image.Image:
    """The rows on the left, square; the plot beside them."""
    row_px = LABEL_PX + SIDE_PX
    width_px, height_px = NUM_SHOWN * (SIDE_PX + GAP_PX), len(rows) * (row_px + GAP_PX)
    with Image.open(plot) as file:
        loss = file.convert("RGB")
    loss = loss.resize((loss.width * (height_px - GAP_PX) // loss.height, height_px - GAP_PX), Image.Resampling.LANCZOS)
    sheet = Image.new("RGB", (width_px + loss.width + 2 * GAP_PX, height_px + GAP_PX), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(17)
    for number, (label, paths) in enumerate(rows.items()):
        top_px = GAP_PX + number * (row_px + GAP_PX)
        pen.text((GAP_PX, top_px + 2), label, INK, font)
        for place, path in enumerate(_spread(paths)):
            sheet.paste(_square(path), (GAP_PX + place * (SIDE_PX + GAP_PX), top_px + LABEL_PX))
    sheet.paste(loss, (width_px + GAP_PX, GAP_PX))
    return sheet


def _spread(paths: Sequence[Path]) -> list[Path]:
    """As many as there is room for, from the first to the last."""
    num = min(NUM_SHOWN, len(paths))
    return [paths[place * (len(paths) - 1) // max(1, num - 1)] for place in range(num)]


def _square(path: Path) -> Image.Image:
    with Image.open(path) as file:
        picture = file.convert("RGB")
    side_px = min(picture.size)
    left_px, top_px = (picture.width - side_px) // 2, (picture.height - side_px) // 2
    cut = picture.crop((left_px, top_px, left_px + side_px, top_px + side_px))
    return cut.resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    sys.exit(main())
