"""What commands show on a terminal and in figures. Pure, except for writing the page of a figure.

`display.NAME` loads its module when it is first used: most load numerical libraries.
"""

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.cli.display import aa as aa
    from app.cli.display import agreement as agreement
    from app.cli.display import evaluate as evaluate
    from app.cli.display import figures as figures
    from app.cli.display import judge as judge
    from app.cli.display import metrics as metrics
    from app.cli.display import power as power
    from app.cli.display import quality as quality
    from app.cli.display import readout as readout
    from app.cli.display import responses as responses
    from app.cli.display import review as review
    from app.cli.display import rollout as rollout
    from app.cli.display import series as series
    from app.cli.display import signals as signals
    from app.cli.display import simulate as simulate
    from app.cli.display import status as status
    from app.cli.display import traffic as traffic


def __getattr__(name: str) -> ModuleType:
    if name not in {module.name for module in iter_modules(__path__)}:
        raise AttributeError(name)
    return import_module(f"{__name__}.{name}")
