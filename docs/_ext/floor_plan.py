"""A picture of the package: its folders on floors, and who imports whom, read from the syntax trees."""

from __future__ import annotations

import ast
from pathlib import Path

WIDTH, HEIGHT, GAP = 104, 34, 52


def rooms(package: Path) -> dict[str, set[str]]:
    """Folders and files at the root of the package, and those that each imports as it is imported or later."""
    names = {p.stem if p.is_file() else p.name for p in package.iterdir() if p.suffix == ".py" or p.is_dir()}
    names -= {"__init__", "__pycache__"}
    found: dict[str, set[str]] = {name: set() for name in sorted(names)}
    for path in package.rglob("*.py"):
        own = path.relative_to(package).parts[0].removesuffix(".py")
        if own not in found:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").startswith(package.name):
                parts = (node.module or "").split(".")
                targets = [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
                found[own] |= {t for t in targets if t in found and t != own}
    return found


def floors(imports: dict[str, set[str]]) -> list[list[str]]:
    """Rooms by the longest way down from them; the ground floor imports nothing of the package."""
    height: dict[str, int] = {}

    def of(name: str) -> int:
        if name not in height:
            height[name] = 0  # a circle would end here; a test holds that there is none
            height[name] = max((of(other) + 1 for other in imports[name]), default=0)
        return height[name]

    levels: dict[int, list[str]] = {}
    for name in imports:
        levels.setdefault(of(name), []).append(name)
    return [sorted(levels[i]) for i in sorted(levels)]


def svg(package: Path) -> str:
    """The picture, top floor first; an arrow leads to what is imported from the next floors below."""
    imports = rooms(package)
    levels = floors(imports)[::-1]
    widest = max(map(len, levels))
    total = (widest * (WIDTH + 16), len(levels) * (HEIGHT + GAP))
    at = {}
    for row, names in enumerate(levels):
        left = (total[0] - len(names) * (WIDTH + 16)) / 2
        for column, name in enumerate(names):
            at[name] = (left + column * (WIDTH + 16) + 8, row * (HEIGHT + GAP) + 8)
    lines = [
        f'<line x1="{at[a][0] + WIDTH / 2:.0f}" y1="{at[a][1] + HEIGHT:.0f}" x2="{at[b][0] + WIDTH / 2:.0f}" '
        f'y2="{at[b][1]:.0f}" stroke="#888" stroke-width="1" stroke-opacity="0.45"/>'
        for a, others in imports.items()
        for b in sorted(others)
        if not b.startswith("_")
    ]
    boxes = [
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="5" fill="{colour(name)}" stroke="#555"/>'
        f'<text x="{x + WIDTH / 2:.0f}" y="{y + HEIGHT / 2 + 4:.0f}" text-anchor="middle" font-size="13" '
        f'font-family="sans-serif" fill="#111">{name}</text>'
        for name, (x, y) in at.items()
    ]
    title = "<title>Folders of the package on floors; lines lead to what is imported</title>"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total[0]:.0f} {total[1]:.0f}" role="img">{title}'
        + "".join(lines + boxes)
        + "</svg>"
    )


def colour(name: str) -> str:
    """Rooms that users enter, and those that only the package does."""
    return "#e8eef7" if name.startswith("_") else "#fbe9d5"
