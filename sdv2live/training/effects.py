"""The looks and colour grades that the pocket model learns. Owns their definition in pixels; knows torch alone.

Every look is a function of one frame, [N, 3, H, W] float in [0, 1] -> the same, on any device and at any size that is
a multiple of 8. Lengths are in pixels of the output. Choices are soft (weights, sigmoids) because a hard choice flips
between neighbouring frames and shows as flicker. Nothing depends on the place in the picture except the grids of
`pixel` and `halftone`, whose period of 8 starts at the corner; crops must therefore be aligned to 8.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Effect = Callable[[Tensor], Tensor]
BLOCK_PX = 8


def luma(x: Tensor) -> Tensor:
    """Rec. 601 brightness, [N, 3, H, W] -> [N, 1, H, W]."""
    return 0.299 * x[:, 0:1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:3]


def saturate(x: Tensor, amount: float) -> Tensor:
    """Distance from grey times amount."""
    grey = luma(x)
    return grey + (x - grey) * amount


def gauss(x: Tensor, sigma_px: float) -> Tensor:
    """Separable Gaussian blur with the border repeated."""
    radius = max(1, math.ceil(2.5 * sigma_px))
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype) / sigma_px) ** 2)
    taps = taps / taps.sum()
    planes = x.flatten(0, 1)[:, None]
    planes = F.conv2d(F.pad(planes, (radius, radius, 0, 0), mode="replicate"), taps[None, None, None, :])
    planes = F.conv2d(F.pad(planes, (0, 0, radius, radius), mode="replicate"), taps[None, None, :, None])
    return planes.view_as(x)


def gradient(y: Tensor) -> tuple[Tensor, Tensor]:
    """Sobel derivatives of [N, 1, H, W], border repeated; about the difference between neighbours in scale."""
    p = F.pad(y, (1, 1, 1, 1), mode="replicate")
    across = p[..., 2:] - p[..., :-2]
    down = p[..., 2:, :] - p[..., :-2, :]
    gx = (across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]) / 8
    gy = (down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]) / 8
    return gx, gy


def soft_posterise(x: Tensor, levels: int, sharpness: float = 12.0) -> Tensor:
    """Steps with sigmoid risers: 0 and 1 stay, `levels` plateaus between them."""
    scaled = x.clamp(0, 1) * (levels - 1)
    floor = scaled.floor()
    rise = torch.sigmoid(sharpness * (scaled - floor - 0.5))
    low, high = 1 / (1 + math.exp(sharpness / 2)), 1 / (1 + math.exp(-sharpness / 2))
    return (floor + (rise - low) / (high - low)) / (levels - 1)


def kuwahara(x: Tensor, *, reach_px: float, blob_px: float, power: int = 6) -> Tensor:
    """Edge-keeping smoothing: of eight soft blobs around a pixel, the calm ones win (weight 1 / std^power).

    reach_px: distance of the blobs' centres; blob_px: their Gaussian radius.
    """
    grey = luma(x)
    moments = gauss(torch.cat([x, grey, grey * grey], 1), blob_px)
    pad = math.ceil(reach_px)
    padded = F.pad(moments, (pad, pad, pad, pad), mode="replicate")
    height, width = x.shape[-2:]
    total, weight_sum = torch.zeros_like(x), torch.zeros_like(grey)
    for turn in range(8):
        dx = pad + round(reach_px * math.cos(turn * math.pi / 4))
        dy = pad + round(reach_px * math.sin(turn * math.pi / 4))
        blob = padded[..., dy : dy + height, dx : dx + width]
        variance = (blob[:, 4:5] - blob[:, 3:4] ** 2).clamp_min(0) + 1e-4
        weight = (variance * 1e3) ** (-power / 2)
        total = total + weight * blob[:, :3]
        weight_sum = weight_sum + weight
    return total / weight_sum


def along_edges(x: Tensor, *, length_px: int, smooth_px: float) -> Tensor:
    """Smear colour along the local direction of edges (the weak axis of the structure tensor): brush strokes."""
    gx, gy = gradient(luma(x))
    xx, yy, xy = gauss(torch.cat([gx * gx, gy * gy, gx * gy], 1), smooth_px).split(1, 1)
    angle = 0.5 * torch.atan2(2 * xy, xx - yy) + math.pi / 2
    height, width = x.shape[-2:]
    step = torch.cat([angle.cos() * 2 / width, angle.sin() * 2 / height], 1).permute(0, 2, 3, 1)
    theta = torch.eye(2, 3, device=x.device, dtype=x.dtype)[None].expand(x.shape[0], -1, -1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    total = x.clone()
    for k in range(1, length_px + 1):
        for sign in (-k, k):
            total = total + F.grid_sample(x, grid + sign * step, padding_mode="border", align_corners=False)
    return total / (2 * length_px + 1)


def ramp(value: Tensor, stops: list[tuple[float, float, float]]) -> Tensor:
    """Map [N, 1, H, W] in [0, 1] through evenly spaced RGB stops."""
    table = torch.tensor(stops, device=value.device, dtype=value.dtype)
    place = value.clamp(0, 1) * (len(stops) - 1)
    low = place.floor().clamp(max=len(stops) - 2)
    part = (place - low).permute(0, 2, 3, 1)
    index = low.long()[:, 0]
    return (table[index] * (1 - part) + table[index + 1] * part).permute(0, 3, 1, 2)


def identity(x: Tensor) -> Tensor:
    return x


def oil(x: Tensor) -> Tensor:
    """Thick strokes: two rounds of Kuwahara, smeared along edges, richer colour, light from the upper left."""
    paint = kuwahara(x, reach_px=3, blob_px=1.7)
    paint = along_edges(paint, length_px=3, smooth_px=2.0)
    paint = kuwahara(paint, reach_px=2, blob_px=1.0)
    paint = saturate(paint, 1.45)
    paint = paint + 0.12 * (paint - 0.5) * (1 - (2 * paint - 1).abs())
    gx, gy = gradient(luma(paint))
    return (paint - 0.9 * (gx + gy)).clamp(0, 1)


def watercolour(x: Tensor) -> Tensor:
    """Thin paint on white paper: flat light washes, highlights left blank, pigment gathered at the rims."""
    wash = kuwahara(gauss(x, 0.7), reach_px=4, blob_px=2.1, power=8)
    gx, gy = gradient(luma(gauss(wash, 0.7)))
    rim = 1 - torch.exp(-30 * (gx * gx + gy * gy).sqrt().clamp_min(1e-4))
    thin = 1 - (1 - saturate(wash, 1.35).clamp(0, 1)) * 0.78
    blank = torch.sigmoid(14 * (luma(wash) - 0.72))
    paper = torch.tensor([0.99, 0.98, 0.94], device=x.device, dtype=x.dtype).view(1, 3, 1, 1)
    thin = thin + 0.75 * blank * (paper - thin)
    pigment = saturate(wash, 1.6).clamp(0, 1) * 0.62
    return (thin + 0.42 * rim * (pigment - thin)).clamp(0, 1) * paper


def pencil(x: Tensor) -> Tensor:
    """Graphite on white paper: colour dodge for the lines, a little tone for the shadows."""
    grey = luma(x)
    near = gauss(grey, 2.5)
    line = ((grey + 0.06) / (near + 0.06)).clamp(0, 1) ** 3
    shade = 1 - 0.45 * torch.sigmoid(9 * (0.38 - gauss(grey, 1.5)))
    paper = torch.tensor([0.98, 0.97, 0.95], device=x.device, dtype=x.dtype).view(1, 3, 1, 1)
    return (line * shade).clamp(0, 1) * 0.93 * paper + 0.07 * paper


def ink(x: Tensor) -> Tensor:
    """Black brush lines and solid shadows on cream paper: thresholded difference of Gaussians."""
    grey = luma(x)
    near, wide = gauss(grey, 1.0), gauss(grey, 2.2)
    line = torch.sigmoid(70 * (near - wide + 0.018))
    solid = torch.sigmoid(28 * (gauss(grey, 1.4) - 0.27))
    white = line * solid
    return ramp(white, [(0.06, 0.05, 0.09), (0.97, 0.95, 0.88)])


def neon(x: Tensor) -> Tensor:
    """Glowing tubes along the edges, in the colour of what they outline, over a dim blue night."""
    smooth = gauss(x, 1.0)
    gx, gy = gradient(luma(smooth))
    edge = (gx * gx + gy * gy + 1e-6).sqrt()
    edge = edge / (gauss(edge, 12.0) + 0.03)
    tube = torch.sigmoid(5.0 * (edge - 1.35))
    hue = gauss(x, 3.0)
    hue = saturate(hue, 2.5).clamp(0.02, 1)
    hue = hue / hue.amax(1, keepdim=True)
    magenta_cyan = ramp(gauss(luma(x), 3.0), [(1.0, 0.1, 0.75), (0.5, 0.3, 1.0), (0.1, 0.95, 1.0)])
    light = tube * (0.5 * hue + 0.65 * magenta_cyan)
    glow = gauss(light, 4.0)
    dim = ramp(luma(smooth), [(0.015, 0.01, 0.05), (0.10, 0.07, 0.24)])
    return (dim + light + 0.9 * glow).clamp(0, 1)


def thermal(x: Tensor) -> Tensor:
    """A heat camera: brightness through black, blue, purple, red, orange, yellow, white."""
    heat = ((gauss(luma(x), 1.2) - 0.06) * 1.12).clamp(0, 1)
    return ramp(
        heat,
        [
            (0.00, 0.00, 0.08),
            (0.12, 0.04, 0.52),
            (0.52, 0.05, 0.62),
            (0.87, 0.20, 0.35),
            (0.98, 0.50, 0.10),
            (1.00, 0.82, 0.20),
            (1.00, 1.00, 0.92),
        ],
    )


def pixel(x: Tensor) -> Tensor:
    """Blocks of 8 x 8 from the picture's corner, strong colour, few levels."""
    blocks = F.avg_pool2d(x, BLOCK_PX)
    blocks = saturate((blocks - 0.5) * 1.2 + 0.5, 1.5).clamp(0, 1)
    blocks = soft_posterise(blocks, 6)
    return blocks.repeat_interleave(BLOCK_PX, 2).repeat_interleave(BLOCK_PX, 3)


