"""The audition site: a page that plays clips of several models side by side, from a folder, without a server."""
