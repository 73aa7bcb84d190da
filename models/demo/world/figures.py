"""Living things: painters called by `sprites.draw`, facing right unless seen from an end."""

from models.demo.world.canvas import Canvas, Rgb
from models.demo.world.vehicles import CHROME, RIM, TYRE, shade
from models.demo.world.vocabulary import Direction

SKIN: Rgb = (0.90, 0.70, 0.56)
HAIR: Rgb = (0.22, 0.13, 0.07)
TROUSERS: Rgb = (0.20, 0.21, 0.27)
SHOE: Rgb = (0.08, 0.07, 0.07)
FUR: Rgb = (0.40, 0.25, 0.12)


def _leg(canvas: Canvas, hip: tuple[float, float], swing: float, length: float, thickness: float, colour: Rgb) -> None:
    """A leg that bends at the knee; `swing` is where the foot stands before (+) or behind (-) the hip."""
    x, y = hip
    foot = (x + swing, max(y - length + abs(swing) * 0.15, 0.025))
    knee = (x + swing * 0.5 + 0.02, (y + foot[1]) / 2)
    canvas.limb(hip, knee, thickness, colour)
    canvas.limb(knee, foot, thickness * 0.85, colour)
    canvas.limb(foot, (foot[0] + thickness * 0.7, foot[1]), thickness * 0.7, SHOE)


def draw_pedestrian(canvas: Canvas, paint: Rgb, facing: Direction, sine: float, cosine: float) -> None:
    """A walking person in a coloured coat; `sine` swings the limbs."""
    sleeve = shade(paint, 0.72)
    if facing in ("left", "right"):
        _leg(canvas, (0.0, 0.45), -0.15 * sine, 0.43, 0.10, shade(TROUSERS, 0.7))
        canvas.limb((0.0, 0.76), (0.13 * sine, 0.50), 0.075, sleeve)
        _leg(canvas, (0.0, 0.45), 0.15 * sine, 0.43, 0.11, TROUSERS)
        canvas.limb((0.0, 0.74), (0.0, 0.48), 0.20, paint)
        canvas.limb((0.0, 0.76), (-0.13 * sine, 0.51), 0.075, sleeve)
        canvas.disc((-0.13 * sine, 0.49), 0.038, SKIN)
        canvas.disc((0.015, 0.90), 0.09, SKIN)
        canvas.ellipse((-0.02, 0.94), 0.09, 0.06, HAIR)
        return
    for side in (-1, 1):
        lift = max(side * sine, 0.0) * 0.07
        canvas.limb((side * 0.06, 0.45), (side * 0.07, 0.05 + lift), 0.11, TROUSERS)
        canvas.limb((side * 0.07, 0.03 + lift), (side * 0.09, 0.03 + lift), 0.08, SHOE)
        canvas.limb((side * 0.13, 0.74), (side * 0.18, 0.50 - lift), 0.075, sleeve)
        canvas.disc((side * 0.18, 0.48 - lift), 0.038, SKIN)
    canvas.box(-0.14, 0.42, 0.14, 0.78, paint)
    canvas.disc((0, 0.90), 0.095, SKIN)
    canvas.ellipse((0, 0.955 if facing == "toward" else 0.91), 0.095, 0.05 if facing == "toward" else 0.09, HAIR)


def _bicycle_wheel(canvas: Canvas, x: float, sine: float, cosine: float) -> None:
    radius, inner = 0.21, 0.17
    steps = [(1.0, 0.0), (0.0, 1.0), (0.7, 0.7), (-0.7, 0.7)]
    canvas.ring((x, radius), radius, 0.045, TYRE)
    for u, v in steps:
        dx, dy = inner * (u * cosine - v * sine), -inner * (u * sine + v * cosine)
        canvas.limb((x - dx, radius - dy), (x + dx, radius + dy), 0.012, RIM)