def cel(x: Tensor) -> Tensor:
    """A drawn cartoon: flat areas of strong colour in few brightness steps, dark outlines."""
    flat = kuwahara(kuwahara(x, reach_px=4, blob_px=1.8), reach_px=3, blob_px=1.4)
    grey = luma(flat)
    steps = soft_posterise(grey, 6, sharpness=14)
    flat = saturate(flat * (steps + 0.03) / (grey + 0.03), 1.55) * 1.08
    smooth = gauss(luma(flat * 0.5 + x * 0.5), 0.8)
    line = torch.sigmoid(60 * (smooth - gauss(smooth, 2.0) + 0.035))
    return (flat.clamp(0, 1) * (0.12 + 0.88 * line)).clamp(0, 1)


def dot_screen(height: int, width: int, device: torch.device) -> Tensor:
    """A printer's screen turned by 45 degrees, [1, 1, H, W] in [-1, 1]: 1 where dots grow from, two in each 8 x 8."""
    down, across = (
        ((torch.arange(side, device=device) + 0.5) * (2 * math.pi / BLOCK_PX)).cos() for side in (height, width)
    )
    return (down[:, None] * across[None, :])[None, None]


def halftone(x: Tensor) -> Tensor:
    """A printed comic: coloured dots on paper that grow with the shade, solid black in the shadows, black outlines."""
    flat = kuwahara(x, reach_px=3, blob_px=1.6)
    grey = luma(flat)
    shade = 1 - gauss(grey, 2.5)
    dot = torch.sigmoid(5 * (dot_screen(x.shape[-2], x.shape[-1], x.device) + 2.4 * shade - 1.4))
    vivid = saturate(flat, 2.2).clamp(0, 1)
    vivid = vivid / vivid.amax(1, keepdim=True).clamp_min(0.25) * (0.35 + 0.6 * grey)
    paper = torch.tensor([1.0, 0.97, 0.88], device=x.device, dtype=x.dtype).view(1, 3, 1, 1)
    ground = paper + 0.35 * (vivid - paper)
    printed = ground + dot * (vivid - ground)
    solid = torch.sigmoid(26 * (gauss(grey, 1.2) - 0.17))
    line = torch.sigmoid(60 * (gauss(grey, 0.8) - gauss(grey, 2.2) + 0.03))
    black = torch.tensor([0.05, 0.04, 0.08], device=x.device, dtype=x.dtype).view(1, 3, 1, 1)
    return (black + solid * line * (printed - black)).clamp(0, 1)


