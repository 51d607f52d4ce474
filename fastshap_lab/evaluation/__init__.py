"""The evaluation of pipelines and methods: metrics, checks, and the sections of the report."""