def draw_cyclist(canvas: Canvas, paint: Rgb, facing: Direction, sine: float, cosine: float) -> None:
    """A rider in a coloured jersey on a bicycle; `sine`, `cosine` turn the pedals."""
    sleeve = shade(paint, 0.72)
    if facing in ("left", "right"):
        for x in (-0.28, 0.28):
            _bicycle_wheel(canvas, x, sine, cosine)
        pedal = (0.0, 0.22)
        for start, end in (
            ((-0.28, 0.21), (-0.10, 0.45)),
            ((-0.28, 0.21), pedal),
            (pedal, (-0.12, 0.50)),
            (pedal, (0.20, 0.44)),
            ((-0.10, 0.45), (0.20, 0.44)),
            ((0.28, 0.21), (0.19, 0.52)),
        ):
            canvas.limb(start, end, 0.03, CHROME)
        hip = (-0.12, 0.56)
        for side, colour in ((-1, shade(TROUSERS, 0.7)), (1, TROUSERS)):
            foot = (side * 0.08 * cosine, 0.21 - side * 0.08 * sine)
            knee = (0.09 + 0.3 * foot[0], 0.40 + 0.4 * (foot[1] - 0.21))
            canvas.limb(hip, knee, 0.09, colour)
            canvas.limb(knee, foot, 0.07, colour)
            canvas.limb(foot, (foot[0] + 0.05, foot[1]), 0.05, SHOE)
        canvas.limb(hip, (0.06, 0.76), 0.17, paint)
        canvas.limb((0.07, 0.75), (0.21, 0.54), 0.06, sleeve)
        canvas.disc((0.14, 0.88), 0.08, SKIN)
        canvas.ellipse((0.13, 0.925), 0.09, 0.05, sleeve)
        return
    canvas.box(-0.03, 0.0, 0.03, 0.42, TYRE)
    canvas.limb((-0.19, 0.52), (0.19, 0.52), 0.035, CHROME)
    for side in (-1, 1):
        lift = 0.08 * side * sine
        canvas.limb((side * 0.08, 0.56), (side * 0.09, 0.26 + lift), 0.09, TROUSERS)
        canvas.limb((side * 0.08, 0.22 + lift), (side * 0.10, 0.22 + lift), 0.06, SHOE)
        canvas.limb((side * 0.12, 0.76), (side * 0.19, 0.54), 0.065, sleeve)
    canvas.limb((0, 0.74), (0, 0.60), 0.26, paint)
    canvas.disc((0, 0.91), 0.08, SKIN if facing == "toward" else HAIR)
    canvas.ellipse((0, 0.955), 0.09, 0.05, sleeve)


def draw_dog(canvas: Canvas, paint: Rgb, facing: Direction, sine: float, cosine: float) -> None:
    """A brown dog in a coloured coat; `sine` and `cosine` move its legs and tail."""
    dark = shade(FUR, 0.65)
    if facing in ("left", "right"):
        for hip, swing, colour in (
            ((-0.22, 0.28), -0.10 * sine, dark),
            ((0.20, 0.28), -0.10 * cosine, dark),
            ((-0.26, 0.28), 0.10 * sine, FUR),
            ((0.16, 0.28), 0.10 * cosine, FUR),
        ):
            canvas.limb(hip, (hip[0] + swing, 0.035), 0.075, colour)
        canvas.limb((-0.29, 0.42), (-0.44, 0.56 + 0.05 * cosine), 0.05, FUR)
        canvas.limb((-0.24, 0.38), (0.20, 0.38), 0.24, FUR)
        canvas.polygon([(-0.23, 0.27), (0.14, 0.27), (0.14, 0.51), (-0.23, 0.51)], paint)
        canvas.limb((0.22, 0.42), (0.30, 0.56), 0.14, FUR)
        canvas.limb((0.31, 0.59), (0.43, 0.55), 0.13, FUR)
        canvas.disc((0.475, 0.56), 0.025, SHOE)
        canvas.limb((0.25, 0.66), (0.22, 0.55), 0.07, dark)
        return
    for side in (-1, 1):
        lift = max(side * sine, 0.0) * 0.06
        canvas.limb((side * 0.10, 0.30), (side * 0.11, 0.04 + lift), 0.085, FUR)
    canvas.ellipse((0, 0.36), 0.17, 0.18, paint)
    if facing == "away":
        canvas.limb((0, 0.40), (0.10 * sine, 0.68), 0.05, FUR)
        canvas.ellipse((0, 0.30), 0.09, 0.08, FUR)
        return
    canvas.disc((0, 0.58), 0.13, FUR)
    for side in (-1, 1):
        canvas.limb((side * 0.12, 0.68), (side * 0.15, 0.56), 0.07, dark)
        canvas.disc((side * 0.05, 0.61), 0.018, SHOE)
    canvas.ellipse((0, 0.53), 0.07, 0.055, dark)
    canvas.disc((0, 0.55), 0.028, SHOE)