def glass(x: Tensor) -> Tensor:
    """Stained glass with light behind it: large panes of deep colour, brighter in their middle, set in dark lead."""
    # Blurred first, so that panes and lead follow large shapes: a face keeps its eyes, and grass gets no lead.
    pane = kuwahara(gauss(x, 1.5), reach_px=4, blob_px=2.1, power=8)
    gx, gy = gradient(gauss(pane, 1.2).flatten(0, 1)[:, None])
    edge = (gx * gx + gy * gy).view_as(pane).mean(1, keepdim=True).add(1e-6).sqrt()
    lead = torch.sigmoid(150 * (gauss(edge, 1.4) - 0.03))
    grey = luma(pane)
    steps = soft_posterise(grey, 5, sharpness=14)
    pane = saturate(pane * (0.85 * steps + 0.08) / (grey + 0.05), 2.1).clamp(0, 1)
    light = 1.2 - 0.5 * gauss(lead, 3.0)
    came = torch.tensor([0.07, 0.07, 0.09], device=x.device, dtype=x.dtype).view(1, 3, 1, 1)
    lit = (0.06 + 0.94 * pane) * light
    return (lit + lead * (came - lit)).clamp(0, 1)


def night(x: Tensor) -> Tensor:
    """Day for night: dark and blue, lamps still warm and glowing."""
    grey = luma(x)
    dark = ramp(grey**1.35, [(0.005, 0.01, 0.04), (0.07, 0.12, 0.30), (0.30, 0.42, 0.68)])
    lamp = torch.sigmoid(18 * (grey - 0.80)) * torch.tensor([1.0, 0.82, 0.45], device=x.device).view(1, 3, 1, 1)
    return (0.82 * dark + 0.10 * x * grey + 0.45 * lamp + 0.35 * gauss(lamp, 4.0)).clamp(0, 1)


