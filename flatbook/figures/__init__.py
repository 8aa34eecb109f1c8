"""Figures: a data frame in, matplotlib axes (or a plotly figure) out."""
