"""nearfold folds embedding vectors to fewer dimensions and keeps their nearest neighbours.

The names in `__init__.pyi` are all there is to import. Each is loaded when it is first used, so that
applying an encoder imports numpy and nothing heavier.
"""

import lazy_loader

from nearfold.version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
