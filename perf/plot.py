"""Line plots as SVG, with nothing but the standard library."""
import math

COLORS = ("#1f6fb2", "#d1495b", "#3a7d44", "#e09f3e", "#6a4c93", "#444444", "#2a9d8f", "#9c6644")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 480, 80, 220, 50, 60


def _ticks(low, high, log):
    if log:
        return [10.0 ** power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    step = 10 ** math.floor(math.log10((high - low) or 1))
    step = next(step * factor for factor in (0.2, 0.5, 1, 2, 5) if (high - low) / (step * factor) <= 8)
    return [step * number for number in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _text(value):
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _escape(text):
    return text.replace("&", "&amp;").replace("<", "&lt;")


def bars(path, title, x_name, values, limit=1.0):
    """values: [(name, value)], horizontal on a log scale; a line stands at `limit` (None: no line), and what is over it is red."""
    values = [(name, value) for name, value in values if value and value > 0]
    if not values:
        return
    row, left, right = 22, max(190, 7 * max(len(name) for name, _ in values)), 90
    limits = [] if limit is None else [limit]
    height, width = TOP + row * len(values) + BOTTOM, WIDTH
    low = 10.0 ** math.floor(math.log10(min(limits + [value for _, value in values])) - 0.01)
    high = 10.0 ** math.ceil(math.log10(max(limits + [value for _, value in values])) + 0.01)

    def at(value):
        return left + math.log10(value / low) / math.log10(high / low) * (width - left - right)

    bottom = TOP + row * len(values)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="white"/>', f'<text x="{left}" y="28" font-size="16">{_escape(title)}</text>',
           f'<text x="{(left + width - right) / 2}" y="{height - 14}" text-anchor="middle">{_escape(x_name)}</text>']
    for tick in _ticks(low, high, True):
        out.append(f'<line x1="{at(tick):.1f}" y1="{TOP}" x2="{at(tick):.1f}" y2="{bottom}" stroke="#e4e4e4"/>'
                   f'<text x="{at(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{_text(tick)}</text>')
    for number, (name, value) in enumerate(values):
        y = TOP + row * number
        out.append(f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{_escape(name)}</text>'
                   f'<rect x="{left}" y="{y + 4}" width="{max(1.0, at(value) - left):.1f}" height="{row - 8}" '
                   f'fill="{COLORS[1] if limits and value > limit else COLORS[2]}"/>'
                   f'<text x="{at(value) + 6:.1f}" y="{y + 15}">{value:.2f}</text>')
    if limits:
        out.append(f'<line x1="{at(limit):.1f}" y1="{TOP}" x2="{at(limit):.1f}" y2="{bottom}" stroke="#444444" stroke-width="2"/>')
    out.append("</svg>")
    path.write_text("\n".join(out) + "\n")


def lines(path, title, x_name, y_name, series, log_x=False, log_y=False, x_labels=None):
    """series: {name: [(x, y), ...]}. x_labels: {x: text} instead of numbers."""
    points = [(x, y) for values in series.values() for x, y in values
              if y is not None and (x > 0 or not log_x) and (y > 0 or not log_y)]
    if not points:
        return
    x_ticks = sorted(x_labels) if x_labels else _ticks(min(x for x, _ in points), max(x for x, _ in points), log_x)
    y_low = min(y for _, y in points) if log_y else 0
    y_ticks = _ticks(y_low, max(y for _, y in points) or 1, log_y)
    scale = {True: math.log10, False: float}

    def at_x(x):
        low, high = scale[log_x](x_ticks[0]), scale[log_x](x_ticks[-1])
        return LEFT + (scale[log_x](x) - low) / ((high - low) or 1) * (WIDTH - LEFT - RIGHT)

    def at_y(y):
        low, high = scale[log_y](y_ticks[0]), scale[log_y](y_ticks[-1])
        return HEIGHT - BOTTOM - (scale[log_y](y) - low) / ((high - low) or 1) * (HEIGHT - TOP - BOTTOM)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           f'<text x="{LEFT}" y="28" font-size="16">{_escape(title)}</text>',
           f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 14}" text-anchor="middle">{_escape(x_name)}</text>',
           f'<text x="18" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 18 {HEIGHT / 2})">{_escape(y_name)}</text>']
    for x in x_ticks:
        out.append(f'<line x1="{at_x(x):.1f}" y1="{TOP}" x2="{at_x(x):.1f}" y2="{HEIGHT - BOTTOM}" stroke="#e4e4e4"/>'
                   f'<text x="{at_x(x):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
                   f'{_escape(x_labels[x] if x_labels else _text(x))}</text>')
    for y in y_ticks:
        out.append(f'<line x1="{LEFT}" y1="{at_y(y):.1f}" x2="{WIDTH - RIGHT}" y2="{at_y(y):.1f}" stroke="#e4e4e4"/>'
                   f'<text x="{LEFT - 6}" y="{at_y(y) + 4:.1f}" text-anchor="end">{_text(y)}</text>')
    for number, (name, values) in enumerate(series.items()):
        color = COLORS[number % len(COLORS)]
        shown = [(x, y) for x, y in values if y is not None and (x > 0 or not log_x) and (y > 0 or not log_y)]
        path_text = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in shown)
        out.append(f'<polyline points="{path_text}" fill="none" stroke="{color}" stroke-width="2"/>')
        out += [f'<circle cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="2.5" fill="{color}"/>' for x, y in shown]
        out.append(f'<text x="{WIDTH - RIGHT + 14}" y="{TOP + 16 + 18 * number}" fill="{color}">{_escape(name)}</text>')
    out.append("</svg>")
    path.write_text("\n".join(out) + "\n")