def vintage(x: Tensor) -> Tensor:
    """A faded print: lifted blacks, yellow lights, green-blue shadows, soft glow."""
    soft = 0.65 * x + 0.35 * gauss(x, 1.6)
    grey = luma(soft)
    faded = saturate(soft, 0.55) * 0.78 + 0.14
    low = torch.tensor([-0.03, 0.02, 0.05], device=x.device).view(1, 3, 1, 1)
    high = torch.tensor([0.13, 0.06, -0.12], device=x.device).view(1, 3, 1, 1)
    return (faded + low * (1 - grey) + high * grey).clamp(0, 1)


def _tint(colour: tuple[float, float, float], amount: float, lift: float = 0.0) -> Effect:
    """Brightness painted in one colour (black, the colour, white), mixed over the picture."""

    def apply(x: Tensor) -> Tensor:
        painted = ramp(luma(x), [(lift, lift, lift), colour, (1.0, 1.0, 1.0)])
        return x + amount * (painted - x)

    return apply


def _gain(red: float, green: float, blue: float) -> Effect:
    def apply(x: Tensor) -> Tensor:
        return (x * torch.tensor([red, green, blue], device=x.device, dtype=x.dtype).view(1, 3, 1, 1)).clamp(0, 1)

    return apply


def pastel(x: Tensor) -> Tensor:
    """Pale: little contrast, much light."""
    return (saturate(x, 0.75) * 0.50 + 0.50).clamp(0, 1)


LOOKS: dict[str, Effect] = {
    "identity": identity,
    "oil": oil,
    "watercolour": watercolour,
    "pencil": pencil,
    "ink": ink,
    "neon": neon,
    "thermal": thermal,
    "pixel": pixel,
    "cel": cel,
    "night": night,
    "vintage": vintage,
    "halftone": halftone,
    "glass": glass,
}

STROKE_LOOKS = ("oil", "watercolour", "pencil", "ink", "cel", "halftone", "glass")

COLOURS: dict[str, Effect] = {
    "none": identity,
    "red": _tint((0.85, 0.10, 0.10), 0.75),
    "blue": _tint((0.12, 0.25, 0.90), 0.75),
    "green": _tint((0.12, 0.70, 0.20), 0.75),
    "teal": _tint((0.05, 0.62, 0.62), 0.75),
    "sepia": _tint((0.60, 0.43, 0.25), 0.85),
    "warm": _gain(1.22, 1.02, 0.72),
    "cold": _gain(0.74, 0.98, 1.25),
    "pastel": pastel,
}
