"""Drawn images, the true ones beside them and their prompts below, as one image to look at."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

SIDE, GAP, BETWEEN, LINES, LINE, FONT = 128, 16, 2, 3, 15, 12
"""Pixels: side of an image, space between cells and within a pair; lines of a prompt, a line's height, its letters' size."""
PAPER, INK, EDGE = (255, 255, 255), (40, 44, 50), (226, 224, 218)


def image_grid(cells: Sequence[tuple[str, Image.Image, Image.Image]], columns: int = 4) -> Image.Image:
    """(prompt, drawn, true) a cell: drawn on the left, true on the right, the prompt below in at most `LINES` lines."""
    columns = min(columns, len(cells))
    width, height = 2 * SIDE + BETWEEN, SIDE + 4 + LINES * LINE
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT)
    for number, (prompt, drawn, true) in enumerate(cells):
        x, y = GAP + number % columns * (width + GAP), GAP + number // columns * (height + GAP)
        draw.rectangle((x - 1, y - 1, x + width, y + SIDE), EDGE)  # or white images had no border
        for place, image in enumerate((drawn, true)):
            scaled = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            sheet.paste(scaled, (x + place * (SIDE + BETWEEN), y))
        for line, text in enumerate(wrap(prompt, width, font)[:LINES]):
            draw.text((x, y + SIDE + 4 + line * LINE), text, INK, font)
    return sheet


def wrap(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """``text`` in lines of at most ``width`` pixels; a word that is longer stands alone."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines
