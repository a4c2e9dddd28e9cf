"""The side of the application: scopes, messages and their order. No transport, no parser, no version of HTTP."""
