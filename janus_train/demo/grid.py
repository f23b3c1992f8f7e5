"""Makes one image of generated images with their prompts below: with the true images beside them, or alone."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

SIDE, GAP, BETWEEN, LINES, LINE, FONT = 128, 16, 6, 4, 15, 12
"""In pixels: side of an image, gap between cells and within a pair; lines per prompt; height of a line, size of letters."""
PAPER, INK, EDGE = (255, 255, 255), (40, 44, 50), (226, 224, 218)

DRAWN_SIDE, DRAWN_GAP, DRAWN_LINE, DRAWN_FONT, CORNER = 288, 40, 31, 25, 32
"""The same for `drawn_sheet`, which pages show at about half its size, and the radius of its corners."""


def image_grid(cells: Sequence[tuple[str, Image.Image, Image.Image]], columns: int = 4) -> Image.Image:
    """Draw cells of (prompt, generated, true): the two images side by side, the prompt below in at most `LINES` lines."""
    columns = min(columns, len(cells))
    width, height = 2 * SIDE + BETWEEN, SIDE + 4 + LINES * LINE
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT)
    for number, (prompt, generated_image, true_image) in enumerate(cells):
        x, y = GAP + number % columns * (width + GAP), GAP + number // columns * (height + GAP)
        draw.rectangle((x - 1, y - 1, x + width, y + SIDE), EDGE)  # otherwise white images would have no border
        for place, image in enumerate((generated_image, true_image)):
            thumbnail = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            sheet.paste(thumbnail, (x + place * (SIDE + BETWEEN), y))
        for line, text in enumerate(wrap(prompt, width, font)[:LINES]):
            draw.text((x, y + SIDE + 4 + line * LINE), text, INK, font)
    return sheet


def drawn_sheet(cells: Sequence[tuple[str, Image.Image]], columns: int = 6) -> Image.Image:
    """Draw cells of (prompt, generated) for a page: every pixel of an image as a square, the whole prompt below it.

    The paper is white also on a dark page, with round corners and nothing beyond them.
    """
    columns, font = min(columns, len(cells)), ImageFont.load_default(DRAWN_FONT)
    texts = [wrap(prompt, DRAWN_SIDE, font) for prompt, _ in cells]
    tops, row_height = [], DRAWN_SIDE + DRAWN_LINE // 2
    bottom = DRAWN_GAP
    for start in range(0, len(cells), columns):
        tops.append(bottom)
        bottom += row_height + max(map(len, texts[start : start + columns])) * DRAWN_LINE + DRAWN_GAP
    size = (columns * (DRAWN_SIDE + DRAWN_GAP) + DRAWN_GAP, bottom)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (_, image) in enumerate(cells):
        x, y = DRAWN_GAP + number % columns * (DRAWN_SIDE + DRAWN_GAP), tops[number // columns]
        draw.rectangle((x - 2, y - 2, x + DRAWN_SIDE + 1, y + DRAWN_SIDE + 1), EDGE)
        sheet.paste(image.convert("RGB").resize((DRAWN_SIDE, DRAWN_SIDE), Image.Resampling.NEAREST), (x, y))
        for line, text in enumerate(texts[number]):
            draw.text((x, y + row_height + line * DRAWN_LINE), text, INK, font)
    paper = Image.new("L", size)
    ImageDraw.Draw(paper).rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), CORNER, 255)
    sheet.putalpha(paper)
    return sheet


def wrap(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Break ``text`` into lines of at most ``width`` pixels; a longer word gets a line of its own."""
    lines: list[str] = []
    for word in text.split():
        longer_line = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer_line) <= width:
            lines[-1] = longer_line
        else:
            lines.append(word)
    return lines
