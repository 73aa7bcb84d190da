"""Where things are in the picture: sensor size, the crop that both models see, and how depth maps to the image."""

WIDTH, HEIGHT = 346, 260
"""The DAVIS346's pixels."""

CROP_LEFT, CROP_RIGHT = 43, 303
"""The central 260 columns, which is what a square centre crop leaves."""

HORIZON = 120.0
NEAR_SCALE = 0.65
"""An object at this scale or above is near (scale is 1 / depth, in units of the near distance)."""


def ground_y(scale: float) -> float:
    """The row in which an object of this scale touches the ground (flat world, camera above it)."""
    return HORIZON + 115.0 * scale
