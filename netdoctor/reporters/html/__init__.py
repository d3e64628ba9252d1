"""A run as one HTML page that needs no network: the verdict with its evidence, then every picture of the numbers."""

from netdoctor.reporters.html.page import render
from netdoctor.reporters.html.reporter import Html, saved, write

__all__ = ["Html", "render", "saved", "write"]
