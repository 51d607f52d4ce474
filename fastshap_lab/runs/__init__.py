"""Runs: what a configuration asks for, made once and kept in folders."""
