"""The value's course as a PNG, for where an SVG cannot be shown: in an email. As `incidents.trend` draws it."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from io import BytesIO

from PIL import Image, ImageDraw, ImageFont

from incidents.trend import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MARK_ROWS,
    RIGHT,
    WIDTH,
    Frame,
    Mark,
    Point,
    Points,
    figure,
    frame_of,
    runs,
    ticks,
)

SCALE = 2  # dots a pixel, for the screens that have them
TEXT_SIZE, DOT = 12, 2
COLOURS = 32  # of the file; there are few, and their shades
GROUND, TEXT, GRID, LINE, MARK = "#ffffff", "#46525f", "#e3e7ec", "#3046b5", "#7b8794"
LEVEL_COLOURS = {"threshold": "#ab1f1a", "clear": "#17663a"}
DASHES = (6, 4)  # pixels drawn, and left out

Spot = tuple[float, float]


def png(points: Points, levels: Sequence[tuple[str, float]], marks: Sequence[Mark] = ()) -> bytes:
    """The picture of a course that is not empty: WIDTH × HEIGHT pixels of SCALE × SCALE dots each."""
    image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), GROUND)
    Canvas(image, frame_of(points, [level for _, level in levels], marks)).draw(points, levels, marks)
    file = BytesIO()
    image.quantize(COLOURS).save(file, "PNG", optimize=True)
    return file.getvalue()


class Canvas:
    """Draws in pixels; the frame says which value and moment lie where."""

    def __init__(self, image: Image.Image, frame: Frame) -> None:
        self._draw = ImageDraw.Draw(image)
        self._font = ImageFont.load_default(TEXT_SIZE * SCALE)
        self._frame = frame

    def draw(self, points: Points, levels: Sequence[tuple[str, float]], marks: Sequence[Mark]) -> None:
        self._axes(points.unit)
        for place, mark in enumerate(sorted(marks, key=lambda mark: mark.at)):
            self._mark(mark, place % MARK_ROWS)
        for name, level in levels:
            self._level(name, level, points.unit)
        for run in runs(points.points):
            self._course(run)

    def _axes(self, unit: str) -> None:
        frame = self._frame
        for tick in ticks(frame.low, frame.high):
            self._line([(LEFT, frame.y(tick)), (RIGHT, frame.y(tick))], GRID)
            self._text((LEFT - 6, frame.y(tick)), f"{tick:g}{' %' if unit == '%' else ''}", "rm")
        form = "%d %b %H:%M" if frame.end - frame.start > timedelta(hours=20) else "%H:%M:%S"
        for share, anchor in ((0.0, "lt"), (0.5, "mt"), (1.0, "rt")):
            at = frame.start + (frame.end - frame.start) * share
            self._text((LEFT + share * (RIGHT - LEFT), BOTTOM + 8), f"{at:{form}}", anchor)

    def _level(self, name: str, level: float, unit: str) -> None:
        y, colour = self._frame.y(level), LEVEL_COLOURS.get(name, TEXT)
        self._dashed((LEFT, y), (RIGHT, y), colour)
        # The two often lie close together: one is named above its line, the other below.
        beside, anchor = (-3, "lb") if name == "threshold" else (3, "lt")
        self._text((LEFT + 4, y + beside), f"{name} {figure(level, unit)}", anchor, colour)

    def _mark(self, mark: Mark, row: int) -> None:
        x, y = self._frame.x(mark.at), 12 + 13 * row
        self._dashed((x, y), (x, BOTTOM), MARK)
        beside, anchor = (-4, "rm") if x > (LEFT + RIGHT) / 2 else (4, "lm")
        self._text((x + beside, y), f"{mark.label} {mark.at:%H:%M:%S}", anchor)

    def _course(self, run: Sequence[Point]) -> None:
        corners = [(self._frame.x(point.at), self._frame.y(point.value)) for point in run]
        self._line(corners, LINE, 2)
        if len(corners) == 1:
            (x, y) = corners[0]
            self._draw.ellipse([each * SCALE for each in (x - DOT, y - DOT, x + DOT, y + DOT)], LINE)

    def _line(self, corners: Sequence[Spot], colour: str, width: int = 1) -> None:
        dots = [(x * SCALE, y * SCALE) for x, y in corners]
        self._draw.line(dots, colour, width * SCALE, joint="curve")

    def _dashed(self, start: Spot, end: Spot, colour: str) -> None:
        for dash in dashes(start, end):
            self._line(dash, colour)

    def _text(self, spot: Spot, text: str, anchor: str, colour: str = TEXT) -> None:
        """`anchor` as Pillow has it: l, m or r, then t, m or b."""
        self._draw.text((spot[0] * SCALE, spot[1] * SCALE), text, colour, self._font, anchor)


def dashes(start: Spot, end: Spot) -> Iterator[tuple[Spot, Spot]]:
    """Of an upright or level line, drawn from left to right or downwards."""
    drawn, left_out = DASHES
    length = round(max(end[0] - start[0], end[1] - start[1]))
    for begun in range(0, length, drawn + left_out):
        yield along(start, end, begun / length), along(start, end, min(begun + drawn, length) / length)


def along(start: Spot, end: Spot, share: float) -> Spot:
    return start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])
