"""What an evaluation consists of: pipelines, metrics, sections and checks."""
