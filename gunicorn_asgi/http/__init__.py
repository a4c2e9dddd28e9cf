"""HTTP as such: everything that is the same in HTTP/1.1 and HTTP/2."""
