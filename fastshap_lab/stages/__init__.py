"""One stage per file, and what they share. The only place, beside data, that knows Lightning."""
