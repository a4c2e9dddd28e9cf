"""HTTP/2 (RFC 9113): frames, header blocks, streams and their windows, and the connection that joins them to exchanges."""
