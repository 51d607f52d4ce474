"""Runs of the stages that a configuration asks for; each is made once, in a folder of its own."""
