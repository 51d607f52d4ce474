"""Explanations of any number of pictures: where these come from, and the files that values go to."""
