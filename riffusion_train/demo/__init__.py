"""The demo: the whole way on this machine, every step a command that works by itself, and a page that shows it."""
