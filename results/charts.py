"""The charts of results/README.md, as SVG: equal numbers give equal bytes.

A chart has one place on the x axis for each arm, and for each method a point: the mean over seeds,
with its 95 % interval (Student's t). Methods differ in colour and in the shape of their points.
"""
from html import escape
from math import ceil, floor
from statistics import mean, stdev

STUDENT_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306,
             10: 2.262}  # of 97.5 %, by number of values
METHODS = {  # name: colour (of Okabe and Ito, told apart by the colour-blind), shape of its points
    "CLS": ("#555555", "circle"),
    "RE": ("#d55e00", "square"),
    "REKD": ("#0072b2", "diamond"),
    "teacher": ("#009e73", "triangle"),
}
LEFT, TOP, WIDE, HIGH = 56, 40, 330, 220  # of a panel's axes
PANEL = 420
SHAPES = {
    "square": "M{l},{t}H{r}V{b}H{l}Z",
    "diamond": "M{x},{t}L{r},{y}L{x},{b}L{l},{y}Z",
    "triangle": "M{x},{t}L{r},{b}H{l}Z",
    "circle": "M{l},{y}A4,4 0 1 1 {r},{y}A4,4 0 1 1 {l},{y}Z",
}


def interval(values):
    """Half of the 95 % interval of the mean; 0 of a single value."""
    if len(values) < 2:
        return 0.0
    return STUDENT_T[len(values)] * stdev(values) / len(values) ** 0.5


def chart(title, axis, places, panels):
    """-> the text of an SVG.

    places: what stands under the x axis. panels: {what y is: {method: [values of the seeds, or
    none, at each place]}}.
    """
    width = PANEL * len(panels)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} 330" '
             f'font-family="sans-serif" font-size="12" role="img" aria-label="{escape(title)}">',
             f'<rect width="{width}" height="330" fill="#ffffff"/>',
             text(LEFT, 18, title, "start", "bold")]
    for i, (name, series) in enumerate(panels.items()):
        parts.append(f'<g transform="translate({PANEL * i},0)">')
        parts += panel(name, axis, places, series)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"]) + "\n"


def panel(name, axis, places, series):
    """The lines of one panel: axes, points with their intervals, the key."""
    ends = [mean(values) + sign * interval(values)
            for points in series.values() for values in points if values for sign in (-1, 1)]
    low = max(0.0, floor(min(ends) * 10) / 10)
    high = min(1.0, ceil(max(ends) * 10) / 10)

    def height(value):
        return TOP + HIGH * (1 - (min(max(value, low), high) - low) / max(high - low, 0.1))

    parts = [text(LEFT + WIDE / 2, TOP + HIGH + 38, axis, "middle"),
             text(LEFT, TOP - 6, name, "start")]
    for k in range(round(low * 10), round(high * 10) + 1):
        y = height(k / 10)
        parts += [f'<path d="M{LEFT},{y:.1f}h{WIDE}" stroke="#dddddd"/>',
                  text(LEFT - 6, y + 4, f"{k / 10:.1f}", "end")]
    xs = [LEFT + WIDE * (i + 0.5) / len(places) for i in range(len(places))]
    parts += [text(x, TOP + HIGH + 18, place, "middle") for x, place in zip(xs, places)]
    for k, (method, points) in enumerate(series.items()):
        shifted = [x + 3 * k - 4 for x in xs]  # so that intervals do not hide each other
        parts += curve(method, shifted, points, height)
        parts.append(text(LEFT + 14 + 84 * k, TOP + HIGH + 60, method, "start"))
        parts.append(mark(method, LEFT + 4 + 84 * k, TOP + HIGH + 56))
    return parts


def curve(method, xs, points, height):
    """A method's line through its means, their intervals and marks."""
    colour, _ = METHODS[method]
    drawn = [(x, values) for x, values in zip(xs, points) if values]
    way = " ".join(f"{x:.1f},{height(mean(values)):.1f}" for x, values in drawn)
    parts = [f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="1.5"/>']
    for x, values in drawn:
        y, half = mean(values), interval(values)
        parts += [f'<path d="M{x:.1f},{height(y - half):.1f}V{height(y + half):.1f}" '
                  f'stroke="{colour}"/>', mark(method, x, height(y))]
    return parts


def mark(method, x, y):
    colour, shape = METHODS[method]
    corners = {"x": x, "y": y, "l": x - 4, "r": x + 4, "t": y - 4, "b": y + 4}
    way = SHAPES[shape].format(**{key: f"{value:.1f}" for key, value in corners.items()})
    return f'<path d="{way}" fill="{colour}"/>'


def text(x, y, content, anchor, weight="normal"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" '
            f'fill="#222222">{escape(str(content))}</text>')
