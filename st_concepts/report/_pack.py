"""Arrays and pictures small enough for a page, text that a page cannot mistake for markup."""

from __future__ import annotations

import base64
import gzip
import io
import json
from typing import Any

import numpy as np


def numbers(values: np.ndarray, bits: int = 16) -> dict[str, Any]:
    """Values as steps between their least and greatest, of 8 or 16 bits, base64; the last step is a missing value."""
    missing = 2**bits - 1
    values = np.asarray(values, dtype=np.float64)
    good = np.isfinite(values)
    low, high = (float(values[good].min()), float(values[good].max())) if good.any() else (0.0, 0.0)
    steps = np.full(values.shape, missing, dtype=f"<u{bits // 8}")
    steps[good] = np.rint((values[good] - low) / ((high - low) or 1.0) * (missing - 1))
    return {"low": low, "high": high, "bits": bits, "b64": base64.b64encode(steps.tobytes()).decode("ascii")}


def codes(values: np.ndarray) -> str:
    """Category codes as base64 of int16; -1 for missing."""
    return base64.b64encode(np.asarray(values, dtype="<i2").tobytes()).decode("ascii")


def squeezed(content: bytes) -> str:
    """Bytes as gzip in base64; the same bytes give the same text."""
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode("ascii")


def compressed(data: Any) -> str:
    """JSON as gzip in base64."""
    return squeezed(json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii"))


def jpeg(pixels: np.ndarray, longest: int) -> str:
    """An image as a data address, at most ``longest`` pixels on its longer side."""
    from PIL import Image

    if np.issubdtype(pixels.dtype, np.floating):
        pixels = np.rint(np.clip(pixels, 0, 1) * 255)
    image = Image.fromarray(np.asarray(pixels, dtype=np.uint8)).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")  # clear is white
    if max(image.size) > longest:
        factor = longest / max(image.size)
        image = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, format="JPEG", quality=85, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def json_for_script(data: Any) -> str:
    """JSON that cannot end the script element it stands in, whatever text it holds."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
