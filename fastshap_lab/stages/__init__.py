"""One stage per file, and the planning of what a command needs."""
