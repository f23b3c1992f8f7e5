"""Drawn pictures with their prompts and the true pictures, as one picture to look at."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

DRAWN, TRUE, GAP, LINES, LINE = 128, 40, 12, 4, 14
"""Pixels: side of a drawn picture, of the true one beside its prompt, space between cells; lines of a prompt, their height."""
PAPER, INK = (255, 255, 255), (40, 44, 50)


def picture_grid(cells: Sequence[tuple[str, Image.Image, Image.Image]], columns: int = 6) -> Image.Image:
    """(prompt, drawn, true) a cell: the drawn picture large, below it the true one small and the prompt."""
    columns = min(columns, len(cells))
    width, height = DRAWN + GAP, DRAWN + max(TRUE, LINES * LINE) + 6 + GAP
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for number, (prompt, drawn, true) in enumerate(cells):
        x, y = GAP + number % columns * width, GAP + number // columns * height
        sheet.paste(drawn.convert("RGB").resize((DRAWN, DRAWN), Image.Resampling.BICUBIC), (x, y))
        sheet.paste(true.convert("RGB").resize((TRUE, TRUE), Image.Resampling.LANCZOS), (x, y + DRAWN + 6))
        for line, text in enumerate(wrap(prompt, DRAWN - TRUE - 6, font)[:LINES]):
            draw.text((x + TRUE + 6, y + DRAWN + 4 + line * LINE), text, INK, font)
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
