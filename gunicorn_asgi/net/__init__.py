"""The network: accepting, transports, deadlines, TLS, files, and the PROXY protocol."""
