"""Charts as plotly figures: plain mappings, so that nothing is imported to make one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["PALETTE", "distributions", "dots", "lines", "scatter"]

# Okabe and Ito's colours, which those who see few colours can tell apart, on light and on dark.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C")

_LOG = {"type": "log", "exponentformat": "power", "dtick": 1}

# Labels of neighbouring points go to different sides of them.
_PLACES = ("top center", "bottom center")

Numbers = Sequence[float]
Figure = dict[str, Any]


def _finite(values: Numbers) -> list[float | None]:
    """Return values as JSON holds them: a gap where there is no number."""
    return [float(v) if math.isfinite(v) else None for v in values]


def _ranks(values: Numbers) -> list[int]:
    order = sorted(range(len(values)), key=values.__getitem__)
    return sorted(range(len(values)), key=order.__getitem__)


def _layout(x: str, y: str, **more: Any) -> dict[str, Any]:
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": x}, "automargin": True},
        "yaxis": {"title": {"text": y}, "automargin": True},
        "margin": {"l": 10, "r": 10, "t": 10, "b": 10},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "hovermode": "closest",
    }
    for name, value in more.items():
        layout[name] = {**layout[name], **value} if name in layout and isinstance(value, dict) else value
    return layout


def dots(labels: Sequence[str], series: Mapping[str, tuple[Numbers, Numbers, Numbers]], x: str) -> Figure:
    """Return a chart of means with intervals, with a row for each label and a colour for each series.

    Parameters
    ----------
    labels : sequence of str
        The labels of the rows, the first on top.
    series : mapping of str to (sequence, sequence, sequence)
        The means, lower ends and upper ends by the name of the series, each as long as `labels`.
    x : str
        The title of the axis.

    Returns
    -------
    dict
        The figure of plotly.
    """
    data = []
    for number, (name, (means, lows, highs)) in enumerate(series.items()):
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": _finite(means),
                "y": list(labels),
                "marker": {"size": 9, "color": PALETTE[number % len(PALETTE)]},
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": _finite([h - m for h, m in zip(highs, means, strict=True)]),
                    "arrayminus": _finite([m - low for m, low in zip(means, lows, strict=True)]),
                    "thickness": 1.5,
                    "width": 0,
                },
                "hovertemplate": "%{y}, " + name + ": %{x:.3f}<extra></extra>",
            }
        )
    return {
        "data": data,
        "layout": _layout(x, "", yaxis={"autorange": "reversed", "type": "category"}),
    }


def lines(
    series: Mapping[str, tuple[Numbers, Numbers]], x: str, y: str, *, log_x: bool = False, log_y: bool = False
) -> Figure:
    """Return a chart of lines with points.

    Parameters
    ----------
    series : mapping of str to (sequence, sequence)
        The x and y values by the name of the series.
    x, y : str
        The titles of the axes.
    log_x, log_y : bool, default=False
        Whether an axis is logarithmic.

    Returns
    -------
    dict
        The figure of plotly.
    """
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "x": _finite(xs),
            "y": _finite(ys),
            "line": {"color": PALETTE[number % len(PALETTE)], "width": 2},
            "marker": {"size": 6},
            "hovertemplate": name + "<br>%{x:.3g}: %{y:.4g}<extra></extra>",
        }
        for number, (name, (xs, ys)) in enumerate(series.items())
    ]
    axes = {"xaxis": _LOG if log_x else {}, "yaxis": _LOG if log_y else {}}
    return {"data": data, "layout": _layout(x, y, showlegend=True, **axes)}


def scatter(labels: Sequence[str], xs: Numbers, ys: Numbers, x: str, y: str) -> Figure:
    """Return a chart of labelled points with a logarithmic x axis.

    Parameters
    ----------
    labels : sequence of str
        The labels of the points.
    xs, ys : sequence of float
        The positions of the points.
    x, y : str
        The titles of the axes.

    Returns
    -------
    dict
        The figure of plotly.
    """
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "markers+text",
                "x": _finite(xs),
                "y": _finite(ys),
                "text": list(labels),
                "textposition": [_PLACES[rank % 2] for rank in _ranks(xs)],
                "cliponaxis": False,
                "marker": {"size": 9, "color": PALETTE[0]},
                "hovertemplate": "%{text}<br>%{x:.3g}, %{y:.3f}<extra></extra>",
            }
        ],
        "layout": _layout(x, y, xaxis=_LOG, showlegend=False),
    }


def distributions(
    series: Mapping[str, tuple[Numbers, Numbers]], band: tuple[float, float] | None = None
) -> Figure:
    """Return histograms of ratios |Wd| / |d| as filled outlines.

    Parameters
    ----------
    series : mapping of str to (sequence, sequence)
        The middles of the bins and their shares by the name of the series.
    band : tuple of (float, float), optional
        An interval of ratios to mark.

    Returns
    -------
    dict
        The figure of plotly.
    """
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "line": {"shape": "hvh", "width": 1.5, "color": PALETTE[number % len(PALETTE)]},
            "fill": "tozeroy",
            "name": name,
            "x": _finite(middles),
            "y": _finite(shares),
            "hovertemplate": name + "<br>%{x:.3g}: %{y:.3f}<extra></extra>",
        }
        for number, (name, (middles, shares)) in enumerate(series.items())
    ]
    layout = _layout("|Wd| / |d|", "share of pairs", showlegend=True)
    if band is not None and all(map(math.isfinite, band)):
        edge = {
            "type": "line",
            "yref": "paper",
            "y0": 0,
            "y1": 1,
            "line": {"dash": "dot", "color": "#8C8C8C"},
        }
        layout["shapes"] = [{**edge, "x0": at, "x1": at} for at in band]
    return {"data": data, "layout": layout}
