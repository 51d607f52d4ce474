"""Lightning trainings that resume to the bit: modules, trainer, callbacks, optimizers."""
