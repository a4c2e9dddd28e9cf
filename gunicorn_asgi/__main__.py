"""``python -m gunicorn_asgi ...`` is ``gunicorn ...`` with this package imported first.

So ``--check-config`` checks the worker also where no configuration file imports it.
"""

from gunicorn.app.wsgiapp import run

if __name__ == "__main__":
    run(prog="gunicorn")
