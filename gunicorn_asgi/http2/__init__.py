"""HTTP/2. Most modules are pure; `connection` joins them with the transport and ASGI."""
