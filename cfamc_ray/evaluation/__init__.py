"""How good an encoder is, and what it cost: linear probe, attacks, cost."""
