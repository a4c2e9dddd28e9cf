"""The WebSocket protocol: frames, compression, and negotiation. Pure functions and classes."""
