"""HTML pages: one environment for the templates of a method and those that all share."""

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from lightning_interp.drawing.palette import category_color
from lightning_interp.drawing.text import clean


def page_environment(package: str) -> Environment:
    """Templates of a package, and beside them the shared ``page.css``. Names are escaped.

    Args:
        package: Its name, with a folder ``templates``.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("lightning_interp.drawing")]),
        autoescape=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(clean=clean, color=category_color)
    return environment
