"""The side of the application: scopes, and messages in their order.

It knows no transport, no parser and no version of HTTP.
"""
