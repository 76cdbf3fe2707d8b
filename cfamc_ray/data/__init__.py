"""Images as uint8 tensors, and which of them pretrain, probe, validate and test."""
