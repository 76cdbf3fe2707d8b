"""The science, in the paper's order: crops, perturbation, encoder, loss, optimizer, pretraining. Torch only."""
