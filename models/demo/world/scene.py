"""A seeded, endless street: what the camera sees at a time, as luminance, as a colour frame, and as boxes."""

import numpy as np
from numpy.typing import NDArray

from models.demo.world.background import LUMA, Planes, panorama, view
from models.demo.world.camera import Camera
from models.demo.world.geometry import CROP_LEFT, CROP_RIGHT, HEIGHT, WIDTH, ground_y
from models.demo.world.painting import Wardrobe, paste, place
from models.demo.world.sprites import UNIT_PX, extent
from models.demo.world.traffic import Traffic
from models.demo.world.truth import ObjectBox
from models.demo.world.vocabulary import Mix


class Scene:
    """The street of a seed. Times are integer microseconds from 0; any order may be asked for."""

    def __init__(self, seed: int, mix: Mix = "all") -> None:
        background, camera, traffic, noise = np.random.default_rng(seed).spawn(4)
        self._colour = panorama(background)
        self._luma = np.tensordot(LUMA, self._colour, axes=1).astype(np.float32)[None]
        self.camera = Camera(camera)
        self.traffic = Traffic(traffic, self.camera, mix)
        self._wardrobe = Wardrobe()
        self._noise_rng = noise
        # In one pixel in forty, but of three levels: as visible as real noise, at a fraction of its bytes on disk.
        size = HEIGHT + 32, WIDTH + 32
        speckle = (noise.random(size) < 1 / 40) * noise.normal(0, 3, size)
        self._noise = np.rint(speckle).astype(np.float32)

    def luminance(self, t_us: int) -> NDArray[np.float32]:
        """Linear luminance [260, 346], about 0 to 1."""
        image: Planes = self._render(t_us, self._luma, colour=False)[0]
        image *= np.float32(self.camera.light(t_us))
        return image

    def frame(self, t_us: int) -> NDArray[np.uint8]:
        """What a colour camera records: RGB uint8 [260, 346, 3] with sensor noise."""
        image = self._render(t_us, self._colour, colour=True)
        image *= np.float32(127.5 * self.camera.light(t_us))
        np.rint(image, out=image)  # seven bits are what a webcam's compression leaves, and what a recording can keep
        image *= 2
        row, column = self._noise_rng.integers(0, 32, 2)
        image += self._noise[row : row + HEIGHT, column : column + WIDTH]
        np.clip(image, 0, 255, out=image)
        return np.ascontiguousarray(image.astype(np.uint8).transpose(1, 2, 0))

    def boxes(self, t_us: int) -> tuple[ObjectBox, ...]:
        """The objects that exist at a time, nearest first, in sensor pixels; some may be out of view."""
        nearer: list[ObjectBox] = []
        shift_x, shift_y = self._shift(t_us)
        for actor in reversed(self.traffic.at(t_us)):
            state = actor.at(t_us)
            unit = UNIT_PX[actor.kind] * state.scale
            width, height = (unit * side for side in extent(actor.kind, state.facing))
            x, bottom = state.x + shift_x, ground_y(state.scale) + shift_y
            left, top, right = x - width / 2, bottom - height, x + width / 2
            seen = _overlap(left, top, right, bottom, CROP_LEFT, 0, CROP_RIGHT, HEIGHT)
            hidden = max(
                (_overlap(left, top, right, bottom, box.left, box.top, box.right, box.bottom) for box in nearer),
                default=0.0,
            )
            visible = max(seen - hidden, 0.0) / (width * height)
            nearer.append(
                ObjectBox(
                    actor.number, actor.kind, actor.colour, state.facing, left, top, right, bottom, visible, state.scale
                )
            )
        return tuple(nearer)

    def forget_before(self, t_us: int) -> None:
        """Free what only earlier times need (boxes stay known for a minute)."""
        self.traffic.forget_before(t_us)
        self._wardrobe.keep_only({actor.number for actor in self.traffic.at(t_us)})

    def _shift(self, t_us: int) -> tuple[float, float]:
        """From street to picture coordinates."""
        vibration_x, vibration_y = self.camera.vibration(t_us)
        return -self.camera.pan(t_us) - vibration_x, -vibration_y

    def _render(self, t_us: int, background: Planes, colour: bool) -> Planes:
        shift = self._shift(t_us)
        image = view(background, -shift[0], -shift[1])
        for actor in self.traffic.at(t_us):
            state = actor.at(t_us)
            texture = self._wardrobe.texture(actor, state)
            paste(image, texture.colour if colour else texture.luma, place(texture, actor, state, shift))
        return image


def _overlap(
    left: float, top: float, right: float, bottom: float,
    other_left: float, other_top: float, other_right: float, other_bottom: float,
) -> float:  # fmt: skip
    """Area that two boxes share."""
    width = min(right, other_right) - max(left, other_left)
    height = min(bottom, other_bottom) - max(top, other_top)
    return max(width, 0.0) * max(height, 0.0)
