"""One picture that shows a choice at a glance: what was kept, then what was not, row by row. Knows Pillow alone."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

WIDTH_PX = 1_920
MARGIN_PX, GAP_PX, SECTION_GAP_PX = 56, 14, 44
TITLE_PX, HEADING_PX, CAPTION_PX = 120, 46, 34
CORNER_PX = 6
SMOOTH = 4  # corners are drawn that much larger and shrunk

BACKGROUND, PANEL, EDGE = "#101216", "#1b1e24", "#2a2f38"
WHITE, GREY, FAINT = "#f2f4f7", "#98a0ab", "#5d6570"
HIDDEN = "#2b1d20"
FADED = 0.85  # brightness of stills that were not kept

Box = tuple[float, float, float, float]  # left, top, right, bottom; shares of the picture


@dataclass(frozen=True, slots=True)
class Tile:
    """One still with what is written below it."""

    picture: Image.Image
    left: str
    right: str = ""
    boxes: tuple[Box, ...] = ()
    is_hidden: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """Stills that share a fate."""

    heading: str
    note: str
    colour: str
    tiles: tuple[Tile, ...]
    num_columns: int
    num_more: int = 0  # that are not shown
    is_faded: bool = False


@dataclass(frozen=True, slots=True)
class _Cell:
    """Where things are, in pixels of the sheet."""

    x: int
    y: int
    width: int
    height: int


def draw_sheet(title: str, subtitle: str, sections: list[Section], *, aspect: float) -> Image.Image:
    """All sections below each other; `aspect` is the width of the stills over their height."""
    heights_px = [_section_height_px(section, aspect) for section in sections]
    top_px = MARGIN_PX + TITLE_PX
    sheet = Image.new("RGB", (WIDTH_PX, top_px + sum(heights_px) + MARGIN_PX - SECTION_GAP_PX), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN_PX, MARGIN_PX), title, WHITE, _font(40), anchor="lt")
    draw.text((MARGIN_PX, MARGIN_PX + 54), subtitle, GREY, _font(20), anchor="lt")
    for section, height_px in zip(sections, heights_px, strict=True):
        _draw_section(sheet, section, top_px, aspect)
        top_px += height_px
    return sheet


def _draw_section(sheet: Image.Image, section: Section, top_px: int, aspect: float) -> None:
    draw = ImageDraw.Draw(sheet)
    middle = top_px + 14
    draw.rounded_rectangle((MARGIN_PX, middle - 9, MARGIN_PX + 5, middle + 9), 2, section.colour)
    draw.text((MARGIN_PX + 20, middle), section.heading, WHITE, _font(24), anchor="lm")
    width = draw.textlength(section.heading, _font(24))
    draw.text((MARGIN_PX + 34 + width, middle + 1), section.note, FAINT, _font(18), anchor="lm")
    cells = _cells(section, top_px + HEADING_PX, aspect)
    for tile, cell in zip(section.tiles, cells, strict=False):
        _draw_tile(sheet, tile, cell, section)
    if section.num_more:
        cell = next(cells)
        _paste(sheet, Image.new("RGB", (cell.width, cell.height), PANEL), cell)
        middle_px = (cell.x + cell.width // 2, cell.y + cell.height // 2)
        draw.text(middle_px, f"and {section.num_more:,} more", GREY, _font(18), anchor="mm")


def _draw_tile(sheet: Image.Image, tile: Tile, cell: _Cell, section: Section) -> None:
    picture = ImageOps.pad(
        _hidden(tile.picture) if tile.is_hidden else tile.picture, (cell.width, cell.height), color=PANEL
    )
    picture = ImageEnhance.Brightness(picture).enhance(FADED) if section.is_faded else picture
    paint = ImageDraw.Draw(picture)
    for left, top, right, bottom in () if tile.is_hidden else tile.boxes:
        corners = (left * cell.width, top * cell.height, right * cell.width, bottom * cell.height)
        paint.rounded_rectangle(corners, 3, outline=section.colour, width=2)
    _paste(sheet, picture, cell)
    draw = ImageDraw.Draw(sheet)
    below = cell.y + cell.height + CAPTION_PX // 2
    draw.text((cell.x + 2, below), tile.left, GREY if section.is_faded else WHITE, _font(17), anchor="lm")
    if draw.textlength(tile.left, _font(17)) + draw.textlength(tile.right, _font(16)) + GAP_PX <= cell.width:
        draw.text((cell.x + cell.width - 2, below), tile.right, GREY, _font(16), anchor="rm")


def _hidden(picture: Image.Image) -> Image.Image:
    """In the place of a still that must not be seen, and of its size: nothing of it, not even its colours."""
    return Image.new("RGB", picture.size, HIDDEN)


def _paste(sheet: Image.Image, picture: Image.Image, cell: _Cell) -> None:
    size = (SMOOTH * cell.width, SMOOTH * cell.height)
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), SMOOTH * CORNER_PX, 255)
    sheet.paste(picture, (cell.x, cell.y), mask.resize(picture.size, Image.Resampling.BOX))
    corners = (cell.x, cell.y, cell.x + cell.width - 1, cell.y + cell.height - 1)
    ImageDraw.Draw(sheet).rounded_rectangle(corners, CORNER_PX, outline=EDGE)  # dark stills end somewhere too


def _cells(section: Section, top_px: int, aspect: float) -> Iterator[_Cell]:
    width, height = _tile_size_px(section, aspect)
    place = 0
    while True:
        row, column = divmod(place, section.num_columns)
        yield _Cell(
            x=MARGIN_PX + column * (width + GAP_PX),
            y=top_px + row * (height + CAPTION_PX + GAP_PX),
            width=width,
            height=height,
        )
        place += 1


def _section_height_px(section: Section, aspect: float) -> int:
    num_rows = math.ceil((len(section.tiles) + bool(section.num_more)) / section.num_columns)
    _, height = _tile_size_px(section, aspect)
    return HEADING_PX + num_rows * (height + CAPTION_PX + GAP_PX) + SECTION_GAP_PX - GAP_PX


def _tile_size_px(section: Section, aspect: float) -> tuple[int, int]:
    room = WIDTH_PX - 2 * MARGIN_PX - (section.num_columns - 1) * GAP_PX
    width = room // section.num_columns
    return width, max(1, round(width / aspect))


def _font(size_px: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size_px)
