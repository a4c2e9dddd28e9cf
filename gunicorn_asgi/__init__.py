"""gunicorn_asgi: the Gunicorn worker class for ASGI applications.

gunicorn -k gunicorn_asgi.Worker app:app
"""

from .worker import Worker

__version__ = "0.1.0"
__all__ = ["Worker", "__version__"]
