"""Images as uint8 tensors, and their splits for pretraining, probe, validation and test."""
