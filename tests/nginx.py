"""An nginx in front of Gunicorn, where one is installed."""

from __future__ import annotations

import shutil
import socket

NGINX = shutil.which("nginx")
NGINX_CONF = """
daemon off; pid {directory}/nginx.pid; error_log {directory}/nginx.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    server {{ listen unix:{directory}/nginx.socket; {location} {below} }}
}}
"""


def is_listening(path: str) -> bool:
    """Whether somebody accepts connections on a unix socket: it is there a moment before."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(path) == 0
