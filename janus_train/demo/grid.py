"""Makes one image of generated images, with the true images beside them and their prompts below."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

SIDE, GAP, BETWEEN, LINES, LINE, FONT = 128, 16, 2, 3, 15, 12
"""In pixels: side of an image, gap between cells and within a pair; lines per prompt; height of a line, size of letters."""
PAPER, INK, EDGE = (255, 255, 255), (40, 44, 50), (226, 224, 218)


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
