"""gunicorn_asgi: the Gunicorn worker class for ASGI applications.

gunicorn -k gunicorn_asgi.Worker app:app
"""

from .version import __version__
from .worker import Worker

__all__ = ["Worker", "__version__"]
