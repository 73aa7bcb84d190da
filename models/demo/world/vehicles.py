"""Things on wheels, and the ball: painters called by `sprites.draw`, facing right unless seen from an end."""

from models.demo.world.canvas import Canvas, Rgb
from models.demo.world.vocabulary import Direction

DARK_GLASS: Rgb = (0.22, 0.30, 0.37)
LIGHT_GLASS: Rgb = (0.62, 0.76, 0.85)
TYRE: Rgb = (0.05, 0.05, 0.05)
RIM: Rgb = (0.62, 0.62, 0.64)
CHROME: Rgb = (0.40, 0.41, 0.43)
HEADLIGHT: Rgb = (1.0, 0.97, 0.75)
TAIL_LIGHT: Rgb = (0.75, 0.0, 0.0)


def shade(colour: Rgb, factor: float) -> Rgb:
    """The colour, darker (factor < 1), for parts that should stand out from the body."""
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def _glass(paint: Rgb) -> Rgb:
    """Window panes that stand out from the paint in brightness, which is all that an event camera sees."""
    return DARK_GLASS if sum(paint) > 1.5 else LIGHT_GLASS


def _wheel(canvas: Canvas, x: float, radius: float, sine: float, cosine: float) -> None:
    canvas.disc((x, radius), radius, TYRE)
    canvas.disc((x, radius), radius * 0.62, RIM)
    dx, dy = radius * 0.5 * cosine, radius * 0.5 * sine
    canvas.limb((x - dx, radius - dy), (x + dx, radius + dy), radius * 0.22, TYRE)
    canvas.limb((x - dy, radius + dx), (x + dy, radius - dx), radius * 0.22, TYRE)


def draw_car(canvas: Canvas, paint: Rgb, facing: Direction, sine: float, cosine: float) -> None:
    """A low body with a glazed cabin and two wheels; `sine`, `cosine` turn the wheels."""
    dark, glass = shade(paint, 0.6), _glass(paint)
    if facing in ("left", "right"):
        canvas.polygon([(-0.34, 0.22), (0.26, 0.22), (0.12, 0.40), (-0.22, 0.40)], paint)
        canvas.polygon([(-0.285, 0.235), (-0.045, 0.235), (-0.045, 0.375), (-0.205, 0.375)], glass)
        canvas.polygon([(-0.01, 0.235), (0.20, 0.235), (0.105, 0.375), (-0.01, 0.375)], glass)
        canvas.polygon([(-0.5, 0.08), (0.5, 0.08), (0.49, 0.20), (0.28, 0.245), (-0.48, 0.245)], paint)
        canvas.box(-0.5, 0.07, 0.5, 0.11, dark)
        for x in (-0.485, 0.485):
            canvas.box(x - 0.015, 0.07, x + 0.015, 0.14, TYRE)
        canvas.box(-0.035, 0.11, -0.023, 0.23, dark)
        canvas.box(0.43, 0.15, 0.5, 0.20, HEADLIGHT)
        canvas.box(-0.5, 0.16, -0.45, 0.21, TAIL_LIGHT)
        _wheel(canvas, -0.29, 0.105, sine, cosine)
        _wheel(canvas, 0.29, 0.105, sine, cosine)
        return
    lights = HEADLIGHT if facing == "toward" else TAIL_LIGHT
    for x in (-0.22, 0.22):
        canvas.box(x - 0.055, 0.0, x + 0.055, 0.14, TYRE)
    canvas.polygon([(-0.27, 0.24), (0.27, 0.24), (0.20, 0.46), (-0.20, 0.46)], paint)
    canvas.polygon([(-0.22, 0.26), (0.22, 0.26), (0.17, 0.42), (-0.17, 0.42)], glass)
    canvas.box(-0.30, 0.07, 0.30, 0.27, paint)
    canvas.box(-0.30, 0.06, 0.30, 0.11, dark)
    if facing == "toward":
        canvas.box(-0.12, 0.13, 0.12, 0.20, TYRE)
    else:
        canvas.box(-0.08, 0.12, 0.08, 0.17, (0.9, 0.9, 0.85))
    for x in (-0.22, 0.22):
        canvas.ellipse((x, 0.19), 0.065, 0.04, lights)


def draw_truck(canvas: Canvas, paint: Rgb, facing: Direction, sine: float, cosine: float) -> None:
    """A tall cargo box behind a cab, three wheels; `sine`, `cosine` turn the wheels."""
    dark, glass = shade(paint, 0.6), _glass(paint)
    if facing in ("left", "right"):
        canvas.box(-0.5, 0.12, 0.5, 0.17, CHROME)
        canvas.box(-0.5, 0.165, 0.19, 0.62, paint)
        for x in (-0.33, -0.16, 0.01):
            canvas.box(x - 0.006, 0.19, x + 0.006, 0.60, dark)
        canvas.polygon([(0.22, 0.12), (0.5, 0.12), (0.5, 0.30), (0.44, 0.47), (0.22, 0.47)], paint)
        canvas.polygon([(0.31, 0.30), (0.475, 0.30), (0.425, 0.44), (0.31, 0.44)], glass)
        canvas.box(0.46, 0.16, 0.5, 0.21, HEADLIGHT)
        for x in (-0.36, -0.15, 0.35):
            _wheel(canvas, x, 0.098, sine, cosine)
        return
    for x in (-0.2, 0.2):
        canvas.box(x - 0.06, 0.0, x + 0.06, 0.15, TYRE)
    canvas.box(-0.28, 0.12, 0.28, 0.74, paint)
    canvas.box(-0.28, 0.09, 0.28, 0.16, CHROME)
    if facing == "toward":
        canvas.box(-0.28, 0.545, 0.28, 0.56, dark)
        canvas.box(-0.23, 0.34, 0.23, 0.52, glass)
        canvas.box(-0.14, 0.19, 0.14, 0.28, TYRE)
    else:
        canvas.box(-0.008, 0.19, 0.008, 0.71, dark)
        canvas.box(-0.24, 0.20, 0.24, 0.22, dark)
        canvas.box(-0.24, 0.69, 0.24, 0.71, dark)
    for x in (-0.22, 0.22):
        canvas.box(x - 0.045, 0.17, x + 0.045, 0.23, HEADLIGHT if facing == "toward" else TAIL_LIGHT)


def draw_ball(canvas: Canvas, paint: Rgb, facing: Direction, sine: float, cosine: float) -> None:
    """A ball with a stripe and two spots that turn as it rolls (`sine`, `cosine`)."""
    mark = (0.1, 0.1, 0.1) if sum(paint) > 1.5 else (0.95, 0.95, 0.95)
    middle = 0.5
    canvas.disc((0, middle), 0.5, shade(paint, 0.75))
    canvas.disc((0, middle), 0.465, paint)
    if facing in ("left", "right"):
        dx, dy = 0.44 * cosine, -0.44 * sine
        canvas.limb((-dx, middle - dy), (dx, middle + dy), 0.07, mark)
        for side in (-1, 1):
            canvas.disc((side * 0.24 * sine, middle + side * 0.24 * cosine), 0.085, mark)
        return
    turn = sine if facing == "toward" else -sine
    canvas.ellipse((0, middle + 0.30 * turn), 0.40 * max(abs(cosine), 0.3), 0.06, mark)
    canvas.ellipse((0, middle - 0.28 * turn), 0.10, 0.09, mark)
